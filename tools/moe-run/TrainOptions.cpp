//===-- TrainOptions.cpp - the options of moe-run train -------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TrainOptions.h"

#include "moe/Runtime/Error.h"

using namespace polymoe;

// The stages of MoE-LPR as the paper has them, with LayerMoE's classifier for
// models that have language gates, and those of DMoE (docs/Methods.md).
// MoE-LPR's stage 2 takes 50 thousand documents of each old language to 100
// thousand of each new one.
static const StagePreset presets[] = {
    {.name = "1",
     .trainRoles = "expert,router",
     .balance = 0.01,
     .oldWeight = 0,
     .steps = 45856},
    {.name = "2",
     .trainRoles = "router,language_gate",
     .languagePrior = 0.1,
     .classifier = 0.1,
     .oldWeight = 0.5,
     .sequence = 512},
    // Gates have no gradient but from their own loss.
    {.name = "dense", .trainRoles = "backbone,expert,router"},
    {.name = "dmoe-1",
     .trainRoles = "backbone,expert,router",
     .routes = "group",
     .routerCrossEntropy = 1.28,
     .samplingAlpha = 0.3,
     .batches = "group",
     .sequence = 2048,
     .rows = 960,
     .steps = 150,
     .rate = 1e-4,
     .warmup = 0.03,
     .clip = 0.3},
    {.name = "dmoe-2",
     .trainRoles = "backbone,expert,router",
     .balance = 0.02,
     .samplingAlpha = 0.3,
     .sequence = 2048,
     .rows = 960,
     .steps = 1500,
     .rate = 1e-4,
     .warmup = 0.03,
     .clip = 0.3},
    {.name = "dmoe-language",
     .trainRoles = "expert,router",
     .routes = "group",
     .routerCrossEntropy = 1.28,
     .sequence = 2048,
     .rows = 960,
     .steps = 100,
     .rate = 2e-4},
};

static constexpr const char *stageNames =
    "1, 2, dense, dmoe-1, dmoe-2 or dmoe-language";

const StagePreset &polymoe::stagePreset(const std::string &name) {
  for (const StagePreset &preset : presets)
    if (name == preset.name)
      return preset;
  fail("--stage: expected ", stageNames, ", but got '", name, "'");
}

//===----------------------------------------------------------------------===//
// What the options mean
//===----------------------------------------------------------------------===//

Objective PhaseOptions::objective() const {
  auto form = [](const std::string &name) {
    return name == "paper" ? LossForm::Paper : LossForm::Reference;
  };
  return {balance,    form(balanceForm), languagePrior, form(languagePriorForm),
          classifier, routerCrossEntropy};
}

TrainerOptions PhaseOptions::trainer() const {
  TrainerOptions options;
  options.steps = steps;
  options.rows = batch;
  options.accumulate = accumulate;
  options.clip = clip;
  options.adam = {beta1, beta2, epsilon, weightDecay};
  options.schedule.kind = parseScheduleKind(schedule);
  options.schedule.rate = rate;
  options.schedule.warmup = warmup;
  options.seed = seed;
  return options;
}

SamplerOptions PhaseOptions::sampler(const Corpus &corpus) const {
  SamplerOptions options;
  options.length = sequence;
  options.seed = seed;
  options.segmentAware = segments;
  options.alpha = samplingAlpha;
  if (!mix.empty()) {
    options.weights = parseWeights(mix);
  } else {
    const StagePreset &preset = stagePreset(stage);
    for (const Language &language : corpus.languages())
      options.weights[language.code] =
          language.round == 0 ? preset.oldWeight : preset.newWeight;
  }
  std::erase_if(options.weights,
                [](const auto &entry) { return entry.second == 0; });
  for (const auto &[code, weight] : options.weights)
    options.languages.push_back(code);
  if (options.languages.empty())
    fail("--data: expected languages to train on, but stage ", stage,
         " takes those of round 1 and later and ", corpus.folder(),
         " has none");
  return options;
}

std::unique_ptr<BatchSource> PhaseOptions::source(const Corpus &corpus) const {
  if (batches == "group")
    return std::make_unique<GroupSampler>(corpus, sampler(corpus));
  return std::make_unique<CorpusSampler>(corpus, sampler(corpus));
}

//===----------------------------------------------------------------------===//
// The options of a new and of a resumed phase
//===----------------------------------------------------------------------===//

bool TrainCommandOptions::isGiven(const std::string &name) const {
  for (const Recorded &entry : recorded)
    if (entry.name == name)
      return entry.isGiven();
  llvm_unreachable("unknown option");
}

void TrainCommandOptions::settleNew() {
  if (!isGiven("stage"))
    fail("--stage: expected ", stageNames, ", but got none");
  const StagePreset &preset = stagePreset(phase.stage);
  auto settle = [&](const char *name, auto &value, const auto &ofStage) {
    if (!isGiven(name))
      value = ofStage;
  };
  settle("train-roles", phase.trainRoles, preset.trainRoles);
  settle("routes", machine.routes, preset.routes);
  settle("balance", phase.balance, preset.balance);
  settle("language-prior", phase.languagePrior, preset.languagePrior);
  settle("classifier", phase.classifier, preset.classifier);
  settle("router-cross-entropy", phase.routerCrossEntropy,
         preset.routerCrossEntropy);
  settle("sampling-alpha", phase.samplingAlpha, preset.samplingAlpha);
  // The rows of a tokens file are taken as they are.
  settle("batches", phase.batches, tokens.empty() ? preset.batches : "mixed");
  settle("sequence", phase.sequence, preset.sequence);
  settle("batch", phase.batch, preset.rows);
  settle("lr", phase.rate, preset.rate);
  settle("warmup", phase.warmup, preset.warmup);
  settle("clip", phase.clip, preset.clip);
  if (!isGiven("steps")) {
    if (preset.steps < 0)
      fail("--steps: expected a number of steps, since stage ", preset.name,
           " has none of its own");
    phase.steps = preset.steps;
  }
}

void TrainCommandOptions::settleResumed(const nlohmann::json &noted) {
  for (const Recorded &entry : recorded) {
    if (!noted.is_object() || !noted.contains(entry.name))
      fail("run.json: expected an option '", entry.name, "' of the phase");
    if (!entry.isGiven())
      entry.set(noted[entry.name]);
    else if (entry.get() != noted[entry.name])
      fail("--", entry.name, ": expected ", noted[entry.name].dump(),
           ", with which the phase began, but got ", entry.get().dump());
  }
}

nlohmann::json TrainCommandOptions::note() const {
  nlohmann::json noted = nlohmann::json::object();
  for (const Recorded &entry : recorded)
    noted[entry.name] = entry.get();
  return noted;
}

//===----------------------------------------------------------------------===//
// The command line
//===----------------------------------------------------------------------===//

/// Notes that `option` sets `value` and belongs to the phase.
template <typename T>
static CLI::Option *record(TrainCommandOptions &options, CLI::Option *option,
                           T &value) {
  std::string name = option->get_name();
  options.recorded.push_back({name.substr(name.find_first_not_of('-')), option,
                              [&value] { return nlohmann::json(value); },
                              [&value](const nlohmann::json &noted) {
                                try {
                                  noted.get_to(value);
                                } catch (
                                    const nlohmann::json::exception &error) {
                                  fail("run.json: ", error.what());
                                }
                              }});
  return option;
}

void polymoe::addTrainOptions(CLI::App &app, TrainCommandOptions &options) {
  addMachineOptions(app, options.machine);
  PhaseOptions &phase = options.phase;
  const auto counts = CLI::Range(int64_t(1), int64_t(1) << 40);
  const auto countsOrNone = CLI::Range(int64_t(0), int64_t(1) << 40);

  auto folder = [&](const char *name, std::string &value, const char *help) {
    app.add_option(name, value, help)->group("Data and output");
  };
  folder("--out", options.out,
         "run folder to write (default: the model, when it is one)");
  folder("--data", options.data, "corpus folder to draw from");
  folder("--tokens", options.tokens,
         "safetensors file of rows to take in the order given, in place of "
         "--data");
  app.add_option("--memory-budget", options.machine.memoryBudget,
                 "MiB for the activations that a step saves, 0: no limit; what "
                 "does not fit is recomputed, the results stay the same")
      ->check(countsOrNone)
      ->capture_default_str();
  addOtherTokenizer(app, options.machine)->group("Data and output");
  app.add_option("--memory", options.memory,
                 "MiB of memory for the default of --batch to fit into, 0: "
                 "four fifths of what is free")
      ->check(countsOrNone)
      ->capture_default_str();
  app.add_flag("--resume", options.resume,
               "go on from the last checkpoint; starts over where there is "
               "none, does nothing where all is done")
      ->group("Data and output");
  app.add_option("--save-every", options.saveEvery,
                 "steps between checkpoints, 0: at the end only")
      ->check(countsOrNone)
      ->capture_default_str()
      ->group("Data and output");
  app.add_option("--keep", options.keep, "checkpoints of this phase to keep")
      ->check(counts)
      ->capture_default_str()
      ->group("Data and output");
  app.add_option("--validate-every", options.validateEvery,
                 "steps between validations on the corpus's valid split, 0: "
                 "none")
      ->check(countsOrNone)
      ->capture_default_str()
      ->group("Data and output");
  app.add_option("--validate-documents", options.validateDocuments,
                 "documents of each language to validate on, 0: all")
      ->check(countsOrNone)
      ->capture_default_str()
      ->group("Data and output");

  auto add = [&](const char *group, const char *name, auto &value,
                 const std::string &help) {
    return record(options, app.add_option(name, value, help), value)
        ->group(group);
  };
  const auto forms = CLI::IsMember({"paper", "reference"});
  const char *stage = "Stage";
  add(stage, "--stage", phase.stage,
      "1: new experts and routers on new languages; 2: routers and language "
      "gates on all languages; dense: all but language gates, by the "
      "next-token loss alone; dmoe-1: the same on groups of languages, each "
      "with its expert; dmoe-2: the same by the routers; dmoe-language: the "
      "expert of a language that was added. Sets what trains, routes, losses, "
      "data and optimisation")
      ->check(CLI::IsMember(
          {"1", "2", "dense", "dmoe-1", "dmoe-2", "dmoe-language"}));
  add(stage, "--train-roles", phase.trainRoles,
      "what trains: backbone, expert, router, language_gate, with commas "
      "(stages 1 and dmoe-language: expert,router; 2: router,language_gate; "
      "else: all but language_gate)")
      ->delimiter(',')
      ->multi_option_policy(CLI::MultiOptionPolicy::Join)
      ->check(CLI::IsMember({"backbone", "expert", "router", "language_gate"},
                            CLI::ignore_space));
  add(stage, "--balance", phase.balance,
      "coefficient of the balance loss (stage 1: 0.01; dmoe-2: 0.02; else 0)")
      ->check(CLI::NonNegativeNumber);
  add(stage, "--balance-form", phase.balanceForm,
      "as the paper prints it, or as the released code computes it, K times "
      "that")
      ->check(forms)
      ->capture_default_str();
  add(stage, "--language-prior", phase.languagePrior,
      "coefficient of the language-prior loss (stage 2: 0.1, else 0)")
      ->check(CLI::NonNegativeNumber);
  add(stage, "--language-prior-form", phase.languagePriorForm,
      "as the paper prints it, or the released code's double softmax")
      ->check(forms)
      ->capture_default_str();
  add(stage, "--classifier", phase.classifier,
      "coefficient of the loss that teaches language gates which languages are "
      "old (stage 2 of a model with gates: 0.1, else 0)")
      ->check(CLI::NonNegativeNumber);
  add(stage, "--router-cross-entropy", phase.routerCrossEntropy,
      "coefficient of the loss that teaches routers the groups of languages "
      "(stages dmoe-1 and dmoe-language: 1.28, else 0)")
      ->check(CLI::NonNegativeNumber);
  add(stage, "--mix", phase.mix,
      "how often a language's documents come in an epoch, as el=1,en=0.1; only "
      "those named are taken (stage 1: new 1; 2: new 1, old 0.5; else: all 1)");
  add(stage, "--sampling-alpha", phase.samplingAlpha,
      "makes the text of languages proportional to bytes^ALPHA, beside --mix "
      "(stages dmoe-1 and dmoe-2: 0.3, else 1, as the corpus has it)")
      ->check(CLI::Range(0.0, 1.0));
  add(stage, "--batches", phase.batches,
      "mixed: micro-batches of any languages; group: each of one group of "
      "languages, in turn (stage dmoe-1: group, else mixed)")
      ->check(CLI::IsMember({"mixed", "group"}));
  add(stage, "--sequence", phase.sequence,
      "tokens of a row (stage 1: 1024; 2: 512; dense: 1024; dmoe: 2048)")
      ->check(counts);

  const char *optimizer = "Optimisation";
  add(optimizer, "--steps", phase.steps,
      "optimiser steps (stage 1: 45856; dmoe-1: 150; dmoe-2: 1500; "
      "dmoe-language: 100); 0 writes the initial state")
      ->check(countsOrNone);
  add(optimizer, "--batch", phase.batch,
      "rows of a micro-batch (default: the paper's 512, or 960 of dmoe, where "
      "they fit into memory, else as many as fit, with --accumulate for as "
      "many rows a step)")
      ->check(counts);
  add(optimizer, "--accumulate", phase.accumulate,
      "micro-batches of a step, normalised as one batch (default: 1, or as "
      "many as --batch says)")
      ->check(counts);
  add(optimizer, "--lr", phase.rate,
      "learning rate (stages dmoe-1 and dmoe-2: 1e-4; dmoe-language: 2e-4; "
      "else "
      "5e-5)")
      ->check(CLI::NonNegativeNumber);
  add(optimizer, "--schedule", phase.schedule, "of the learning rate")
      ->check(CLI::IsMember({"constant", "cosine", "linear"}))
      ->capture_default_str();
  add(optimizer, "--warmup", phase.warmup,
      "steps of rising learning rate; below 1: a share of --steps (stages "
      "dmoe-1 and dmoe-2: 0.03, else 0)")
      ->check(CLI::NonNegativeNumber);
  add(optimizer, "--clip", phase.clip,
      "largest norm of all gradients, 0: no limit (stages dmoe-1 and dmoe-2: "
      "0.3, else 1)")
      ->check(CLI::NonNegativeNumber);
  add(optimizer, "--weight-decay", phase.weightDecay, "of AdamW")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add(optimizer, "--beta1", phase.beta1, "of AdamW")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  add(optimizer, "--beta2", phase.beta2, "of AdamW")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  add(optimizer, "--epsilon", phase.epsilon, "of AdamW")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  add(optimizer, "--optimizer-states", phase.optimizerStates,
      "AdamW's two moments of a weight: fp32, 8 bytes; or 8bit, codes in "
      "blocks of 256, 2 bytes (tensors of fewer than 4096 elements keep fp32)")
      ->check(CLI::IsMember({"fp32", "8bit"}))
      ->capture_default_str();
  add(optimizer, "--seed", phase.seed, "of the order of the data")
      ->capture_default_str();

  // What the machine options say is part of the numbers as well.
  record(options, app.get_option("--dtype"), options.machine.dtype);
  record(options, app.get_option("--executor"), options.machine.executor);
  record(options,
         addRoutes(app, options.machine)
             ->description("what sends a token to its experts: the router, or "
                           "the group of its language, which has an expert "
                           "(stages dmoe-1 and dmoe-language: group, else "
                           "router)")
             ->group(stage),
         options.machine.routes);
  record(options,
         app.add_flag("--segments", phase.segments,
                      "tokens attend within their document only; otherwise "
                      "across all that are packed into a row, as released")
             ->group(stage),
         phase.segments);
}
