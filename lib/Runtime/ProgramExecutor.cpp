//===-- ProgramExecutor.cpp - models run by compiled programs -------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/BoundPrograms.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/HostTrainee.h"
#include "moe/Runtime/Parameters.h"
#include "moe/Runtime/SequencePlaces.h"

#include <algorithm>
#include <cstring>
#include <numeric>

using namespace polymoe;
using Entry = ProgramUse::Entry;
using Kind = Binding::Kind;

static void fillIds(const Binding &binding, void *memory,
                    const std::vector<int32_t> &ids) {
  if (int64_t(ids.size()) != binding.elements())
    fail("expected ", binding.elements(), " numbers of '", binding.name,
         "', but got ", ids.size());
  std::memcpy(memory, ids.data(), ids.size() * sizeof(int32_t));
}

/// What a batch says of its tokens.
static bool fillFromBatch(const Batch &batch, const Binding &binding,
                          void *memory) {
  static const std::map<std::string, std::vector<int32_t> Batch::*> fields = {
      {"tokens", &Batch::tokens},
      {"labels", &Batch::labels},
      {"positions", &Batch::positions},
      {"segments", &Batch::segments},
      {"old", &Batch::old}};
  if (auto field = fields.find(binding.name); field != fields.end())
    fillIds(binding, memory, batch.*field->second);
  else if (binding.name == "groups")
    fillIds(binding, memory, batch.knownGroups());
  else if (binding.name == "slots") // 0, 1, 2, ... in every row
    for (int64_t i = 0, count = binding.elements(); i < count; ++i)
      static_cast<int32_t *>(memory)[i] = int32_t(i % batch.length);
  else
    return false;
  return true;
}

//===----------------------------------------------------------------------===//
// Training and scoring
//===----------------------------------------------------------------------===//

namespace {

class ProgramTrainee : public HostTrainee {
public:
  explicit ProgramTrainee(std::shared_ptr<BoundPrograms> given)
      : HostTrainee(given->store, given->context), programs(std::move(given)) {}

  void requireBatches(int64_t rows, int64_t length,
                      int64_t microBatches) override {
    programs->source->require({Entry::Step, rows, length, false, microBatches});
  }
  Losses accumulateGradients(const Batch &batch, const LossWeights &weights,
                             MicroBatch which) override;

private:
  void parametersChanged() override { programs->packed.parametersChanged(); }

  std::shared_ptr<BoundPrograms> programs;
};

class ProgramScorer : public Scorer {
public:
  explicit ProgramScorer(std::shared_ptr<BoundPrograms> programs)
      : programs(std::move(programs)) {}

  void requireBatches(int64_t rows, int64_t length, bool logits) override {
    programs->source->require({Entry::Score, rows, length, logits});
  }
  void score(const Batch &batch, std::span<float> logprobs,
             std::span<float> logits) override;

private:
  std::shared_ptr<BoundPrograms> programs;
};

} // namespace

Losses ProgramTrainee::accumulateGradients(const Batch &batch,
                                           const LossWeights &weights,
                                           MicroBatch which) {
  BoundProgram &step = programs->bind(
      {Entry::Step, batch.rows, batch.length, false, which.count});
  // Several micro-batches add to gradients in the store's memory, which lie in
  // the order in which the backward completes them.
  std::vector<GradientPlace> places;
  step.forEach(Kind::Gradient, [&](const Binding &binding, void *) {
    places.push_back({binding.name});
  });
  const bool isAdded = !places.empty();
  if (isAdded && which.index == 0)
    store.placeGradients(places);
  static const std::map<std::string, double LossWeights::*> scalars = {
      {"token_weight", &LossWeights::token},
      {"old_weight", &LossWeights::oldToken},
      {"micro_batch_weight", &LossWeights::microBatch},
      {"position_weight", &LossWeights::position}};
  auto provide = [&](const Binding &binding, void *memory) {
    auto scalar = scalars.find(binding.name);
    if (scalar == scalars.end())
      return fillFromBatch(batch, binding, memory);
    convert(DType::F64, &(weights.*scalar->second), binding.dtype, memory, 1);
    return true;
  };
  programs->run(step, provide);
  // One micro-batch leaves them in the arena, where its plan has put them.
  step.forEach(Kind::StepGradient, [&](const Binding &binding, void *memory) {
    places.push_back({binding.name, memory});
  });
  if (!isAdded)
    store.placeGradients(places);
  Losses losses;
  step.forEach(Kind::Output, [&](const Binding &binding, void *memory) {
    convert(binding.dtype, memory, DType::F64, &losses[binding.name], 1);
  });
  return losses;
}

void ProgramScorer::score(const Batch &batch, std::span<float> logprobs,
                          std::span<float> logits) {
  BoundProgram &scoring =
      programs->bind({Entry::Score, batch.rows, batch.length, !logits.empty()});
  programs->run(scoring, [&](const Binding &binding, void *memory) {
    return fillFromBatch(batch, binding, memory);
  });
  scoring.read("logprobs", logprobs);
  if (!logits.empty())
    scoring.read("logits", logits);
}

//===----------------------------------------------------------------------===//
// Generation
//===----------------------------------------------------------------------===//

/// Tokens of a prompt that are fed at a time, longest first: each is a program,
/// for prompts that are long enough. Shorter ones go token by token, together.
static constexpr int64_t prefill[] = {512, 256, 32};

namespace {

class ProgramGenerator : public Generator {
public:
  explicit ProgramGenerator(std::shared_ptr<BoundPrograms> programs)
      : programs(std::move(programs)) {}

  void beginSequences(int64_t count, int64_t capacity) override {
    programs->source->require({.entry = Entry::Extend,
                               .rows = count,
                               .length = 1,
                               .capacity = capacity});
    places.begin(count, capacity);
  }
  void clearSequence(int64_t sequence) override { places.clear(sequence); }
  void extendSequences(std::span<Continuation> continuations,
                       std::span<float> logits) override;

private:
  /// Tokens [rows, count] for the places from `first` on, and the slots of
  /// their caches.
  struct Feed {
    int64_t first, rows, count;
    std::vector<int32_t> tokens, slots;
  };
  /// Returns the logits of `rows`.
  void run(const Feed &feed, std::span<float> logits);
  int64_t feedPieces(const Continuation &continuation, std::span<float> logits);

  std::shared_ptr<BoundPrograms> programs;
  SequencePlaces places;
};

} // namespace

void ProgramGenerator::extendSequences(std::span<Continuation> continuations,
                                       std::span<float> logits) {
  if (continuations.empty())
    return;
  const size_t vocabulary = logits.size() / continuations.size();
  auto logitsOf = [&](size_t i) {
    return logits.subspan(i * vocabulary, vocabulary);
  };
  // Those that go on by one token, in one step.
  std::vector<size_t> stepping;
  for (size_t i = 0; i < continuations.size(); ++i) {
    Continuation &continuation = continuations[i];
    continuation.requireRoom(places.length(continuation.sequence),
                             places.capacity());
    places.placeOf(continuation.sequence);
    continuation.taken = feedPieces(continuation, logitsOf(i));
    if (continuation.taken == 0)
      stepping.push_back(i);
  }
  if (stepping.empty())
    return;

  const int64_t rows = places.rowsOfStep();
  Feed step{0, rows, 1, std::vector<int32_t>(size_t(rows)),
            places.nextSlots(rows)};
  auto placeOf = [&](size_t i) {
    return size_t(places.placeOf(continuations[i].sequence));
  };
  for (size_t i : stepping)
    step.tokens[placeOf(i)] = continuations[i].tokens[0];
  std::vector<float> all(size_t(rows) * vocabulary);
  run(step, all);
  for (size_t i : stepping) {
    std::copy_n(all.data() + placeOf(i) * vocabulary, vocabulary,
                logitsOf(i).begin());
    ++places.length(continuations[i].sequence);
    continuations[i].taken = 1;
  }
}

/// Feeds a text in pieces of few sizes, where it is long enough for the
/// smallest: few programs serve every length, and the results are the same bits
/// as token by token. Returns how many tokens it fed, all or none.
int64_t ProgramGenerator::feedPieces(const Continuation &continuation,
                                     std::span<float> logits) {
  int64_t &length = places.length(continuation.sequence);
  const auto count = int64_t(continuation.tokens.size());
  const int64_t smallest = *std::rbegin(prefill);
  if (count < smallest)
    return 0;
  for (int64_t done = 0; done < count;) {
    const int64_t *fits =
        std::find_if(std::begin(prefill), std::end(prefill),
                     [&](int64_t size) { return size <= count - done; });
    // The last piece begins with tokens that were fed already, and puts the
    // same into their slots.
    const int64_t piece = fits == std::end(prefill) ? smallest : *fits;
    const int64_t first = std::min(done, count - piece);
    auto tokens = continuation.tokens.subspan(size_t(first), size_t(piece));
    Feed one{places.placeOf(continuation.sequence), 1, piece,
             std::vector(tokens.begin(), tokens.end()),
             std::vector<int32_t>(size_t(piece))};
    std::iota(one.slots.begin(), one.slots.end(), int32_t(length + first));
    run(one, logits);
    done = first + piece;
  }
  length += count;
  return count;
}

void ProgramGenerator::run(const Feed &feed, std::span<float> logits) {
  BoundProgram &extend = programs->bind({.entry = Entry::Extend,
                                         .rows = feed.rows,
                                         .length = feed.count,
                                         .capacity = places.capacity()});
  programs->run(extend, [&](const Binding &binding, void *&memory) {
    if (binding.kind == Kind::State)
      memory = places.memoryOf(binding, feed.first);
    else if (binding.name == "tokens")
      fillIds(binding, memory, feed.tokens);
    else if (binding.name == "slots" || binding.name == "positions")
      fillIds(binding, memory, feed.slots);
    else if (binding.name == "segments")
      std::memset(memory, 0, size_t(binding.bytes()));
    else
      return false;
    return true;
  });
  extend.read("logits", logits);
}

Executor polymoe::makeProgramExecutor(std::unique_ptr<ProgramSource> source,
                                      ParameterStore &store, ThreadPool &pool) {
  auto programs =
      std::make_shared<BoundPrograms>(std::move(source), store, pool);
  return {std::make_shared<ProgramTrainee>(programs),
          std::make_shared<ProgramScorer>(programs),
          std::make_shared<ProgramGenerator>(programs), programs};
}
