//===-- ProfileTime.cpp - where the time of a model goes ------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "Facts.h"
#include "Model.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/Generate.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>

using namespace polymoe;

namespace {

struct ProfileTimeOptions {
  MachineOptions machine;
  std::string what = "train";
  int64_t rows = 1, length = 512, repeat = 3;
  std::string trace;
  std::string optimizerStates = "fp32";
};

int64_t now() {
  return std::chrono::steady_clock::now().time_since_epoch() /
         std::chrono::nanoseconds(1);
}

/// What the launches of one kernel took in all.
struct KernelTime {
  std::string name;
  int64_t calls = 0;
  double seconds = 0;
};

/// Kernels by their time, longest first.
std::vector<KernelTime> timesOf(const Profile &profile) {
  std::map<std::string, KernelTime> byName;
  for (const Profile::Event &event : profile.all()) {
    KernelTime &kernel = byName[event.name];
    kernel.name = event.name;
    ++kernel.calls;
    kernel.seconds += double(event.end - event.begin) * 1e-9;
  }
  std::vector<KernelTime> times;
  times.reserve(byName.size());
  for (auto &[name, kernel] : byName)
    times.push_back(kernel);
  // The name breaks ties.
  std::sort(
      times.begin(), times.end(), [](const KernelTime &a, const KernelTime &b) {
        return a.seconds != b.seconds ? a.seconds > b.seconds : a.name < b.name;
      });
  return times;
}

/// Runs the model on random tokens.
class Workload {
public:
  explicit Workload(const ProfileTimeOptions &options);
  /// One run of what is measured; returns its seconds.
  double run();

  const Profiled &profiled() const { return *executor.profiled; }
  int64_t tokens() const {
    return options.rows * (options.what == "decode" ? 1 : options.length);
  }
  Profile profile;

private:
  /// Continues every row with its share of `tokens` and draws the next ones,
  /// each the likeliest.
  void feed(const std::vector<int32_t> &tokens);

  const ProfileTimeOptions &options;
  Model model;
  ThreadPool pool;
  mlir::OwningOpRef<mlir::ModuleOp> module;
  std::unique_ptr<ParameterStore> store;
  Executor executor;
  Update update = {.rate = 1e-5, .clip = 1};
  Batch batch;
  std::vector<float> logprobs, logits;
  std::vector<int32_t> drawn;
};

} // namespace

Workload::Workload(const ProfileTimeOptions &options)
    : options(options), model(options.machine.model),
      pool(options.machine.threads) {
  if (model.program())
    fail(model.file(), ": expected a module of the model level to profile, but "
                       "this one is compiled");
  const bool trains = options.what == "train";
  if (!trains)
    setTrainable(model.module(), "none");
  module = modelToRun(model.module(), options.machine);
  store = loadParameters(model, *module, pool, trains,
                         parseOptimizerStates(options.optimizerStates));
  Objective objective;
  if (trains) {
    if (store->trainables().empty())
      fail(model.file(), ": expected parameters that train, but all are "
                         "frozen; moe-opt --moe-freeze-backbone says which do");
    ModelFacts facts = factsOf(model.module(), options.length);
    if (llvm::any_of(facts.layers,
                     [](const LayerFacts &layer) { return layer.experts > 1; }))
      objective.balance = 0.01;
  }
  executor =
      makeExecutor(options.machine, model, *module, *store, pool, objective);
  if (!executor.profiled)
    fail("--executor: expected compiled code to profile, but got ",
         options.machine.executor);
  executor.profiled->setProfile(&profile);

  const auto count = size_t(options.rows * options.length);
  const int64_t vocabulary = model.vocabulary();
  batch.rows = options.rows;
  batch.length = options.length;
  for (size_t i = 0; i < count; ++i) {
    batch.tokens.push_back(
        int32_t(randomBits(1, i) % static_cast<uint64_t>(vocabulary)));
    batch.positions.push_back(int32_t(i % size_t(options.length)));
  }
  batch.labels = batch.tokens;
  batch.languages.assign(count, 0);
  batch.old.assign(count, 0);
  batch.segments.assign(count, 0);
  logprobs.resize(count);
  logits.resize(size_t(options.rows * vocabulary));
  if (options.what == "decode") {
    // What is decoded follows a prompt of the given length.
    executor.generator->beginSequences(options.rows,
                                       options.length + options.repeat + 1);
    feed(batch.tokens);
  }
}

void Workload::feed(const std::vector<int32_t> &tokens) {
  const size_t share = tokens.size() / size_t(options.rows);
  std::vector<Continuation> all;
  all.reserve(size_t(options.rows));
  for (int64_t row = 0; row < options.rows; ++row)
    all.push_back({row, std::span(tokens).subspan(size_t(row) * share, share)});
  // Each takes as many as the others, which are as long.
  while (!all[0].tokens.empty()) {
    executor.generator->extendSequences(all, logits);
    for (Continuation &continuation : all)
      continuation.tokens =
          continuation.tokens.subspan(size_t(continuation.taken));
  }
  const size_t vocabulary = logits.size() / size_t(options.rows);
  drawn.clear();
  const int64_t begin = now();
  for (size_t row = 0; row < size_t(options.rows); ++row)
    drawn.push_back(sampleToken(
        std::span(logits).subspan(row * vocabulary, vocabulary), {}, 0, 0));
  profile.record({"choice of tokens", 1, begin, now()});
}

double Workload::run() {
  const int64_t begin = now();
  if (options.what == "train") {
    const LossWeights weights = {.token = 1 / double(batch.labels.size())};
    executor.trainee->step({&batch, 1}, weights, update);
    ++update.number;
  } else if (options.what == "score") {
    executor.scorer->score(batch, logprobs, {});
  } else if (options.what == "prefill") {
    // A cache with room for what follows, as generation makes it.
    executor.generator->beginSequences(options.rows, options.length + 1);
    feed(batch.tokens);
  } else {
    feed(drawn);
  }
  return double(now() - begin) * 1e-9;
}

static int runProfileTime(const ProfileTimeOptions &options) {
  Workload workload(options);
  // The first run compiles and touches memory for the first time.
  workload.run();
  workload.profile.clear();
  std::vector<double> seconds;
  seconds.reserve(static_cast<size_t>(options.repeat));
  for (int64_t i = 0; i < options.repeat; ++i)
    seconds.push_back(workload.run());
  if (!options.trace.empty())
    writeText(options.trace, workload.profile.toChromeTrace());

  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted[sorted.size() / 2];
  const double total = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  const auto runs = double(options.repeat);
  std::printf("%s: %.2f ms (median of %lld), %.1f tokens/s\n\n",
              options.what.c_str(), median * 1e3,
              static_cast<long long>(options.repeat),
              double(workload.tokens()) / median);

  std::map<std::string, KernelCost> costs;
  for (const KernelCost &cost : workload.profiled().kernelCosts())
    costs[cost.name] = cost;
  std::printf("%-36s%8s%11s%8s%10s%8s\n", "kernel", "calls", "ms", "share",
              "GFLOP/s", "GB/s");
  double inKernels = 0;
  for (const KernelTime &kernel : timesOf(workload.profile)) {
    inKernels += kernel.seconds;
    std::printf("%-36s%8.0f%11.3f%7.1f%%", kernel.name.c_str(),
                double(kernel.calls) / runs, kernel.seconds / runs * 1e3,
                kernel.seconds / total * 100);
    // Products are measured by their arithmetic, all else by its memory.
    const KernelCost cost = costs[kernel.name];
    const double rate = double(kernel.calls) / kernel.seconds * 1e-9;
    if (cost.flops > 0)
      std::printf("%10.1f", cost.flops * rate);
    else if (cost.bytes > 0)
      std::printf("%10s%8.1f", "", cost.bytes * rate);
    std::printf("\n");
  }
  std::printf("%-36s%8s%11.3f%7.1f%%\n", "outside of kernels", "",
              (total - inKernels) / runs * 1e3,
              (total - inKernels) / total * 100);
  std::printf("%.1f MiB of packed weights, an arena of %.1f MiB\n",
              double(workload.profiled().packedBytes()) / (1 << 20),
              double(workload.profiled().arenaBytes()) / (1 << 20));
  return 0;
}

void polymoe::addProfileTimeCommand(CLI::App &app, Command &command) {
  auto options = std::make_shared<ProfileTimeOptions>();
  CLI::App *time = app.add_subcommand(
      "time", "Prints where the time of a step goes, kernel by kernel.");
  time->footer(
      "Runs on random tokens. Rates follow from shapes: GFLOP/s of products "
      "(experts taken to have equal shares), else GB/s of the memory that a "
      "launch names, its tables of weights not counted.\n"
      "\n"
      "  moe-run profile time moe.mlir --batch=4 --sequence=512\n"
      "  moe-run profile time run/ --what=decode --trace=decode.json");
  addMachineOptions(*time, options->machine);
  addFrozenWeights(*time, options->machine);
  time->add_option("--what", options->what,
                   "train: a step of what is marked trainable; score; prefill: "
                   "a prompt; decode: one token after a prompt")
      ->check(CLI::IsMember({"train", "score", "prefill", "decode"}))
      ->capture_default_str();
  auto counts = CLI::Range(int64_t(1), int64_t(1) << 20);
  time->add_option("--batch", options->rows, "rows")
      ->check(counts)
      ->capture_default_str();
  time->add_option("--sequence", options->length, "tokens of a row")
      ->check(counts)
      ->capture_default_str();
  time->add_option("--repeat", options->repeat, "runs measured, after one more")
      ->check(counts)
      ->capture_default_str();
  time->add_option("--memory-budget", options->machine.memoryBudget,
                   "MiB for saved activations, 0 for no limit")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  time->add_option("--optimizer-states", options->optimizerStates,
                   "AdamW's moments: fp32 or 8bit")
      ->check(CLI::IsMember({"fp32", "8bit"}))
      ->capture_default_str();
  time->add_option("--trace", options->trace,
                   "file for a trace that chrome://tracing and Perfetto read");
  time->callback([options, &command] {
    command = [options] { return runProfileTime(*options); };
  });
}
