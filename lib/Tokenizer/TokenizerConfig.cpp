//===-- TokenizerConfig.cpp - what tokenizer_config.json adds -------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TokenizerConfig.h"

#include <charconv>
#include <map>

namespace polymoe::tokenizer {

using nlohmann::json;
namespace fs = std::filesystem;

static json readIfThere(const fs::path &file) {
  return fs::exists(file) ? readJsonObject(file) : json::object();
}

/// The entry of "added_tokens" for a token that is written as text or with its
/// properties.
static json entryOf(const JsonReader &token, bool isSpecial) {
  json entry = {{"single_word", false}, {"lstrip", false}, {"rstrip", false}};
  if (token.json().is_object()) {
    entry["content"] = token.text("content");
    for (const char *flag : {"single_word", "lstrip", "rstrip"})
      entry[flag] = token.flag(flag, false);
    isSpecial |= token.flag("special", false);
    entry["normalized"] = token.flag("normalized", !isSpecial);
  } else {
    entry["content"] = token.text();
    entry["normalized"] = !isSpecial;
  }
  entry["special"] = isSpecial;
  return entry;
}

namespace {
struct NamedTokens {
  std::vector<json> all; ///< in the order in which they get their ids
  std::map<std::string, size_t> indexOf;

  /// Adds a token unless one of its spelling is there, which then is special if
  /// this one is.
  void add(json entry) {
    auto [known, isNew] =
        indexOf.emplace(entry["content"].get<std::string>(), all.size());
    if (isNew)
      all.push_back(std::move(entry));
    else if (entry["special"] == true)
      all[known->second]["special"] = true;
  }
};
} // namespace

/// Adds {"7": {"content": ...}, ...}, by their ids.
static void addById(NamedTokens &tokens, const JsonReader &decoder) {
  decoder.expectObject();
  std::map<int64_t, std::string> keys;
  for (const auto &[key, token] : decoder.json().items()) {
    int64_t id = -1;
    auto [end, error] =
        std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0)
      decoder.at(key).fail("expected an id as its key");
    keys[id] = key;
  }
  for (const auto &[id, key] : keys)
    tokens.add(entryOf(decoder.at(key), false));
}

/// Adds {"token": 7, ...}, by their ids.
static void addInOrder(NamedTokens &tokens, const JsonReader &encoder) {
  std::map<int64_t, json> byId;
  for (const auto &[token, id] : encoder.json().items())
    byId[encoder.integer(token)] = token;
  for (const auto &[id, token] : byId)
    tokens.add(entryOf(JsonReader(token, encoder.fileName()), false));
}

/// The tokens that the files in `folder` name, in the order in which they get
/// their ids.
static std::vector<json> namedTokens(const fs::path &folder) {
  NamedTokens tokens;
  json config = readIfThere(folder / "tokenizer_config.json");
  const JsonReader reader(config, (folder / "tokenizer_config.json").string());
  if (reader.isSet("added_tokens_decoder")) {
    addById(tokens, reader.at("added_tokens_decoder"));
  } else {
    config.update(readIfThere(folder / "special_tokens_map.json"));
    const json old = readIfThere(folder / "added_tokens.json");
    addInOrder(tokens,
               JsonReader(old, (folder / "added_tokens.json").string()));
  }
  for (const char *name : {"bos_token", "eos_token", "unk_token", "sep_token",
                           "pad_token", "cls_token", "mask_token"})
    if (reader.isSet(name))
      tokens.add(entryOf(reader.at(name), true));
  for (const char *name : {"additional_special_tokens", "extra_special_tokens"})
    if (reader.has(name) && reader.at(name).json().is_array())
      for (const JsonReader &token : reader.at(name).elements())
        tokens.add(entryOf(token, true));
  return std::move(tokens.all);
}

/// The ids of the model's tokens.
static std::map<std::string, json> vocabularyOf(const json &tokenizer) {
  std::map<std::string, json> ids;
  auto model = tokenizer.find("model");
  if (model == tokenizer.end() || !model->is_object())
    return ids;
  auto vocabulary = model->find("vocab");
  if (vocabulary != model->end() && vocabulary->is_object())
    for (const auto &[token, id] : vocabulary->items())
      ids.emplace(token, id);
  return ids;
}

void applyTokenizerConfig(json &tokenizer, const fs::path &folder) {
  const std::vector<json> named = namedTokens(folder);
  if (!tokenizer.is_object() || named.empty())
    return;
  std::map<std::string, json> ids = vocabularyOf(tokenizer);
  // New tokens are numbered from the end of the vocabulary, whatever id the
  // file says.
  auto next = int64_t(ids.size());
  json &added = tokenizer["added_tokens"];
  if (!added.is_array())
    added = json::array();
  std::map<std::string, size_t> indexOf;
  for (const json &entry : added) {
    if (!entry.is_object() || !entry.contains("content") ||
        !entry["content"].is_string())
      return; // the tokenizer's own reader says what is wrong
    const auto content = entry["content"].get<std::string>();
    next += ids.emplace(content, entry.value("id", json())).second;
    indexOf.emplace(content, size_t(&entry - &added[0]));
  }
  for (json entry : named) {
    const auto content = entry["content"].get<std::string>();
    if (auto known = indexOf.find(content); known != indexOf.end()) {
      // Those of tokenizer.json keep their properties but one.
      if (entry["special"] == true)
        added[known->second]["special"] = true;
      continue;
    }
    auto [known, isNew] = ids.emplace(content, next);
    next += isNew;
    entry["id"] = known->second;
    added.push_back(std::move(entry));
  }
}

} // namespace polymoe::tokenizer
