//===-- Trainer.cpp - the loop of optimiser steps -------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Trainer.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Metrics.h"
#include "moe/Runtime/Progress.h"

#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <signal.h>

using namespace polymoe;
using Clock = std::chrono::steady_clock;

//===----------------------------------------------------------------------===//
// Signals
//===----------------------------------------------------------------------===//

// A handler reaches nothing but globals.
static std::atomic<bool> interruptRequested = false;
static_assert(std::atomic<bool>::is_always_lock_free);

static void onSignal(int signal) {
  if (interruptRequested.exchange(true)) {
    ::signal(signal, SIG_DFL);
    ::raise(signal);
  }
}

struct InterruptGuard::Saved {
  struct sigaction interrupt, terminate;
};

InterruptGuard::InterruptGuard() : saved(std::make_unique<Saved>()) {
  interruptRequested = false;
  struct sigaction action = {};
  action.sa_handler = onSignal;
  action.sa_flags = SA_RESTART; // what is being written is written whole
  ::sigaction(SIGINT, &action, &saved->interrupt);
  ::sigaction(SIGTERM, &action, &saved->terminate);
}

InterruptGuard::~InterruptGuard() {
  ::sigaction(SIGINT, &saved->interrupt, nullptr);
  ::sigaction(SIGTERM, &saved->terminate, nullptr);
}

bool InterruptGuard::requested() { return interruptRequested; }

//===----------------------------------------------------------------------===//
// Trainer
//===----------------------------------------------------------------------===//

LossWeights polymoe::lossWeightsOf(const std::vector<Batch> &batches) {
  int64_t labels = 0, old = 0, positions = 0;
  for (const Batch &batch : batches) {
    for (int32_t label : batch.labels)
      labels += label >= 0;
    for (int32_t flag : batch.old)
      old += flag != 0;
    positions += batch.rows * batch.length;
  }
  auto inverse = [](int64_t count) { return count ? 1.0 / double(count) : 0; };
  return {inverse(labels), inverse(old), inverse(int64_t(batches.size())),
          inverse(positions)};
}

Trainer::Trainer(Trainee &trainee, ParameterStore &store, BatchSource &source,
                 RunFolder &folder, TrainerOptions givenOptions,
                 TrainerHooks givenHooks)
    : trainee(trainee), store(store), source(source), folder(folder),
      options(std::move(givenOptions)), hooks(std::move(givenHooks)) {
  options.schedule.steps = options.steps;
  if (options.steps < 0 || options.rows <= 0 || options.accumulate <= 0)
    fail("expected no negative number of steps and at least one row and one "
         "micro-batch, but got ",
         options.steps, ", ", options.rows, " and ", options.accumulate);
  if (options.steps > 0 && store.trainables().empty())
    fail("expected at least one trainable parameter, but all are frozen");
  for (const TrainableParameter &trainable : store.trainables())
    if (options.steps > 0 && !trainable.gradient)
      fail("expected a parameter store that is made for training");
}

/// Finds out where to go on.
void Trainer::begin() {
  state = {.phase = options.phase,
           .seed = options.seed,
           .data = source.position(),
           .variant = options.variant};
  std::optional<CheckpointInfo> latest = folder.latestCheckpoint();
  if (latest && latest->phase > options.phase)
    fail(folder.path(), ": expected phase ", options.phase,
         " to be the last one, but the run is in phase ", latest->phase,
         " already");
  if (latest && latest->phase < options.phase)
    state.step = latest->step;
  if (latest && latest->phase == options.phase) {
    if (!options.resume)
      fail(folder.path(),
           ": expected a new phase, but this one has a "
           "checkpoint at step ",
           latest->step, "; --resume goes on from there");
    state = folder.loadCheckpoint(*latest, store);
    if (state.variant != options.variant && hooks.warn)
      hooks.warn(concat("the checkpoint was made with ", state.variant,
                        " instructions, this run uses ", options.variant,
                        ": it will not end with the same bits"));
    state.variant = options.variant;
    source.seek(state.data);
    lastCheckpoint = latest->folder;
    savedStep = state.step;
  }
  trainee.copyFromStore();
  folder.truncateMetrics(state.step);
}

TrainResult Trainer::run() {
  begin();
  InterruptGuard guard;
  if (state.phaseStep < options.steps) {
    source.require((options.steps - state.phaseStep) * options.rows *
                   options.accumulate);
    events = std::make_unique<EventFile>(folder.path(), state.step);
    tokensAtStart = state.tokens;
    if (hooks.progress)
      hooks.progress->start(state.phaseStep);
  }
  while (state.phaseStep < options.steps && !guard.requested()) {
    stepOnce();
    const bool isLast = state.phaseStep == options.steps;
    // Saved first: a validation that fails must not cost the steps.
    if (isLast ||
        (options.saveEvery > 0 && state.phaseStep % options.saveEvery == 0))
      save(/*finished=*/isLast);
    if (options.validateEvery > 0 &&
        (isLast || state.phaseStep % options.validateEvery == 0))
      validate();
  }
  const bool finished = state.phaseStep >= options.steps;
  // The initial state of a later phase needs a number of its own.
  if (finished && savedStep < 0 && state.phaseStep == 0 && options.phase > 0)
    ++state.step;
  // An interrupt before the first step leaves nothing worth saving.
  const bool isWorthSaving = finished || state.phaseStep > 0;
  if (isWorthSaving && (savedStep != state.step || finished != state.finished))
    save(finished);
  if (hooks.progress)
    hooks.progress->finish();
  return {finished ? TrainResult::Status::Finished
                   : TrainResult::Status::Interrupted,
          state.step, state.phaseStep, losses, lastCheckpoint};
}

void Trainer::stepOnce() {
  const Clock::time_point start = Clock::now();
  // All batches first: the weights need the counts of the whole step.
  std::vector<Batch> batches;
  batches.reserve(size_t(options.accumulate));
  for (int64_t i = 0; i < options.accumulate; ++i)
    batches.push_back(source.next(options.rows));
  const LossWeights weights = lossWeightsOf(batches);

  // A step of many micro-batches can take minutes.
  trainee.onMicroBatch = [&](int64_t done) {
    if (hooks.progress && done < options.accumulate)
      hooks.progress->updatePart(done, options.accumulate,
                                 state.tokens - tokensAtStart +
                                     done * options.rows * source.length());
  };
  const double rate = options.schedule.rateAt(state.phaseStep);
  const StepResult result = trainee.step(
      batches, weights,
      {state.optimizerSteps + 1, rate, options.clip, options.adam});
  losses = result.losses;
  for (const auto &[name, value] : losses)
    if (!std::isfinite(value))
      fail("step ", state.phaseStep + 1, ": expected a finite loss '", name,
           "', but got ", value,
           "; nothing of this step is saved, a lower learning rate may help");
  if (!std::isfinite(result.gradientNorm))
    fail("step ", state.phaseStep + 1,
         ": expected finite gradients, but their norm is ", result.gradientNorm,
         "; nothing of this step is saved, a lower learning rate may help");

  ++state.step;
  ++state.phaseStep;
  ++state.optimizerSteps;
  for (const Batch &batch : batches)
    state.tokens += batch.rows * batch.length;
  record(result.gradientNorm, rate,
         std::chrono::duration<double>(Clock::now() - start).count());
}

void Trainer::record(double norm, double rate, double seconds) {
  std::map<std::string, double> scalars(losses.begin(), losses.end());
  scalars["gradient_norm"] = norm;
  scalars["learning_rate"] = rate;
  events->write(state.step, scalars);
  nlohmann::json line(scalars);
  line["phase"] = state.phase;
  line["step"] = state.step;
  line["phase_step"] = state.phaseStep;
  line["tokens"] = state.tokens;
  line["seconds"] = seconds;
  folder.appendMetrics(line);
  if (!hooks.progress)
    return;
  auto loss = losses.find("loss");
  hooks.progress->update(state.phaseStep, state.tokens - tokensAtStart,
                         loss == losses.end()
                             ? std::nullopt
                             : std::optional<double>(loss->second));
}

void Trainer::validate() {
  if (!hooks.validate)
    return;
  const std::map<std::string, double> figures = hooks.validate();
  events->write(state.step, figures);
  nlohmann::json line(figures);
  line["phase"] = state.phase;
  line["step"] = state.step;
  line["phase_step"] = state.phaseStep;
  folder.appendMetrics(line);
  if (!hooks.progress)
    return;
  std::string text = concat("step ", state.phaseStep, ":");
  for (const auto &[name, value] : figures)
    text += concat("  ", name, " ", value);
  hooks.progress->note(text);
}

void Trainer::save(bool finished) {
  state.finished = finished;
  state.data = source.position();
  trainee.copyToStore();
  lastCheckpoint = folder.saveCheckpoint(store, state);
  savedStep = state.step;
  if (hooks.checkpointSaved)
    hooks.checkpointSaved({lastCheckpoint, state.step, state.phase});
  folder.pruneCheckpoints(options.keep, state.step);
}
