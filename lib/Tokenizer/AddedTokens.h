//===-- AddedTokens.h - tokens found before the model runs ------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TOKENIZER_ADDEDTOKENS_H
#define MOE_LIB_TOKENIZER_ADDEDTOKENS_H

#include "BPE.h"
#include "Components.h"

#include <array>
#include <unordered_map>

namespace polymoe::tokenizer {

struct AddedToken {
  std::string content;
  bool singleWord;
  bool leftStrip;
  bool rightStrip;
  bool normalized;
  bool special;
};

/// Strings with values; finds the longest one that begins at a position.
class Trie {
public:
  Trie() : nodes(1) {}

  /// Whether `key` is new; it must not be empty.
  bool insert(std::string_view key, int32_t value);
  bool empty() const { return nodes.size() == 1; }

  struct Found {
    size_t length = 0;
    int32_t value = -1;
  };
  /// A length of 0 if there is none.
  Found longestAt(std::string_view text, size_t at) const;

private:
  struct Node {
    int32_t value = -1;
    std::vector<std::pair<char, uint32_t>> children;
  };
  const uint32_t *child(uint32_t node, char byte) const;

  std::vector<Node> nodes;
  /// Most positions fail on their first byte: this says so at once.
  std::array<bool, 256> begins{};
};

class AddedTokens {
public:
  /// Reads the entry "added_tokens". `normalizer` may be null.
  AddedTokens(const JsonReader &config, const StringMap<int32_t> &vocabulary,
              const Normalizer *normalizer);
  AddedTokens() = default;

  /// Cuts the added tokens out of `text` and normalises what is between.
  Pieces split(std::string_view text, const Normalizer *normalizer) const;

  std::optional<int32_t> idOf(std::string_view token) const;
  /// The token as decoders expect it.
  const std::string *tokenOf(int32_t id) const;
  /// Whether decoding skips a token of this spelling on request.
  bool isSpecial(std::string_view token) const {
    return specials.contains(token);
  }
  const StringMap<int32_t> &all() const { return ids; }

private:
  void cut(Pieces &parts, const Piece &piece, const Trie &trie) const;

  StringMap<int32_t> ids;
  std::unordered_map<int32_t, AddedToken> tokens;
  /// The spelling in normalised text of those that are looked for there.
  std::unordered_map<int32_t, std::string> normalizedContents;
  StringMap<bool> specials;
  Trie raw;
  Trie normalized;
};

} // namespace polymoe::tokenizer

#endif // MOE_LIB_TOKENIZER_ADDEDTOKENS_H
