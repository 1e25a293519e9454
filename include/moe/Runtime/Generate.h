//===-- Generate.h - texts from a model --------------------------*- C++
//-*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_GENERATE_H
#define MOE_RUNTIME_GENERATE_H

#include "moe/Runtime/Executor.h"

#include <functional>
#include <string>

namespace polymoe {

/// What a text begins with.
struct Prompt {
  /// What errors call it: "--prompt", "prompts.jsonl:3".
  std::string name;
  std::vector<int32_t> tokens;
};

/// Why a text ended.
enum class TextEnd {
  Eos,       ///< the model ended it
  MaxTokens, ///< as many tokens as were asked for
  Context,   ///< the model takes no longer sequence
  Stopped    ///< the callback ended it
};
/// "eos", "max-tokens", "context", "stopped".
const char *nameOf(TextEnd end);

struct GeneratedText {
  /// Without the prompt.
  std::vector<int32_t> tokens;
  TextEnd end = TextEnd::MaxTokens;
};

struct GenerateOptions {
  /// New tokens of a text, at most.
  int64_t maxTokens = 64;
  /// 0: always the likeliest token; the lower id wins a tie.
  double temperature = 0;
  /// Sampling takes the fewest likeliest tokens that together have this
  /// probability, after the temperature.
  double topP = 1;
  /// Prompt i, counted from 0, draws with seed + i, so that the same prompt
  /// given twice makes two texts.
  uint64_t seed = 0;
  /// Each of these ends a sequence (and is its last token).
  std::vector<int32_t> eos = {};
  /// Largest sequence, prompt included, that the model takes; 0 when there is
  /// no limit.
  int64_t context = 0;
  /// Texts that grow at the same time. When one ends, the next one begins.
  int64_t batch = 8;
};

/// Both are told the number of the prompt; either may be empty.
struct GenerateCallbacks {
  /// Called with every new token; false ends the text.
  std::function<bool(size_t, int32_t)> onToken = {};
  /// Called when a text has ended, in the order in which they end.
  std::function<void(size_t, const GeneratedText &)> onEnd = {};
};

/// The texts that follow the prompts, in their order. Each is the one that its
/// prompt and seed make alone. Throws Error, naming the prompt where it is
/// about one: an empty prompt, one that fills the context, tokens that the
/// vocabulary does not have, options out of range, logits that are not finite.
std::vector<GeneratedText> generate(Generator &generator,
                                    std::span<const Prompt> prompts,
                                    int64_t vocabulary,
                                    const GenerateOptions &options,
                                    const GenerateCallbacks &callbacks = {});

/// The next token by temperature and top-p, as number `index` of its text. The
/// same logits, seed and index give the same token.
int32_t sampleToken(std::span<const float> logits,
                    const GenerateOptions &options, uint64_t seed,
                    int64_t index);

/// Keeps no cache: scores a whole sequence anew for every token. Slow, and the
/// same text. Rows are filled up to a multiple of `padTo` tokens, for programs
/// that are compiled for few lengths.
class RescoringGenerator : public Generator {
public:
  /// The scorer must outlive it.
  explicit RescoringGenerator(Scorer &scorer, int64_t padTo = 1)
      : scorer(scorer), padTo(padTo) {}

  void beginSequences(int64_t count, int64_t capacity) override;
  void clearSequence(int64_t sequence) override;
  void extendSequences(std::span<Continuation> continuations,
                       std::span<float> logits) override;

private:
  void scoreLast(const std::vector<int32_t> &tokens, std::span<float> logits);

  Scorer &scorer;
  int64_t padTo, capacity = 0;
  std::vector<std::vector<int32_t>> sequences;
  std::vector<float> all; ///< the logits of a sequence
};

} // namespace polymoe

#endif // MOE_RUNTIME_GENERATE_H
