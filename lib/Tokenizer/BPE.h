//===-- BPE.h - byte pair encoding of a word --------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TOKENIZER_BPE_H
#define MOE_LIB_TOKENIZER_BPE_H

#include "moe/Runtime/Json.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace polymoe::tokenizer {

/// Lets a map of strings be searched by string_view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const {
    return std::hash<std::string_view>()(text);
  }
};
template <typename T>
using StringMap =
    std::unordered_map<std::string, T, StringHash, std::equal_to<>>;

class BPE {
public:
  /// Reads the entry "model".
  explicit BPE(const JsonReader &config);

  /// Adds the tokens of `word` to `ids`.
  void encode(std::string_view word, std::vector<int32_t> &ids);

  const StringMap<int32_t> &vocabulary() const { return vocab; }

private:
  struct Merge {
    int32_t rank;
    int32_t result;
  };

  void readVocabulary(const JsonReader &config);
  void readMerges(const JsonReader &config);
  std::vector<int32_t> split(std::string_view word) const;
  void merge(std::vector<int32_t> &symbols) const;
  const Merge *findMerge(int32_t left, int32_t right) const;

  StringMap<int32_t> vocab;
  std::unordered_map<uint64_t, Merge> merges;
  /// The tokens <0x00> to <0xFF>, as far as there are any.
  std::vector<std::optional<int32_t>> byteTokens;
  std::optional<std::string> unknown;
  std::string continuingPrefix;
  std::string endSuffix;
  bool fuseUnknown = false;
  bool byteFallback = false;
  bool ignoreMerges = false;
  std::string file;

  /// Words seen before. Text repeats its words, so this is most of the speed.
  StringMap<std::vector<int32_t>> cache;
};

} // namespace polymoe::tokenizer

#endif // MOE_LIB_TOKENIZER_BPE_H
