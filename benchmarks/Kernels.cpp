//===-- Kernels.cpp - how fast routed matmuls are -------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// usage: moe-kernel-benchmark [--threads=N] [--width=D] [--hidden=F]
//          [--experts=E] [--top-k=K] [--tokens=T] [--launches]
//          [--benchmark_filter=...]
//
// Benchmarks are called KERNEL/TYPE/ROWS. KERNEL: up, down, down_grad,
// input_grad, weight_grad, or all of them with the combines; gathering, packing
// of weights that train, and activations are in it. ROWS, over experts:
// balanced; skewed, 80% on the first and none on the last; frozen_P, where the
// first expert has P% of the rows and does not train, the others share the
// rest. FLOP/s are those of products really computed. peak/TYPE is what fused
// multiply-adds reach in registers, on as many threads.
//
//===----------------------------------------------------------------------===//

#include "Peak.h"
#include "ProgramRunner.h"
#include "RoutedProgram.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <benchmark/benchmark.h>
#include <bit>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <optional>
#include <random>

using namespace polymoe;
using namespace polymoe::test;

namespace {

struct Options {
  RoutedShape shape{.batch = 1,
                    .length = 2048,
                    .width = 2048,
                    .hidden = 5504,
                    .experts = 6,
                    .topK = 2};
  int threads = 0;
  bool showsLaunches = false;
};

/// How rows are distributed over experts.
struct Distribution {
  std::string name;
  /// Of the first expert, where it is not that of all.
  std::optional<double> firstShare;
  bool firstTrains = true;
  bool lastIsEmpty = false;

  std::vector<int64_t> rowsOf(int64_t experts, int64_t rows) const {
    int64_t begin = firstShare ? 1 : 0, end = experts - (lastIsEmpty ? 1 : 0);
    std::vector<int64_t> counts(experts);
    if (firstShare)
      counts[0] = std::llround(*firstShare * static_cast<double>(rows));
    int64_t others = rows - counts[0];
    for (int64_t e = begin; e < end; ++e)
      counts[e] = others / (end - begin) + (e - begin < others % (end - begin));
    return counts;
  }
};

/// A kernel, or several in one program.
struct Kernel {
  const char *name;
  std::vector<void (RoutedProgram::*)()> steps;
  std::vector<std::string> results;
  /// Products of width times hidden for every row, apart from weight gradients.
  int64_t products = 0;
  bool hasWeightGrads = false;
};

struct Case {
  Kernel kernel;
  std::string type;
  Distribution distribution;
};

/// Keeps the program that was asked for last: they are large, and one serves
/// several distributions.
class Workbench {
public:
  explicit Workbench(const Options &options)
      : options(options), shape(options.shape) {}

  void measure(benchmark::State &state, const Case &measured);
  void measurePeak(benchmark::State &state, const PeakLoop &loop) const;

private:
  /// Makes the program and fills its memory, unless it is there already.
  bool load(const Case &wanted);
  void writeRoutes(const Distribution &distribution);
  double flops(const Case &measured) const;

  const Options &options;
  const RoutedShape &shape;
  std::string loaded;
  std::unique_ptr<ProgramRunner> runner;
};

} // namespace

static std::vector<Kernel> allKernels() {
  return {
      {"up", {&RoutedProgram::up}, {"h", "z"}, 2},
      {"down", {&RoutedProgram::down}, {"rows"}, 1},
      {"down_grad", {&RoutedProgram::downGrad}, {"dz", "scaled", "dscores"}, 1},
      {"input_grad", {&RoutedProgram::inputGrad}, {"dx"}, 2},
      {"weight_grad", {&RoutedProgram::weightGrads}, {}, 0, true},
      {"all",
       {&RoutedProgram::up, &RoutedProgram::down, &RoutedProgram::combine,
        &RoutedProgram::downGrad, &RoutedProgram::inputGrad,
        &RoutedProgram::weightGrads},
       {"y", "dx", "dscores"},
       6,
       true}};
}

/// Numbers around 0 that are none of the fast ones (0, 1, subnormal).
static void fill(void *data, DType type, int64_t count) {
  constexpr int64_t period = 1009;
  std::mt19937 engine(1);
  std::uniform_real_distribution<float> numbers(-0.1F, 0.1F);
  std::vector<float> some(period);
  for (float &value : some)
    value = numbers(engine);
  for (int64_t i = 0; i < count; ++i) {
    auto bits = std::bit_cast<uint32_t>(some[i % period]);
    if (type == DType::F32)
      static_cast<uint32_t *>(data)[i] = bits;
    else
      static_cast<uint16_t *>(data)[i] = static_cast<uint16_t>(bits >> 16);
  }
}

bool Workbench::load(const Case &wanted) {
  std::string key = std::string(wanted.kernel.name) + wanted.type +
                    (wanted.distribution.firstTrains ? "" : "frozen");
  if (key == loaded)
    return false;
  loaded.clear();
  runner.reset();
  RoutedShape used = shape;
  used.firstTrained = wanted.distribution.firstTrains ? 0 : 1;
  RoutedProgram program(used);
  for (auto step : wanted.kernel.steps)
    (program.*step)();
  std::vector<std::string> results = wanted.kernel.results;
  for (const std::string &name : program.gradientNames())
    results.push_back(name);
  TestProgram text = program.returning(results);
  // Weights that do not train are parameters, which are packed once.
  makeParameters(text, used, 0, used.firstTrained);
  mlir::moe::CompilerOptions compiler;
  compiler.packedOnce = mlir::moe::PackedOnce::Frozen;
  runner = std::make_unique<ProgramRunner>(text.text(wanted.type), compiler,
                                           options.threads);
  for (size_t i = 0; i < runner->bindings().size(); ++i) {
    const Binding &binding = runner->bindings()[i];
    if (binding.dtype == DType::F32 || binding.dtype == DType::BF16)
      fill(runner->data(i), binding.dtype, ProgramRunner::elements(binding));
  }
  loaded = key;
  return true;
}

/// Row order, its inverse, and where each expert's rows begin. Slots are dealt
/// at random, so rows are gathered from all over. A token may meet an expert
/// in both of its slots: no kernel minds.
void Workbench::writeRoutes(const Distribution &distribution) {
  int64_t rows = shape.rows();
  std::vector<int64_t> counts = distribution.rowsOf(shape.experts, rows);
  std::vector<int64_t> expertOfSlot;
  for (int64_t e = 0; e < shape.experts; ++e)
    expertOfSlot.insert(expertOfSlot.end(), counts[e], e);
  std::shuffle(expertOfSlot.begin(), expertOfSlot.end(), std::mt19937_64(1));
  std::vector<int64_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return std::pair(expertOfSlot[a], a) < std::pair(expertOfSlot[b], b);
  });
  for (size_t i = 0; i < runner->bindings().size(); ++i) {
    if (runner->bindings()[i].name != "routes")
      continue;
    auto *routes = static_cast<int32_t *>(runner->data(i));
    for (int64_t row = 0; row < rows; ++row) {
      routes[row] = static_cast<int32_t>(order[row]);
      routes[rows + order[row]] = static_cast<int32_t>(row);
    }
    int32_t *offsets = routes + 2 * rows;
    offsets[0] = 0;
    for (int64_t e = 0; e < shape.experts; ++e)
      offsets[e + 1] = offsets[e] + static_cast<int32_t>(counts[e]);
  }
}

double Workbench::flops(const Case &measured) const {
  int64_t rows = shape.rows(), trained = rows;
  if (!measured.distribution.firstTrains)
    trained -= measured.distribution.rowsOf(shape.experts, rows)[0];
  int64_t products = rows * measured.kernel.products;
  if (measured.kernel.hasWeightGrads)
    products += 3 * trained;
  return 2.0 * static_cast<double>(products) *
         static_cast<double>(shape.width * shape.hidden);
}

void Workbench::measure(benchmark::State &state, const Case &measured) {
  bool isNew = load(measured);
  writeRoutes(measured.distribution);
  if (isNew) {
    runner->prepare();
    runner->run(); // What it touches for the first time costs extra.
  }
  for (auto _ : state)
    runner->run();
  state.counters["FLOP/s"] = benchmark::Counter(
      flops(measured), benchmark::Counter::kIsIterationInvariantRate);
  if (!options.showsLaunches)
    return;
  Profile profile;
  runner->run(profile);
  for (const Profile::Event &event : profile.all())
    state.counters[event.name] +=
        static_cast<double>(event.end - event.begin) / 1e6;
}

void Workbench::measurePeak(benchmark::State &state,
                            const PeakLoop &loop) const {
  if (!loop.run) {
    state.SkipWithError("the host has no such instruction");
    return;
  }
  constexpr int64_t steps = int64_t(1) << 20;
  ThreadPool pool(options.threads);
  // Several turns each, so that a thread that wakes late costs little.
  constexpr int64_t turns = 64;
  int64_t tiles = turns * pool.threads();
  for (auto _ : state)
    parallelFor(pool, tiles,
                [&](int64_t) { benchmark::DoNotOptimize(loop.run(steps)); });
  state.counters["FLOP/s"] =
      benchmark::Counter(loop.flopsPerStep * static_cast<double>(steps * tiles),
                         benchmark::Counter::kIsIterationInvariantRate);
}

static void registerBenchmarks(Workbench &workbench) {
  auto add = [](const std::string &name, const auto &body) {
    benchmark::RegisterBenchmark(name.c_str(), body)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  };
  const std::vector<Distribution> distributions{
      {"balanced", {}},
      {"skewed", 0.8, /*firstTrains=*/true, /*lastIsEmpty=*/true},
      {"frozen_0", 0.0, /*firstTrains=*/false},
      {"frozen_50", 0.5, /*firstTrains=*/false},
      {"frozen_90", 0.9, /*firstTrains=*/false}};
  for (const char *type : {"f32", "bf16"}) {
    PeakLoop loop = type[0] == 'f' ? peakLoopF32() : peakLoopBf16();
    add(std::string("peak/") + type, [&workbench, loop](benchmark::State &s) {
      workbench.measurePeak(s, loop);
    });
    for (const Kernel &kernel : allKernels())
      for (const Distribution &distribution : distributions) {
        Case measured{kernel, type, distribution};
        add(std::string(kernel.name) + "/" + type + "/" + distribution.name,
            [&workbench, measured](benchmark::State &state) {
              workbench.measure(state, measured);
            });
      }
  }
}

/// A code to exit with, or -1.
static int parse(int argc, char **argv, Options &options) {
  RoutedShape &shape = options.shape;
  CLI::App app("Measures routed matmuls, the compiled kernels of experts. "
               "--benchmark_... are options of Google Benchmark.");
  auto counts = CLI::Range(int64_t(1), int64_t(1) << 20);
  auto add = [&](const char *name, int64_t &value, const char *text) {
    app.add_option(name, value, text)->check(counts)->capture_default_str();
  };
  app.add_option("--threads", options.threads, "0: one per processor")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add("--width", shape.width, "D, the width of the model");
  add("--hidden", shape.hidden, "F, the hidden width of an expert");
  add("--experts", shape.experts, "E, at least 3");
  add("--top-k", shape.topK, "K, rows of a token");
  add("--tokens", shape.length, "T; there are T * K rows");
  app.add_flag("--launches", options.showsLaunches,
               "Adds the milliseconds of each kernel that a program launches, "
               "from one more run.");
  CLI11_PARSE(app, argc, argv);
  if (shape.experts < 3 || shape.topK > shape.experts) {
    std::fprintf(stderr, "moe-kernel-benchmark: error: expected at least 3 "
                         "experts and at most so many for a token\n");
    return 2;
  }
  return -1;
}

int main(int argc, char **argv) {
  try {
    benchmark::Initialize(&argc, argv, [] {
      std::puts("moe-kernel-benchmark -h shows its own options; others are:");
      benchmark::PrintDefaultHelp();
    });
    Options options;
    if (int code = parse(argc, argv, options); code >= 0)
      return code;
    Workbench workbench(options);
    registerBenchmarks(workbench);
    runOnLargeStack([] { benchmark::RunSpecifiedBenchmarks(); });
    benchmark::Shutdown();
    return 0;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "moe-kernel-benchmark: error: %s\n", error.what());
    return 1;
  }
}
