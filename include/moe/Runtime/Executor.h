//===-- Executor.h - what runs a model --------------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A model can be trained, score text, and generate text. Each of the three is
// an interface of its own, and a driver asks for the one that it needs.
// Compiled code implements them, and LibTorch does as the second opinion. The
// drivers own everything else: data, schedules, checkpoints.
//
// A device may keep parameters, gradients and optimiser states in memory of its
// own: the interfaces show none of them. Masters and optimiser states come to
// the ParameterStore when a checkpoint is written; gradients never do.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_EXECUTOR_H
#define MOE_RUNTIME_EXECUTOR_H

#include "moe/Runtime/Optimizer.h"
#include "moe/Runtime/Program.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace polymoe {

class ParameterStore;
class Profile;
class ThreadPool;

/// Rows of packed text. Every vector is [rows, length], row-major.
struct Batch {
  int64_t rows = 0;
  int64_t length = 0;
  std::vector<int32_t> tokens;
  /// The token that follows, or -1 where the next-token loss is not taken (the
  /// last position of each row).
  std::vector<int32_t> labels;
  /// Index into the data's list of languages.
  std::vector<int32_t> languages;
  /// 1 where the token's language is of round 0 (known to the base).
  std::vector<int32_t> old;
  /// The group of the token's language, -1 where it has none. Only models that
  /// have groups read it.
  std::vector<int32_t> groups;
  /// Position in the document or row, for rotary embedding.
  std::vector<int32_t> positions;
  /// Tokens attend only to tokens of the same segment of their row.
  std::vector<int32_t> segments;

  /// `groups`, for an executor to read. Throws Error when a token has none.
  const std::vector<int32_t> &knownGroups() const;
};

/// What sums over a micro-batch are multiplied by, so that an optimiser step
/// is normalised by its own counts however it is cut into micro-batches.
/// A count of zero gives a weight of zero.
struct LossWeights {
  double token = 0;      ///< 1 / labels taken in the whole optimiser step
  double oldToken = 0;   ///< 1 / old tokens in the whole optimiser step
  double microBatch = 1; ///< 1 / micro-batches in the optimiser step
  double position = 0;   ///< 1 / tokens in the optimiser step, labels or not
};

/// Named scalars. "loss" is what is differentiated, with all coefficients; the
/// others ("next_token", "balance", "language_prior", "classifier",
/// "router_cross_entropy") are its terms, weighted by LossWeights, before their
/// coefficients.
using Losses = std::map<std::string, double>;

struct StepResult {
  Losses losses; ///< summed over the micro-batches
  /// The norm of all gradients as one vector, before they were clipped.
  double gradientNorm = 0;
};

class Trainee {
public:
  virtual ~Trainee() = default;

  /// Throws Error if it cannot train on such batches, so many in a step: one
  /// that runs a program which is compiled already takes those of its shape.
  virtual void requireBatches(int64_t /*rows*/, int64_t /*length*/,
                              int64_t /*microBatches*/) {}

  /// One optimiser step: sums the gradients of the training objective over the
  /// micro-batches, clips them and updates the parameters. It is one call, so
  /// that a device can run it as one graph and the host waits once. After a
  /// loss or a norm that is not finite the parameters are worth nothing.
  virtual StepResult step(std::span<const Batch> microBatches,
                          const LossWeights &weights, const Update &update) = 0;

  /// Called, where the host waits for every micro-batch, with how many of a
  /// step are done.
  std::function<void(int64_t)> onMicroBatch;

  /// Brings masters and optimiser states to the parameter store.
  virtual void copyToStore() = 0;
  /// Takes them from there; to be called after the store changed.
  virtual void copyFromStore() = 0;
};

class Scorer {
public:
  virtual ~Scorer() = default;

  /// Throws Error if it cannot score such batches, as Trainee does.
  virtual void requireBatches(int64_t /*rows*/, int64_t /*length*/,
                              bool /*logits*/) {}

  /// `logprobs` is [rows, length]: log-probability of labels (0 where the label
  /// is -1). `logits`, [rows, length, vocabulary], may be empty.
  virtual void score(const Batch &batch, std::span<float> logprobs,
                     std::span<float> logits) = 0;
};

/// Tokens that follow in one of the sequences that are being generated.
struct Continuation {
  int64_t sequence = 0;
  std::span<const int32_t> tokens;
  /// How many of them the generator took, at least one.
  int64_t taken = 0;

  /// Throws Error if there are none, or more than fit behind `length` tokens.
  void requireRoom(int64_t length, int64_t capacity) const;
};

class Generator {
public:
  virtual ~Generator() = default;

  /// Makes room for `count` sequences of at most `capacity` tokens each. They
  /// are empty, and have the numbers from 0.
  virtual void beginSequences(int64_t count, int64_t capacity) = 0;

  /// Makes a sequence empty, as its text has ended; another may begin in it.
  virtual void clearSequence(int64_t sequence) = 0;

  /// Takes some tokens of every continuation, each of another sequence: so many
  /// that the others do not wait long. Returns the logits after the last one
  /// that it took, [continuations, vocabulary]. Sequences have any lengths, and
  /// no result depends on another sequence.
  virtual void extendSequences(std::span<Continuation> continuations,
                               std::span<float> logits) = 0;
};

/// What a profile needs to know of whatever launches kernels.
class Profiled {
public:
  virtual ~Profiled() = default;

  /// Where launches are recorded; null (the default) for nowhere.
  virtual void setProfile(Profile *profile) = 0;
  /// The kernels of the program that ran last.
  virtual const std::vector<KernelCost> &kernelCosts() const = 0;
  /// Memory of packed weights, and of the arena that all programs share.
  virtual int64_t packedBytes() const = 0;
  virtual int64_t arenaBytes() const = 0;
};

/// The parts of what runs one model; one object may be several of them. They
/// share its parameters and memory, so one call runs at a time.
struct Executor {
  std::shared_ptr<Trainee> trainee;
  std::shared_ptr<Scorer> scorer;
  std::shared_ptr<Generator> generator;
  /// Null where nobody can look inside.
  std::shared_ptr<Profiled> profiled;
  /// What the numbers depend on beside the inputs: the instruction set.
  std::string variant = {};
};

/// The executor that runs the programs of `source`. Store and pool must outlive
/// it, and it reads the store's memory in place.
Executor makeProgramExecutor(std::unique_ptr<ProgramSource> source,
                             ParameterStore &store, ThreadPool &pool);

} // namespace polymoe

#endif // MOE_RUNTIME_EXECUTOR_H
