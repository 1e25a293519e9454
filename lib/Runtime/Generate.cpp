//===-- Generate.cpp - text from a model ----------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Generate.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Memory.h"

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace polymoe;

int32_t polymoe::sampleToken(std::span<const float> logits,
                             const GenerateOptions &options, int64_t index) {
  for (size_t i = 0; i < logits.size(); ++i)
    if (!std::isfinite(logits[i]))
      fail("expected finite logits, but got ", logits[i], " for token ", i);
  const auto best = std::max_element(logits.begin(), logits.end());
  if (options.temperature == 0)
    return int32_t(best - logits.begin());

  // Likeliest first; of equals, the lower id.
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const float left = logits[size_t(a)], right = logits[size_t(b)];
    return left != right ? left > right : a < b;
  });
  std::vector<double> mass(order.size());
  double total = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    mass[i] = std::exp((double(logits[size_t(order[i])]) - double(*best)) /
                       options.temperature);
    total += mass[i];
  }
  double kept = 0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < options.topP * total))
    kept += mass[count++];

  double left =
      uniform(randomBits(mix64(options.seed), uint64_t(index))) * kept;
  for (size_t i = 0; i < count; ++i) {
    left -= mass[i];
    if (left < 0)
      return order[i];
  }
  return order[count - 1]; // rounding may leave a little
}

/// Logits after the last token, by scoring the whole sequence.
static void scoreLast(Executor &executor, const std::vector<int32_t> &tokens,
                      int64_t padTo, std::span<float> logits,
                      std::vector<float> &all) {
  const auto length = int64_t(tokens.size());
  Batch batch;
  batch.rows = 1;
  batch.length = (length + padTo - 1) / padTo * padTo;
  const auto size = size_t(batch.length);
  batch.tokens = tokens;
  batch.tokens.resize(size, 0);
  batch.labels.assign(size, -1);
  batch.languages.assign(size, 0);
  batch.old.assign(size, 0);
  batch.segments.assign(size, 0);
  batch.positions.resize(size);
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  std::vector<float> logprobs(size);
  all.resize(size * logits.size());
  executor.score(batch, logprobs, all);
  std::copy_n(all.begin() + (length - 1) * int64_t(logits.size()),
              logits.size(), logits.begin());
}

std::vector<int32_t> polymoe::generate(Executor &executor,
                                       std::span<const int32_t> prompt,
                                       int64_t vocabulary,
                                       const GenerateOptions &options,
                                       const TokenCallback &onToken) {
  if (prompt.empty())
    fail("prompt: expected at least one token");
  for (int32_t token : prompt)
    if (token < 0 || token >= vocabulary)
      fail("prompt: expected tokens in [0, ", vocabulary, "), but got ", token);
  if (!(options.temperature >= 0) || !(options.topP > 0 && options.topP <= 1))
    fail("expected a temperature of at least 0 and a top-p in (0, 1], but got ",
         options.temperature, " and ", options.topP);
  if (options.maxTokens < 0 || options.padTo < 1)
    fail("expected no negative number of tokens, but got ", options.maxTokens);
  const auto length = int64_t(prompt.size());
  int64_t maxTokens = options.maxTokens;
  if (options.capacity > 0) {
    if (length >= options.capacity)
      fail("prompt: expected fewer than ", options.capacity,
           " tokens, but got ", length);
    maxTokens = std::min(maxTokens, options.capacity - length);
  }
  if (maxTokens == 0)
    return {};

  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  std::vector<float> logits(static_cast<size_t>(vocabulary)), all;
  if (options.cache) {
    executor.beginSequences(1, length + maxTokens);
    executor.extendSequences(prompt, length, logits);
  }
  for (int64_t index = 0;; ++index) {
    if (!options.cache)
      scoreLast(executor, tokens, options.padTo, logits, all);
    const int32_t token = sampleToken(logits, options, index);
    tokens.push_back(token);
    const bool isEnd = std::find(options.eos.begin(), options.eos.end(),
                                 token) != options.eos.end();
    if ((onToken && !onToken(token)) || isEnd || index + 1 == maxTokens)
      break;
    if (options.cache)
      executor.extendSequences(std::span(&token, 1), 1, logits);
  }
  return {tokens.begin() + length, tokens.end()};
}
