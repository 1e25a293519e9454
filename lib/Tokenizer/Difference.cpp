//===-- Difference.cpp - whether two tokenizers give the same ids ---------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Tokenizer/Tokenizer.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/Json.h"

#include <map>
#include <set>

using namespace polymoe;
using nlohmann::json;
namespace fs = std::filesystem;

/// Entries that say what their absence says: nothing.
static bool isDefault(const json &value) {
  return value.is_null() || value == false || value == 0 ||
         (value.is_string() && value.get_ref<const std::string &>().empty());
}

static std::map<std::string, json> idsOf(const json &tokenizer) {
  std::map<std::string, json> ids;
  const json &vocabulary = tokenizer.at("model").at("vocab");
  if (vocabulary.is_object())
    for (const auto &[token, id] : vocabulary.items())
      ids[token] = id;
  else // of a Unigram model: [token, score], numbered as they stand
    for (size_t i = 0; i < vocabulary.size(); ++i)
      ids[vocabulary[i].at(0).get<std::string>()] = i;
  if (tokenizer.contains("added_tokens"))
    for (const json &token : tokenizer["added_tokens"])
      ids[token.at("content").get<std::string>()] = token.at("id");
  return ids;
}

/// Merges in one spelling: files have "a b" or ["a", "b"].
static json mergesOf(const json &tokenizer) {
  json merges = tokenizer.at("model").value("merges", json::array());
  for (json &merge : merges)
    if (merge.is_array() && merge.size() == 2)
      merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  return merges;
}

/// What else the model has, without what later versions write as a default.
static json optionsOf(const json &tokenizer) {
  json options = json::object();
  for (const auto &[key, value] : tokenizer.at("model").items())
    if (key != "vocab" && key != "merges" && !isDefault(value))
      options[key] = value;
  return options;
}

static std::string differenceOf(const json &one, const json &other) {
  const std::map<std::string, json> ids = idsOf(one), otherIds = idsOf(other);
  if (ids != otherIds) {
    std::set<std::string> all, different;
    for (const auto *from : {&ids, &otherIds})
      for (const auto &[token, id] : *from) {
        all.insert(token);
        auto a = ids.find(token), b = otherIds.find(token);
        if (a == ids.end() || b == otherIds.end() || a->second != b->second)
          different.insert(token);
      }
    return concat(different.size(), " of ", all.size(),
                  " tokens have other ids");
  }
  if (mergesOf(one) != mergesOf(other))
    return "the tokens are the same, but not their merges";
  if (optionsOf(one) != optionsOf(other))
    return "the tokens are the same, but not the options of the model";
  // A template puts ids around a text and changes none in it.
  for (const char *part : {"added_tokens", "normalizer", "pre_tokenizer"})
    if (one.value(part, json()) != other.value(part, json()))
      return concat("the tokens are the same, but not the ", part);
  return "";
}

std::string polymoe::tokenizerDifference(const fs::path &one,
                                         const fs::path &other) {
  const std::string text = readText(one), otherText = readText(other);
  if (text == otherText)
    return "";
  const json first = parseJson(text, one.string());
  const json second = parseJson(otherText, other.string());
  try {
    return differenceOf(first, second);
  } catch (const json::exception &error) {
    fail(one, ", ", other, ": expected tokenizers, but ", error.what());
  }
}
