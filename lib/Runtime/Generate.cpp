//===-- Generate.cpp - texts from a model ---------------------------------===//
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

const char *polymoe::nameOf(TextEnd end) {
  constexpr const char *names[] = {"eos", "max-tokens", "context", "stopped"};
  return names[size_t(end)];
}

int32_t polymoe::sampleToken(std::span<const float> logits,
                             const GenerateOptions &options, uint64_t seed,
                             int64_t index) {
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

  double left = uniform(randomBits(mix64(seed), uint64_t(index))) * kept;
  for (size_t i = 0; i < count; ++i) {
    left -= mass[i];
    if (left < 0)
      return order[i];
  }
  return order[count - 1]; // rounding may leave a little
}

//===----------------------------------------------------------------------===//
// Without a cache
//===----------------------------------------------------------------------===//

void Continuation::requireRoom(int64_t length, int64_t capacity) const {
  const auto count = int64_t(tokens.size());
  if (count < 1 || length + count > capacity)
    fail("expected from 1 to ", capacity - length,
         " further tokens of a sequence, but got ", count);
}

void RescoringGenerator::beginSequences(int64_t count, int64_t newCapacity) {
  sequences.assign(size_t(count), {});
  capacity = newCapacity;
}

void RescoringGenerator::clearSequence(int64_t sequence) {
  sequences[size_t(sequence)].clear();
}

void RescoringGenerator::extendSequences(std::span<Continuation> continuations,
                                         std::span<float> logits) {
  for (size_t i = 0; i < continuations.size(); ++i) {
    Continuation &continuation = continuations[i];
    std::vector<int32_t> &tokens = sequences[size_t(continuation.sequence)];
    continuation.requireRoom(int64_t(tokens.size()), capacity);
    tokens.insert(tokens.end(), continuation.tokens.begin(),
                  continuation.tokens.end());
    continuation.taken = int64_t(continuation.tokens.size());
    const size_t vocabulary = logits.size() / continuations.size();
    scoreLast(tokens, logits.subspan(i * vocabulary, vocabulary));
  }
}

/// Logits after the last token.
void RescoringGenerator::scoreLast(const std::vector<int32_t> &tokens,
                                   std::span<float> logits) {
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
  scorer.score(batch, logprobs, all);
  std::copy_n(all.begin() + (length - 1) * int64_t(logits.size()),
              logits.size(), logits.begin());
}

//===----------------------------------------------------------------------===//
// Texts that grow
//===----------------------------------------------------------------------===//

static void check(std::span<const Prompt> prompts, int64_t vocabulary,
                  const GenerateOptions &options) {
  if (!(options.temperature >= 0) || !(options.topP > 0 && options.topP <= 1))
    fail("expected a temperature of at least 0 and a top-p in (0, 1], but got ",
         options.temperature, " and ", options.topP);
  if (options.maxTokens < 0 || options.batch < 1)
    fail("expected no negative number of tokens and a batch of at least 1, but "
         "got ",
         options.maxTokens, " and ", options.batch);
  for (const Prompt &prompt : prompts) {
    if (prompt.tokens.empty())
      fail(prompt.name, ": expected at least one token to continue");
    for (int32_t token : prompt.tokens)
      if (token < 0 || token >= vocabulary)
        fail(prompt.name, ": expected tokens in [0, ", vocabulary,
             "), but got ", token);
    const auto length = int64_t(prompt.tokens.size());
    if (options.context > 0 && length >= options.context)
      fail(prompt.name, ": expected fewer than ", options.context,
           " tokens, the context of the model, but got ", length);
  }
}

namespace {

/// A text that grows.
struct Growing {
  size_t prompt;    ///< its number
  int64_t sequence; ///< that of the generator
  int64_t limit;    ///< new tokens at most
  /// The prompt and what follows, and how many of them were fed.
  std::vector<int32_t> tokens;
  int64_t fed = 0;

  std::span<const int32_t> unfed() const {
    return std::span(tokens).subspan(size_t(fed));
  }
};

class Generation {
public:
  Generation(Generator &generator, std::span<const Prompt> prompts,
             int64_t vocabulary, const GenerateOptions &options,
             const GenerateCallbacks &callbacks)
      : generator(generator), prompts(prompts), vocabulary(vocabulary),
        options(options), callbacks(callbacks), texts(prompts.size()) {}

  std::vector<GeneratedText> run() {
    begin();
    while (grow())
      step();
    return std::move(texts);
  }

private:
  int64_t limitOf(const Prompt &prompt) const {
    const auto length = int64_t(prompt.tokens.size());
    return options.context > 0
               ? std::min(options.maxTokens, options.context - length)
               : options.maxTokens;
  }
  void begin();
  bool grow();
  void step();
  void feed();
  bool takeToken(Growing &text, std::span<const float> logits);
  void end(const Growing &text, TextEnd reason);

  Generator &generator;
  std::span<const Prompt> prompts;
  int64_t vocabulary;
  const GenerateOptions &options;
  const GenerateCallbacks &callbacks;
  std::vector<GeneratedText> texts;

  size_t next = 0; ///< the first prompt that has not begun
  std::vector<Growing> growing;
  std::vector<int64_t> freeSequences;
  /// Of the growing ones, after the last token that was fed.
  std::vector<float> logits;
};

} // namespace

void Generation::begin() {
  const auto count =
      std::min(options.batch, static_cast<int64_t>(prompts.size()));
  int64_t capacity = 0;
  for (const Prompt &prompt : prompts)
    capacity =
        std::max(capacity, int64_t(prompt.tokens.size()) + limitOf(prompt));
  for (int64_t sequence = count; sequence-- > 0;)
    freeSequences.push_back(sequence);
  if (count > 0)
    generator.beginSequences(count, capacity);
}

/// Lets as many texts grow as there is room for. False if none is left.
bool Generation::grow() {
  for (; next < prompts.size() && !freeSequences.empty(); ++next) {
    Growing text{next, freeSequences.back(), limitOf(prompts[next]),
                 prompts[next].tokens};
    if (text.limit == 0) {
      end(text, TextEnd::MaxTokens);
      continue;
    }
    freeSequences.pop_back();
    growing.push_back(std::move(text));
  }
  return !growing.empty();
}

/// Feeds tokens of every text: some of its prompt, or the one drawn last.
void Generation::feed() {
  logits.resize(growing.size() * size_t(vocabulary));
  std::vector<Continuation> continuations;
  continuations.reserve(growing.size());
  for (const Growing &text : growing)
    continuations.push_back({text.sequence, text.unfed()});
  generator.extendSequences(continuations, logits);
  for (size_t i = 0; i < growing.size(); ++i)
    growing[i].fed += continuations[i].taken;
}

/// Feeds and draws one token for each text whose prompt is through.
void Generation::step() {
  feed();
  const auto size = size_t(vocabulary);
  std::vector<Growing> going;
  for (size_t i = 0; i < growing.size(); ++i) {
    Growing &text = growing[i];
    if (!text.unfed().empty() ||
        takeToken(text, std::span(logits).subspan(i * size, size))) {
      going.push_back(std::move(text));
      continue;
    }
    freeSequences.push_back(text.sequence);
    generator.clearSequence(text.sequence);
  }
  growing = std::move(going);
}

/// Draws a token. False if it ended the text.
bool Generation::takeToken(Growing &text, std::span<const float> logits) {
  std::vector<int32_t> &drawn = texts[text.prompt].tokens;
  const int32_t token = sampleToken(logits, options, options.seed + text.prompt,
                                    static_cast<int64_t>(drawn.size()));
  drawn.push_back(token);
  text.tokens.push_back(token);
  const bool goesOn =
      !callbacks.onToken || callbacks.onToken(text.prompt, token);
  if (std::find(options.eos.begin(), options.eos.end(), token) !=
      options.eos.end())
    end(text, TextEnd::Eos);
  else if (!goesOn)
    end(text, TextEnd::Stopped);
  else if (int64_t(drawn.size()) == text.limit)
    end(text,
        text.limit < options.maxTokens ? TextEnd::Context : TextEnd::MaxTokens);
  else
    return true;
  return false;
}

void Generation::end(const Growing &text, TextEnd reason) {
  texts[text.prompt].end = reason;
  if (callbacks.onEnd)
    callbacks.onEnd(text.prompt, texts[text.prompt]);
}

std::vector<GeneratedText>
polymoe::generate(Generator &generator, std::span<const Prompt> prompts,
                  int64_t vocabulary, const GenerateOptions &options,
                  const GenerateCallbacks &callbacks) {
  check(prompts, vocabulary, options);
  return Generation(generator, prompts, vocabulary, options, callbacks).run();
}
