//===-- BPE.cpp - byte pair encoding of a word ----------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "BPE.h"

#include "Unicode.h"

#include "moe/Runtime/Error.h"

#include <cstdio>
#include <queue>

namespace polymoe::tokenizer {

/// Bounds on the cache: a text without spaces is one word of any length.
static constexpr size_t maxCachedWords = 100000;
static constexpr size_t maxCachedBytes = 256;

static uint64_t pairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 |
         static_cast<uint32_t>(right);
}

static std::string optionalText(const JsonReader &config,
                                const std::string &key) {
  return config.isSet(key) ? config.text(key) : std::string();
}

BPE::BPE(const JsonReader &config) : file(config.fileName()) {
  // Old files leave the type out.
  if (config.has("type") && config.text("type") != "BPE")
    config.fail("model '" + config.text("type") +
                "' is not supported, only BPE is");
  config.allow({"type", "dropout", "unk_token", "continuing_subword_prefix",
                "end_of_word_suffix", "fuse_unk", "byte_fallback",
                "ignore_merges", "vocab", "merges"});
  if (config.isSet("dropout") && config.at("dropout").json() != 0.0)
    config.at("dropout").fail("dropout is not supported, expected null");
  if (config.isSet("unk_token"))
    unknown = config.text("unk_token");
  continuingPrefix = optionalText(config, "continuing_subword_prefix");
  endSuffix = optionalText(config, "end_of_word_suffix");
  fuseUnknown = config.flag("fuse_unk", false);
  byteFallback = config.flag("byte_fallback", false);
  ignoreMerges = config.flag("ignore_merges", false);
  readVocabulary(config.at("vocab"));
  readMerges(config.at("merges"));

  byteTokens.resize(256);
  for (unsigned byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    if (auto found = vocab.find(name); found != vocab.end())
      byteTokens[byte] = found->second;
  }
}

void BPE::readVocabulary(const JsonReader &config) {
  config.expectObject();
  vocab.reserve(config.json().size());
  std::unordered_map<int32_t, const std::string *> tokens;
  tokens.reserve(config.json().size());
  for (const auto &[token, number] : config.json().items()) {
    int32_t id = config.at(token).integer<int32_t>();
    auto added = vocab.emplace(token, id).first;
    auto [other, isNew] = tokens.emplace(id, &added->first);
    if (!isNew)
      config.fail("tokens '" + *other->second + "' and '" + token +
                  "' have the same id " + std::to_string(id));
  }
}

void BPE::readMerges(const JsonReader &config) {
  const nlohmann::json &list = config.json();
  if (!list.is_array())
    config.expected("a list");
  merges.reserve(list.size());
  int32_t rank = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    auto fail = [&](const std::string &message) {
      config.fail("merge " + std::to_string(i) + ": " + message);
    };
    // Two spellings: "a b" of old, and ["a", "b"], in which tokens may have
    // spaces.
    std::string left;
    std::string right;
    if (list[i].is_string()) {
      const auto &text = list[i].get_ref<const std::string &>();
      if (text.starts_with("#version"))
        continue;
      size_t space = text.find(' ');
      if (space == std::string::npos ||
          text.find(' ', space + 1) != std::string::npos)
        fail("expected two tokens with a space between, but got '" + text +
             "'");
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (list[i].is_array() && list[i].size() == 2 &&
               list[i][0].is_string() && list[i][1].is_string()) {
      left = list[i][0].get<std::string>();
      right = list[i][1].get<std::string>();
    } else {
      fail("expected a string or two, but got " + list[i].dump());
    }

    auto idOf = [&](const std::string &token) {
      auto found = vocab.find(token);
      if (found == vocab.end())
        fail("token '" + token + "' is not in the vocabulary");
      return found->second;
    };
    if (right.size() < continuingPrefix.size())
      fail("token '" + right + "' is shorter than continuing_subword_prefix");
    int32_t leftId = idOf(left);
    int32_t rightId = idOf(right);
    int32_t result = idOf(left + right.substr(continuingPrefix.size()));
    // A pair that comes twice counts where it comes last.
    merges.insert_or_assign(pairKey(leftId, rightId), Merge{rank++, result});
  }
}

const BPE::Merge *BPE::findMerge(int32_t left, int32_t right) const {
  auto found = merges.find(pairKey(left, right));
  return found == merges.end() ? nullptr : &found->second;
}

std::vector<int32_t> BPE::split(std::string_view word) const {
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  // An unknown character waits until one is known, so that several can become
  // one token. Bytes do not end the wait: that is how the ids come out that
  // models were trained on.
  bool waits = false;
  int32_t unknownId = 0;
  auto flush = [&] {
    if (waits)
      symbols.push_back(unknownId);
    waits = false;
  };

  std::string symbol;
  for (size_t at = 0; at < word.size();) {
    size_t length = characterLength(word[at]);
    symbol = at == 0 ? "" : continuingPrefix;
    symbol += word.substr(at, length);
    at += length;
    if (at == word.size())
      symbol += endSuffix;

    if (auto found = vocab.find(symbol); found != vocab.end()) {
      flush();
      symbols.push_back(found->second);
      continue;
    }
    if (byteFallback) {
      size_t before = symbols.size();
      for (char byte : symbol)
        if (auto id = byteTokens[static_cast<unsigned char>(byte)])
          symbols.push_back(*id);
      if (symbols.size() - before == symbol.size())
        continue;
      symbols.resize(before);
    }
    // Without a token for it an unknown character is left out.
    if (!unknown)
      continue;
    auto found = vocab.find(*unknown);
    if (found == vocab.end())
      throw Error(file + ": model: unk_token '" + *unknown +
                  "' is not in the vocabulary, but '" + symbol + "' needs it");
    if (!fuseUnknown)
      flush();
    waits = true;
    unknownId = found->second;
  }
  flush();
  return symbols;
}

void BPE::merge(std::vector<int32_t> &symbols) const {
  struct Candidate {
    int32_t rank;
    int32_t position;
    int32_t result;

    bool operator>(const Candidate &other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  // A doubly linked list over the symbols; the right one of a merged pair is
  // taken out of it.
  auto size = static_cast<int32_t>(symbols.size());
  std::vector<int32_t> previous(symbols.size());
  std::vector<int32_t> next(symbols.size());
  std::vector<bool> gone(symbols.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;

  auto consider = [&](int32_t position) {
    if (position < 0 || next[position] >= size)
      return;
    if (const Merge *merge =
            findMerge(symbols[position], symbols[next[position]]))
      queue.push({merge->rank, position, merge->result});
  };
  for (int32_t i = 0; i < size; ++i) {
    previous[i] = i - 1;
    next[i] = i + 1;
  }
  for (int32_t i = 0; i < size; ++i)
    consider(i);

  while (!queue.empty()) {
    Candidate best = queue.top();
    queue.pop();
    int32_t left = best.position;
    if (gone[left] || next[left] >= size)
      continue;
    // The pair may have changed since it was considered.
    int32_t right = next[left];
    const Merge *merge = findMerge(symbols[left], symbols[right]);
    if (!merge || merge->result != best.result)
      continue;
    symbols[left] = best.result;
    gone[right] = true;
    next[left] = next[right];
    if (next[right] < size)
      previous[next[right]] = left;
    consider(previous[left]);
    consider(left);
  }

  size_t kept = 0;
  for (int32_t i = 0; i < size; i = next[i])
    symbols[kept++] = symbols[i];
  symbols.resize(kept);
}

void BPE::encode(std::string_view word, std::vector<int32_t> &ids) {
  if (word.empty())
    return;
  if (ignoreMerges)
    if (auto found = vocab.find(word); found != vocab.end()) {
      ids.push_back(found->second);
      return;
    }
  if (auto found = cache.find(word); found != cache.end()) {
    ids.insert(ids.end(), found->second.begin(), found->second.end());
    return;
  }
  std::vector<int32_t> symbols = split(word);
  merge(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
  if (word.size() <= maxCachedBytes && cache.size() < maxCachedWords)
    cache.emplace(word, std::move(symbols));
}

} // namespace polymoe::tokenizer
