//===-- TrainOptions.h - the options of moe-run train -----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TOOLS_MOE_RUN_TRAINOPTIONS_H
#define MOE_TOOLS_MOE_RUN_TRAINOPTIONS_H

#include "Model.h"

#include "moe/Runtime/Data.h"
#include "moe/Runtime/Trainer.h"

#include <nlohmann/json.hpp>

#include <functional>
#include <string>
#include <vector>

namespace polymoe {

/// A training stage: nothing but values for options.
struct StagePreset {
  const char *name;
  const char *trainRoles;
  const char *routes = "router";
  double balance = 0;
  double languagePrior = 0;
  double classifier = 0;
  double routerCrossEntropy = 0;
  /// Of documents of round 0 and of later rounds, in an epoch.
  double oldWeight = 1, newWeight = 1;
  double samplingAlpha = 1;
  const char *batches = "mixed";
  int64_t sequence = 1024;
  int64_t rows = 512; ///< of an optimiser step
  /// -1 where the paper gives none.
  int64_t steps = -1;
  double rate = 5e-5, warmup = 0, clip = 1;
};

/// The preset called `name`; throws Error.
const StagePreset &stagePreset(const std::string &name);

/// What makes the numbers of a phase. All of it is noted in run.json, and a
/// resumed phase goes on with what is noted there.
struct PhaseOptions {
  std::string stage;
  std::string trainRoles;
  double balance = 0;
  std::string balanceForm = "paper";
  double languagePrior = 0;
  std::string languagePriorForm = "paper";
  double classifier = 0;
  double routerCrossEntropy = 0;
  std::string mix;
  double samplingAlpha = 1;
  std::string batches = "mixed";
  int64_t sequence = 0;
  bool segments = false;
  int64_t steps = 0;
  int64_t batch = 512;
  int64_t accumulate = 1;
  double rate = 5e-5;
  std::string schedule = "cosine";
  double warmup = 0;
  double clip = 1;
  double weightDecay = 0;
  std::string optimizerStates = "fp32";
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  uint64_t seed = 0;

  Objective objective() const;
  TrainerOptions trainer() const;
  SamplerOptions sampler(const Corpus &corpus) const;
  /// The source of batches from `corpus`, which outlives it.
  std::unique_ptr<BatchSource> source(const Corpus &corpus) const;
};

struct TrainCommandOptions {
  MachineOptions machine;
  PhaseOptions phase;
  std::string out, data, tokens;
  bool resume = false;
  int64_t memory = 0; ///< MiB that training may take, 0: what is free
  int64_t saveEvery = 100;
  int64_t keep = 2;
  int64_t validateEvery = 0;
  int64_t validateDocuments = 32;

  /// The options of a phase by their names: which were given, and their
  /// values as JSON.
  struct Recorded {
    std::string name;
    CLI::Option *option;
    std::function<nlohmann::json()> get;
    std::function<void(const nlohmann::json &)> set;
    bool isGiven() const { return option->count() > 0; }
  };
  std::vector<Recorded> recorded;

  bool isGiven(const std::string &name) const;
  /// Whether the phase reads the groups of languages.
  bool readsGroups() const {
    return machine.routes == "group" || phase.routerCrossEntropy != 0 ||
           phase.batches == "group";
  }
  /// Gives options that were not given the values of the stage.
  void settleNew();
  /// Gives options that were not given the values noted when the phase began;
  /// throws Error where one was given another value.
  void settleResumed(const nlohmann::json &noted);
  nlohmann::json note() const;
};

void addTrainOptions(CLI::App &app, TrainCommandOptions &options);

} // namespace polymoe

#endif // MOE_TOOLS_MOE_RUN_TRAINOPTIONS_H
