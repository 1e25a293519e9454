//===-- ProfileDeviation.cpp - how languages change a model ---------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Trains the whole model for a few steps on each language alone, from the same
// beginning, and measures what that changes in the FFNs (DMoE). What a language
// changed lies in a file of its own until all are done, so that an interrupted
// measurement goes on.
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "Profile.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/Safetensors.h"
#include "moe/Runtime/Trainer.h"
#include "moe/Transforms/Layers.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <set>

using nlohmann::json;
namespace fs = std::filesystem;

namespace polymoe {

namespace {

struct ProfileDeviationOptions {
  MachineOptions machine;
  std::string data, out, split = "train";
  std::vector<std::string> languages;
  int64_t steps = 10, rows = 8, accumulate = 256, length = 512;
  int64_t lastLayers = 3;
  double rate = 8e-6;
  uint64_t seed = 0;
  std::string optimizerStates = "fp32";
};

/// What a language changes: the part of the last layers, in F32, and the norm
/// of each layer's.
struct Deviation {
  std::vector<float> last;
  std::vector<double> norms;
};

/// One call of moe-run profile deviation.
class DeviationMeasurement {
public:
  explicit DeviationMeasurement(const ProfileDeviationOptions &options);
  int run();

private:
  void findFeedForwards();
  json settings(const Language &language) const;
  fs::path partOf(int32_t language) const;
  bool isDone(int32_t language) const;
  bool train(int32_t language, int64_t before, int64_t already,
             Progress &progress);
  Deviation measure();
  void resetParameters();
  void save(int32_t language, const Deviation &deviation) const;
  std::vector<std::vector<double>> similarities();
  void write();

  const ProfileDeviationOptions &options;
  Model model;
  ThreadPool pool;
  Corpus corpus;
  std::vector<int32_t> languages; ///< indices into the corpus's
  ProfiledModel profiled;
  /// The parameters of the FFN of each layer.
  std::vector<std::vector<std::string>> feedForwards;
  mlir::OwningOpRef<mlir::ModuleOp> module;
  std::unique_ptr<ParameterStore> store;
  Executor executor;
  fs::path parts; ///< folder
};

} // namespace

DeviationMeasurement::DeviationMeasurement(
    const ProfileDeviationOptions &options)
    : options(options), model(options.machine.model),
      pool(options.machine.threads), corpus(options.data, model.vocabulary()),
      parts(options.out + ".parts") {
  if (model.program())
    fail(model.file(), ": expected a module of the model level to profile, but "
                       "this one is compiled");
  if (!options.machine.otherTokenizer)
    checkTokenizer(model, corpus);
  warnOfLength(model, options.length);
  std::set<int32_t> known;
  for (const Corpus::Document &document : corpus.documents(options.split))
    known.insert(document.language);
  for (const std::string &code : options.languages) {
    const int32_t language = corpus.languageIndex(code);
    if (!known.contains(language))
      fail(options.data, ": split '", options.split,
           "' has no document in language '", code, "'");
    if (std::find(languages.begin(), languages.end(), language) !=
        languages.end())
      fail("--languages: expected each once, but got '", code, "' twice");
    languages.push_back(language);
  }
  if (options.languages.empty())
    languages.assign(known.begin(), known.end());
  if (languages.empty())
    fail(options.data, ": split '", options.split, "' has no document");
  findFeedForwards();
}

void DeviationMeasurement::findFeedForwards() {
  profiled = describe(model);
  mlir::ModuleOp whole = model.module();
  mlir::SymbolTable symbols(whole);
  diagnose(*whole.getContext(), [&]() -> llvm::LogicalResult {
    auto layers = mlir::moe::findLayers(whole, symbols);
    if (failed(layers))
      return mlir::failure();
    for (mlir::moe::Layer &layer : *layers) {
      if (mlir::func::CallOp call = layer.call; !layer.ffn)
        return call.emitOpError()
               << "expected a dense layer to measure, but it has experts";
      std::vector<std::string> &names = feedForwards.emplace_back();
      for (mlir::Value weight : layer.ffn.getWeights()) {
        auto parameter = mlir::moe::parameterOf(layer, weight,
                                                "a weight of an FFN", symbols);
        if (failed(parameter))
          return mlir::failure();
        names.push_back(parameter->getSymName().str());
      }
    }
    return mlir::success();
  });
}

/// All that the change by a language depends on.
json DeviationMeasurement::settings(const Language &language) const {
  return {{"language", language.code},
          {"base", profiled.base},
          {"values", profiled.values},
          {"split", options.split},
          {"text", std::to_string(corpus.fingerprint(options.split))},
          {"steps", options.steps},
          {"rows", options.rows},
          {"accumulate", options.accumulate},
          {"length", options.length},
          {"last_layers", options.lastLayers},
          {"rate", options.rate},
          {"seed", options.seed},
          {"optimizer_states", options.optimizerStates},
          {"dtype", options.machine.dtype},
          {"executor", options.machine.executor}};
}

fs::path DeviationMeasurement::partOf(int32_t language) const {
  return parts / concat("language-", language, ".safetensors");
}

/// Whether an earlier call has measured the language, with the same settings.
bool DeviationMeasurement::isDone(int32_t language) const {
  const fs::path part = partOf(language);
  if (!fs::exists(part))
    return false;
  const auto file = SafetensorsFile::open(part);
  auto noted = file->metadata().find("settings");
  const std::string wanted =
      settings(corpus.languages()[size_t(language)]).dump();
  if (noted == file->metadata().end() || noted->second != wanted)
    fail(part,
         ": expected what an interrupted measurement of the same model, data "
         "and options left, but it was of others; remove ",
         parts, " to begin anew");
  return true;
}

/// Trains on one language from the beginning. Returns whether it was not
/// interrupted. `before` steps of other languages are done, `already` of them
/// by an earlier call.
bool DeviationMeasurement::train(int32_t language, int64_t before,
                                 int64_t already, Progress &progress) {
  const std::string &code = corpus.languages()[size_t(language)].code;
  SamplerOptions sampling{.split = options.split,
                          .length = options.length,
                          .seed = options.seed,
                          .languages = {code}};
  CorpusSampler sampler(corpus, sampling);
  const Schedule schedule{.kind = Schedule::Kind::Linear,
                          .rate = options.rate,
                          .steps = options.steps};
  const int64_t tokens = options.rows * options.accumulate * options.length;
  for (int64_t step = 0; step < options.steps; ++step) {
    if (InterruptGuard::requested())
      return false;
    std::vector<Batch> batches;
    batches.reserve(size_t(options.accumulate));
    for (int64_t i = 0; i < options.accumulate; ++i)
      batches.push_back(sampler.next(options.rows));
    executor.trainee->onMicroBatch = [&](int64_t done) {
      if (done < options.accumulate)
        progress.updatePart(done, options.accumulate,
                            (before - already + step) * tokens +
                                done * options.rows * options.length);
    };
    const StepResult result = executor.trainee->step(
        batches, lossWeightsOf(batches),
        {.number = step + 1, .rate = schedule.rateAt(step)});
    const double loss = result.losses.at("loss");
    if (!std::isfinite(loss) || !std::isfinite(result.gradientNorm))
      fail("language '", code, "', step ", step + 1,
           ": expected a finite loss and finite gradients, but got ", loss,
           " and a norm of ", result.gradientNorm);
    progress.update(before + step + 1, (before - already + step + 1) * tokens,
                    loss);
  }
  return true;
}

/// What training changed in the FFNs. Sets them back on the way, so that the
/// beginning needs no memory of its own.
Deviation DeviationMeasurement::measure() {
  executor.trainee->copyToStore();
  Deviation deviation;
  const auto first = static_cast<size_t>(
      std::max<int64_t>(0, int64_t(feedForwards.size()) - options.lastLayers));
  for (size_t layer = 0; layer < feedForwards.size(); ++layer) {
    double squares = 0;
    for (const std::string &name : feedForwards[layer]) {
      const TrainableParameter &state = *store->findTrainable(name);
      auto masters = [&] {
        std::vector<std::byte> read(
            size_t(state.elements * sizeOf(state.masterType)));
        state.readMaster(0, state.elements, read.data());
        std::vector<double> values(size_t(state.elements));
        convert(state.masterType, read.data(), DType::F64, values.data(),
                state.elements);
        return values;
      };
      const std::vector<double> tuned = masters();
      store->reset(name);
      const std::vector<double> base = masters();
      for (size_t i = 0; i < base.size(); ++i) {
        const double change = base[i] - tuned[i];
        squares += change * change;
        if (layer >= first)
          deviation.last.push_back(float(change));
      }
    }
    deviation.norms.push_back(std::sqrt(squares));
  }
  return deviation;
}

void DeviationMeasurement::resetParameters() {
  for (const TrainableParameter &state : store->trainables())
    store->reset(store->specs()[state.index].name);
  store->refreshComputeCopies();
  executor.trainee->copyFromStore();
}

void DeviationMeasurement::save(int32_t language,
                                const Deviation &deviation) const {
  SafetensorsWriter writer(
      partOf(language),
      {{"settings", settings(corpus.languages()[size_t(language)]).dump()}});
  writer.add("last", DType::F32, {int64_t(deviation.last.size())},
             std::as_bytes(std::span(deviation.last)));
  writer.add("norms", DType::F64, {int64_t(deviation.norms.size())},
             std::as_bytes(std::span(deviation.norms)));
  writer.finish();
}

/// The cosines of what each two languages change in the last layers, from the
/// files of both.
std::vector<std::vector<double>> DeviationMeasurement::similarities() {
  const size_t count = languages.size();
  std::vector<std::shared_ptr<const SafetensorsFile>> files;
  std::vector<std::span<const std::byte>> changes;
  for (int32_t language : languages) {
    files.push_back(SafetensorsFile::open(partOf(language)));
    changes.push_back(files.back()->data(files.back()->get("last")));
  }
  auto product = [&](size_t i, size_t j) {
    double sum = 0;
    for (size_t at = 0; at < changes[i].size(); at += sizeof(float)) {
      float a, b;
      std::memcpy(&a, changes[i].data() + at, sizeof(float));
      std::memcpy(&b, changes[j].data() + at, sizeof(float));
      sum += double(a) * double(b);
    }
    return sum;
  };
  std::vector<double> norms(count);
  parallelFor(pool, int64_t(count), [&](int64_t i) {
    norms[size_t(i)] = std::sqrt(product(size_t(i), size_t(i)));
  });
  std::vector<std::vector<double>> cosines(count,
                                           std::vector<double>(count, 1));
  for (size_t i = 0; i < count; ++i)
    parallelFor(pool, int64_t(i), [&](int64_t j) {
      const double both = norms[i] * norms[size_t(j)];
      cosines[i][size_t(j)] = both > 0 ? product(i, size_t(j)) / both : 0;
    });
  for (size_t i = 0; i < count; ++i)
    for (size_t j = 0; j < i; ++j)
      cosines[j][i] = cosines[i][j];
  return cosines;
}

void DeviationMeasurement::write() {
  json known = json::array(), deviations = json::array();
  for (int32_t index : languages) {
    const Language &language = corpus.languages()[size_t(index)];
    known.push_back({{"code", language.code}, {"round", language.round}});
    const auto file = SafetensorsFile::open(partOf(index));
    const std::span<const std::byte> bytes = file->data(file->get("norms"));
    std::vector<double> norms(bytes.size() / sizeof(double));
    std::memcpy(norms.data(), bytes.data(), bytes.size());
    deviations.push_back(norms);
  }
  nlohmann::ordered_json profile = profileHeader(
      "deviation", profiled,
      {{"data", options.data},
       {"split", options.split},
       {"tokens",
        options.steps * options.rows * options.accumulate * options.length},
       {"steps", options.steps},
       {"rate", options.rate},
       {"similarity_layers",
        std::min<int64_t>(options.lastLayers, int64_t(feedForwards.size()))}});
  profile["languages"] = known;
  profile["layer_deviation"] = deviations;
  profile["similarity"] = similarities();
  writeText(options.out, profile.dump(1) + "\n");
}

int DeviationMeasurement::run() {
  setTrainable(model.module(), "backbone");
  module = modelToRun(model.module(), options.machine);
  store = loadParameters(model, *module, pool, /*training=*/true,
                         parseOptimizerStates(options.optimizerStates));
  profiled.values = digestOfValues(*store, options.machine);
  std::vector<int32_t> missing;
  for (int32_t language : languages)
    if (!isDone(language))
      missing.push_back(language);
  if (!missing.empty()) {
    fs::create_directories(parts);
    executor = makeExecutor(options.machine, model, *module, *store, pool);
    executor.trainee->requireBatches(options.rows, options.length,
                                     options.accumulate);
  }
  Progress progress("deviation of languages", "step",
                    int64_t(languages.size()) * options.steps,
                    progressOptions());
  const int64_t already =
      int64_t(languages.size() - missing.size()) * options.steps;
  int64_t done = already;
  progress.start(done);
  InterruptGuard guard;
  for (int32_t language : missing) {
    if (!train(language, done, already, progress)) {
      progress.finish();
      std::cerr << "moe-run: interrupted after " << done / options.steps
                << " of " << languages.size()
                << " languages, which are kept in " << parts.string()
                << "; to go on: the same command\n";
      return exitInterrupted;
    }
    save(language, measure());
    resetParameters();
    done += options.steps;
  }
  progress.finish();
  write();
  removeFolder(parts);
  return 0;
}

void addProfileDeviation(CLI::App &profile, Command &command) {
  auto options = std::make_shared<ProfileDeviationOptions>();
  CLI::App *deviation = profile.add_subcommand(
      "deviation", "Measures how each language changes a dense model.");
  deviation->footer(
      "Trains the whole model for a few steps on each language alone, each "
      "time from the beginning, and writes as JSON how far that moves the FFN "
      "of every layer, and how alike it is for each two languages. moe-opt "
      "--moe-group-languages chooses groups and layers by it. Interrupted, the "
      "same command goes on with the languages that are left.\n"
      "\n"
      "  moe-run profile deviation model.mlir --data corpus/ -o "
      "deviation.json");
  addMachineOptions(*deviation, options->machine);
  addOtherTokenizer(*deviation, options->machine);
  deviation->add_option("--data", options->data, "corpus folder")->required();
  deviation->add_option("-o,--out", options->out, "file to write")->required();
  deviation->add_option("--split", options->split, "which documents")
      ->check(CLI::IsMember({"train", "valid", "test"}))
      ->capture_default_str();
  deviation
      ->add_option("--languages", options->languages,
                   "codes, with commas (default: all that have documents)")
      ->delimiter(',');
  const auto counts = CLI::Range(int64_t(1), int64_t(1) << 40);
  deviation->add_option("--steps", options->steps, "optimiser steps a language")
      ->check(counts)
      ->capture_default_str();
  deviation->add_option("--batch", options->rows, "rows of a micro-batch")
      ->check(counts)
      ->capture_default_str();
  deviation
      ->add_option("--accumulate", options->accumulate,
                   "micro-batches of a step")
      ->check(counts)
      ->capture_default_str();
  deviation->add_option("--sequence", options->length, "tokens of a row")
      ->check(counts)
      ->capture_default_str();
  deviation
      ->add_option("--lr", options->rate,
                   "learning rate of the first step, from which it falls to 0")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  deviation
      ->add_option("--similarity-layers", options->lastLayers,
                   "the last layers, by which languages are compared")
      ->check(counts)
      ->capture_default_str();
  deviation
      ->add_option("--memory-budget", options->machine.memoryBudget,
                   "MiB for saved activations, 0 for no limit")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  deviation
      ->add_option("--optimizer-states", options->optimizerStates,
                   "AdamW's moments: fp32 or 8bit")
      ->check(CLI::IsMember({"fp32", "8bit"}))
      ->capture_default_str();
  deviation->add_option("--seed", options->seed, "of the order of the data")
      ->capture_default_str();
  deviation->callback([options, &command] {
    command = [options] { return DeviationMeasurement(*options).run(); };
  });
}

} // namespace polymoe
