//===-- Generate.h - text from a model --------------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_GENERATE_H
#define MOE_RUNTIME_GENERATE_H

#include "moe/Runtime/Executor.h"

#include <functional>

namespace polymoe {

struct GenerateOptions {
  int64_t maxTokens = 64;
  /// 0: always the likeliest token; the lower id wins a tie.
  double temperature = 0;
  /// Sampling takes the fewest likeliest tokens that together have this
  /// probability, after the temperature.
  double topP = 1;
  uint64_t seed = 0;
  /// Each of these ends a sequence (and is its last token).
  std::vector<int32_t> eos = {};
  /// Without, the whole sequence is scored anew for every token: slow, and the
  /// same text. Rows are then filled up to a multiple of `padTo` tokens, for
  /// programs that want that.
  bool cache = true;
  int64_t padTo = 1;
  /// Largest sequence, prompt included, that the executor can take; 0 when
  /// there is no limit.
  int64_t capacity = 0;
};

/// Called with every new token; false ends the generation.
using TokenCallback = std::function<bool(int32_t)>;

/// The tokens that follow `prompt`, without it. Throws Error: an empty prompt,
/// one longer than the capacity, options out of range, logits that are not
/// finite.
std::vector<int32_t> generate(Executor &executor,
                              std::span<const int32_t> prompt,
                              int64_t vocabulary,
                              const GenerateOptions &options,
                              const TokenCallback &onToken = {});

/// The next token by `options`, as number `index` of the sequence. The same
/// logits, seed and index give the same token.
int32_t sampleToken(std::span<const float> logits,
                    const GenerateOptions &options, int64_t index);

} // namespace polymoe

#endif // MOE_RUNTIME_GENERATE_H
