//===-- OptimizerTest.cpp -------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Optimizer.h"
#include "TestFolder.h"
#include "moe/Runtime/Parameters.h"
#include "moe/Runtime/ThreadPool.h"

#include <cmath>
#include <cstring>

using namespace polymoe;

/// A store with one trainable parameter per size, drawn by an initialiser.
static ParameterStore makeStore(ThreadPool &pool,
                                const std::vector<int64_t> &sizes,
                                DType dtype = DType::F32,
                                OptimizerStates states = {}) {
  std::vector<ParameterSpec> specs;
  for (int64_t size : sizes)
    specs.push_back({concat("p", specs.size()),
                     dtype,
                     {size},
                     true,
                     InitOrigin{InitOrigin::Kind::Normal, 1, 3}});
  ParameterOptions options;
  options.states = states;
  return ParameterStore(std::move(specs), ".", pool, options);
}

static void fillGradients(ParameterStore &store, uint64_t step) {
  for (const TrainableParameter &state : store.trainables())
    for (int64_t i = 0; i < state.elements; ++i) {
      double value = uniform(randomBits(step, uint64_t(i))) - 0.5;
      if (state.masterType == DType::F64)
        static_cast<double *>(state.gradient)[i] = value;
      else
        static_cast<float *>(state.gradient)[i] = float(value);
    }
}

// Against the update written down once more, in double.
TEST(Optimizer, FollowsAdamW) {
  for (DType dtype : {DType::F32, DType::F64}) {
    ThreadPool pool(1);
    ParameterStore store = makeStore(pool, {7}, dtype);
    MoeContext context{&pool};
    const TrainableParameter &state = store.trainables()[0];
    auto at = [&](void *p, size_t i) {
      return state.masterType == DType::F64 ? static_cast<double *>(p)[i]
                                            : static_cast<float *>(p)[i];
    };
    std::vector<double> p(7), m(7), v(7);
    for (size_t i = 0; i < 7; ++i)
      p[i] = at(state.master, i);
    for (int t = 1; t <= 10; ++t) {
      fillGradients(store, uint64_t(t));
      updateByAdamW(store, context,
                    {.number = t, .rate = 1e-2, .adam = {.weightDecay = 0.1}},
                    0.5);
      for (size_t i = 0; i < 7; ++i) {
        const double g = 0.5 * at(state.gradient, i);
        p[i] *= 1 - 1e-2 * 0.1;
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.999 * v[i] + 0.001 * g * g;
        p[i] -= 1e-2 * (m[i] / (1 - std::pow(0.9, t))) /
                (std::sqrt(v[i] / (1 - std::pow(0.999, t))) + 1e-8);
        EXPECT_NEAR(at(state.master, i), p[i], 2e-6) << t;
      }
    }
  }
}

TEST(Optimizer, AZeroGradientStillAdvances) {
  ThreadPool pool(1);
  ParameterStore store = makeStore(pool, {2});
  MoeContext context{&pool};
  const TrainableParameter &state = store.trainables()[0];
  fillGradients(store, 1);
  updateByAdamW(store, context, {.number = 1, .rate = 1e-2}, 1);
  const float m = state.m[0], v = state.v[0];
  const float before = static_cast<float *>(state.master)[0];
  store.zeroGradients();
  updateByAdamW(store, context, {.number = 2, .rate = 1e-2}, 1);
  EXPECT_FLOAT_EQ(state.m[0], 0.9f * m);
  EXPECT_FLOAT_EQ(state.v[0], 0.999f * v);
  EXPECT_NE(static_cast<float *>(state.master)[0], before);
}

TEST(Optimizer, NormAndUpdateDoNotDependOnThreads) {
  std::vector<double> norms;
  std::vector<std::vector<float>> values;
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    ParameterStore store = makeStore(pool, {1, 16383, 16384, 100001, 7});
    MoeContext context{&pool};
    for (int step = 0; step < 3; ++step) {
      fillGradients(store, uint64_t(step));
      norms.push_back(gradientNorm(store, context));
      updateByAdamW(store, context, {.number = step + 1, .rate = 1e-3},
                    clipFactor(norms.back(), 1.0));
    }
    auto *all = static_cast<float *>(store.master("p3"));
    values.emplace_back(all, all + 100001);
  }
  for (size_t i = 3; i < norms.size(); ++i)
    EXPECT_EQ(norms[i], norms[i % 3]);
  EXPECT_EQ(values[0], values[1]);
  EXPECT_EQ(values[0], values[2]);
  // Uniform numbers of variance 1/12.
  EXPECT_NEAR(norms[0], std::sqrt(132776 / 12.0), 1);
}

static std::vector<float> masterOf(const TrainableParameter &state) {
  std::vector<float> values(static_cast<size_t>(state.elements));
  state.readMaster(0, state.elements, values.data());
  return values;
}

TEST(Optimizer, BF16StepsAsF32Does) {
  ThreadPool pool(1);
  ParameterStore precise = makeStore(pool, {1000});
  ParameterStore narrow = makeStore(pool, {1000}, DType::BF16);
  MoeContext context{&pool};
  for (int step = 1; step <= 5; ++step)
    for (ParameterStore *store : {&precise, &narrow}) {
      fillGradients(*store, uint64_t(step));
      updateByAdamW(*store, context, {.number = step, .rate = 1e-3}, 1);
    }
  EXPECT_EQ(masterOf(precise.trainables()[0]),
            masterOf(narrow.trainables()[0]));
}

// One step of gradients of many magnitudes, from moments of 100 steps.
TEST(Optimizer, StatesOf8BitsStayNearThoseOfF32) {
  ThreadPool pool(2);
  const int64_t count = 5000; // the last block is not a whole one
  ParameterStore precise = makeStore(pool, {count});
  ParameterStore small =
      makeStore(pool, {count, 4095}, DType::F32, OptimizerStates::Blockwise8);
  EXPECT_EQ(small.trainables()[0].m, nullptr);
  EXPECT_NE(small.trainables()[1].m, nullptr);
  EXPECT_EQ(small.trainables()[1].m8.codes, nullptr);
  MoeContext context{&pool};
  const std::vector<float> before = masterOf(precise.trainables()[0]);
  for (int step = 1; step <= 100; ++step)
    for (ParameterStore *store : {&precise, &small}) {
      fillGradients(*store, uint64_t(step));
      updateByAdamW(*store, context, {.number = step, .rate = 1e-3}, 1);
    }
  const std::vector<float> want = masterOf(precise.trainables()[0]);
  const std::vector<float> got = masterOf(small.trainables()[0]);
  double error = 0, moved = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double(got[i]) - want[i], 2);
    moved += std::pow(double(want[i]) - before[i], 2);
  }
  // 3% of the way that F32 states went.
  EXPECT_LT(std::sqrt(error / moved), 0.03);
  EXPECT_GT(error, 0);
}

// What an expert without rows sees: gradients that are zero. A second moment
// that became zero before the first one would throw the weights far away.
TEST(Optimizer, ZeroGradientsTakeSmallStepsWith8Bits) {
  ThreadPool pool(1);
  ParameterStore store =
      makeStore(pool, {4096}, DType::F32, OptimizerStates::Blockwise8);
  MoeContext context{&pool};
  const TrainableParameter &state = store.trainables()[0];
  auto *gradient = static_cast<float *>(state.gradient);
  for (int64_t i = 0; i < state.elements; ++i)
    gradient[i] = float(std::pow(10.0, -double(i % 256) / 40)); // to 4e-7
  updateByAdamW(store, context, {.number = 1, .rate = 1e-3}, 1);
  store.zeroGradients();
  for (int step = 2; step < 52; ++step) {
    const std::vector<float> before = masterOf(state);
    updateByAdamW(store, context, {.number = step, .rate = 1e-3}, 1);
    const std::vector<float> after = masterOf(state);
    for (size_t i = 0; i < before.size(); ++i)
      ASSERT_LE(std::fabs(after[i] - before[i]), 2e-3f) << step << " " << i;
  }
}

TEST(Optimizer, StatesOf8BitsDoNotDependOnThreads) {
  std::vector<std::vector<uint8_t>> codes;
  std::vector<std::vector<float>> values;
  for (int threads : {1, 4}) {
    ThreadPool pool(threads);
    ParameterStore store = makeStore(pool, {16384, 100001}, DType::BF16,
                                     OptimizerStates::Blockwise8);
    MoeContext context{&pool};
    for (int step = 1; step <= 3; ++step) {
      fillGradients(store, uint64_t(step));
      updateByAdamW(store, context, {.number = step, .rate = 1e-3}, 1);
    }
    const TrainableParameter &state = store.trainables()[1];
    std::vector<uint8_t> all(state.m8.codes, state.m8.codes + state.elements);
    all.insert(all.end(), state.v8.codes, state.v8.codes + state.elements);
    codes.push_back(all);
    std::vector<float> floats = masterOf(state);
    floats.insert(floats.end(), state.v8.absmax,
                  state.v8.absmax + blocksOf(state.elements));
    values.push_back(floats);
  }
  EXPECT_EQ(codes[0], codes[1]);
  EXPECT_EQ(values[0], values[1]);
}

TEST(Optimizer, KnowsItsStatesByName) {
  EXPECT_EQ(parseOptimizerStates("8bit"), OptimizerStates::Blockwise8);
  EXPECT_ERROR(parseOptimizerStates("4bit"),
               "expected fp32 or 8bit, but got '4bit'");
  // F64 parameters keep F32 moments.
  EXPECT_FALSE(
      hasBlockwiseStates(OptimizerStates::Blockwise8, DType::F64, 1 << 20));
}

// What moe-run inspect says is what a store takes.
TEST(Optimizer, MemoryIsKnownBeforehand) {
  ThreadPool pool(1);
  for (DType dtype : {DType::F64, DType::F32, DType::BF16, DType::F16})
    for (auto states : {OptimizerStates::F32, OptimizerStates::Blockwise8})
      for (int64_t count : {4095, 5000}) {
        ParameterStore store = makeStore(pool, {count}, dtype, states);
        EXPECT_EQ(store.allocatedBytes(),
                  trainingBytesOf(store.specs()[0], states) +
                      count * sizeOf(dtype));
      }
}

TEST(Optimizer, NormShowsWhatIsNotFinite) {
  ThreadPool pool(1);
  ParameterStore store = makeStore(pool, {20000});
  MoeContext context{&pool};
  static_cast<float *>(store.gradient("p0"))[19999] = std::nanf("");
  EXPECT_TRUE(std::isnan(gradientNorm(store, context)));
}

TEST(Optimizer, Clips) {
  EXPECT_EQ(clipFactor(0.5, 1), 1);
  EXPECT_EQ(clipFactor(0, 1), 1);
  EXPECT_DOUBLE_EQ(clipFactor(4, 1), 1 / (4 + 1e-6));
  EXPECT_EQ(clipFactor(1e9, 0), 1); // off
}

TEST(Optimizer, Schedules) {
  Schedule cosine{Schedule::Kind::Cosine, 2.0, 110, 10};
  EXPECT_EQ(cosine.rateAt(0), 0);
  EXPECT_EQ(cosine.rateAt(5), 1);
  EXPECT_EQ(cosine.rateAt(10), 2);
  EXPECT_NEAR(cosine.rateAt(60), 1, 1e-12);
  EXPECT_NEAR(cosine.rateAt(110), 0, 1e-12);
  Schedule linear{Schedule::Kind::Linear, 2.0, 100, 0};
  EXPECT_EQ(linear.rateAt(0), 2);
  EXPECT_DOUBLE_EQ(linear.rateAt(25), 1.5);
  EXPECT_EQ(linear.rateAt(200), 0); // past the end
  Schedule constant{Schedule::Kind::Constant, 2.0, 100, 0.03};
  EXPECT_EQ(constant.warmupSteps(), 3);
  EXPECT_EQ(constant.rateAt(3), 2);
  EXPECT_EQ(constant.rateAt(99), 2);
  Schedule none{Schedule::Kind::Cosine, 2.0, 0, 0};
  EXPECT_EQ(none.rateAt(0), 2);
  EXPECT_EQ(parseScheduleKind("linear"), Schedule::Kind::Linear);
  EXPECT_ERROR(parseScheduleKind("step"), "but got 'step'");
}
