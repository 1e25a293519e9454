//===-- Trainer.h - the loop of optimiser steps -----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// One loop for every method and stage: what a stage is lies in the program
// (losses, what trains) and in the data.
//
// An optimiser step takes `accumulate` batches of `rows` rows, whose gradients
// are normalised over the whole step by LossWeights. All that the next step
// depends on is in a checkpoint, so a run that is stopped anywhere and resumed
// ends with the same bits.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_TRAINER_H
#define MOE_RUNTIME_TRAINER_H

#include "moe/Runtime/Data.h"
#include "moe/Runtime/Executor.h"
#include "moe/Runtime/RunFolder.h"

#include <functional>

namespace polymoe {

class Progress;

struct TrainerOptions {
  int64_t steps = 0;      ///< optimiser steps of this phase
  int64_t rows = 8;       ///< in a micro-batch
  int64_t accumulate = 1; ///< micro-batches in a step
  double clip = 1.0;      ///< largest norm of all gradients; 0 for none
  AdamWOptions adam;
  Schedule schedule;         ///< its `steps` is set to those above
  int64_t saveEvery = 0;     ///< steps between checkpoints; 0: at the end only
  int64_t keep = 2;          ///< checkpoints of this phase that stay
  int64_t validateEvery = 0; ///< steps between validations; 0 for none
  int64_t phase = 0;         ///< 0 for the first of a run folder
  uint64_t seed = 0;         ///< noted in checkpoints
  std::string variant;       ///< instruction set; noted in checkpoints
  bool resume = false;
};

/// What happens around the loop; each may be empty.
struct TrainerHooks {
  /// A checkpoint is complete, the older ones are still there.
  std::function<void(const CheckpointInfo &)> checkpointSaved;
  /// Figures of the model as it is, by name ("valid/el").
  std::function<std::map<std::string, double>()> validate;
  std::function<void(const std::string &)> warn;
  Progress *progress = nullptr;
};

struct TrainResult {
  enum class Status {
    Finished,   ///< all steps are done, and saved
    Interrupted ///< SIGINT or SIGTERM; what is done is saved
  };
  Status status = Status::Finished;
  int64_t step = 0;      ///< of all phases
  int64_t phaseStep = 0; ///< of this one
  /// The losses of the last step done here.
  Losses losses;
  /// The last checkpoint.
  std::filesystem::path checkpoint;
};

class Trainer {
public:
  Trainer(Trainee &trainee, ParameterStore &store, BatchSource &source,
          RunFolder &folder, TrainerOptions options, TrainerHooks hooks = {});

  /// Trains to the end of the phase, or until a signal asks to stop; with
  /// `resume`, from the newest checkpoint of this phase, if there is one. With
  /// no steps it saves the initial state. Throws Error: a phase that is begun
  /// already (without `resume`) or already left, too few rows, a loss or
  /// gradient that is not finite, a disk that is full.
  TrainResult run();

private:
  void begin();
  void stepOnce();
  void record(double norm, double rate, double seconds);
  void validate();
  void save(bool finished);

  Trainee &trainee;
  ParameterStore &store;
  BatchSource &source;
  RunFolder &folder;
  TrainerOptions options;
  TrainerHooks hooks;
  CheckpointState state;
  Losses losses;
  std::filesystem::path lastCheckpoint;
  int64_t savedStep = -1;
  int64_t tokensAtStart = 0;
  std::unique_ptr<class EventFile> events;
};

/// While one lives, SIGINT and SIGTERM only raise a flag; a second one acts as
/// usual.
class InterruptGuard {
public:
  InterruptGuard();
  InterruptGuard(const InterruptGuard &) = delete;
  ~InterruptGuard();
  static bool requested();

private:
  struct Saved;
  std::unique_ptr<Saved> saved;
};

/// The weights that normalise an optimiser step made of these batches.
LossWeights lossWeightsOf(const std::vector<Batch> &batches);

} // namespace polymoe

#endif // MOE_RUNTIME_TRAINER_H
