//===-- Components.h - the stages around the model --------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// One abstract class per stage of tokenizer.json and one function that makes
// it from there. A Sequence is a stage that runs others.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TOKENIZER_COMPONENTS_H
#define MOE_LIB_TOKENIZER_COMPONENTS_H

#include "Piece.h"
#include "moe/Runtime/Json.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace polymoe::tokenizer {

/// Changes a text, before anything is split.
class Normalizer {
public:
  virtual ~Normalizer() = default;
  virtual void apply(Piece &piece) const = 0;
};

/// Splits text into words, the largest parts that a token can be; it may
/// change them too. Leaves tokens alone.
class PreTokenizer {
public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces &pieces) const = 0;
};

/// Adds special tokens around the ids of a text.
class PostProcessor {
public:
  virtual ~PostProcessor() = default;
  virtual std::vector<int32_t> apply(std::vector<int32_t> ids,
                                     bool addSpecialTokens) const = 0;
};

/// Turns tokens into text: the tokens change, or become fewer, until they are
/// only joined.
class Decoder {
public:
  virtual ~Decoder() = default;
  virtual void apply(std::vector<std::string> &tokens) const = 0;
};

/// A stage that runs others in order.
template <typename Stage, typename Text> struct Sequence : Stage {
  std::vector<std::unique_ptr<Stage>> stages;

  Sequence(const JsonReader &list,
           std::unique_ptr<Stage> (*make)(const JsonReader &)) {
    for (const JsonReader &stage : list.elements())
      stages.push_back(make(stage));
  }
  void apply(Text &text) const override {
    for (const auto &stage : stages)
      stage->apply(text);
  }
};

std::unique_ptr<Normalizer> makeNormalizer(const JsonReader &config);
std::unique_ptr<PreTokenizer> makePreTokenizer(const JsonReader &config);
std::unique_ptr<PostProcessor> makePostProcessor(const JsonReader &config);
std::unique_ptr<Decoder> makeDecoder(const JsonReader &config);

/// Whether the stage is of this type. Fails if it is and has other entries than
/// `keys`.
bool isOfType(const JsonReader &config, const char *type,
              std::initializer_list<const char *> keys = {"type"});
/// The entry "pattern": {"String": ...} or {"Regex": ...}.
Pattern makePattern(const JsonReader &config);
/// A string of one character.
char32_t readCharacter(const JsonReader &config);
/// `text` in GPT-2's alphabet of bytes.
std::string toLetters(std::string_view text);

enum class PrependScheme { Always, First, Never };

/// What pre-tokeniser and decoder of this name have in common.
struct MetaspaceOptions {
  std::string replacement;
  PrependScheme prepend;
  bool split;

  static MetaspaceOptions read(const JsonReader &config);
};

} // namespace polymoe::tokenizer

#endif // MOE_LIB_TOKENIZER_COMPONENTS_H
