//===-- OptimizerTest.cpp -------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Optimizer.h"
#include "TestFolder.h"
#include "moe/Runtime/ThreadPool.h"

#include <cmath>
#include <cstring>

using namespace polymoe;

/// A store with one trainable parameter per size, drawn by an initialiser.
static ParameterStore makeStore(ThreadPool &pool,
                                const std::vector<int64_t> &sizes,
                                DType dtype = DType::F32) {
  std::vector<ParameterSpec> specs;
  for (int64_t size : sizes)
    specs.push_back({concat("p", specs.size()),
                     dtype,
                     {size},
                     true,
                     InitOrigin{InitOrigin::Kind::Normal, 1, 3}});
  return ParameterStore(std::move(specs), ".", pool);
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
    AdamW adam(store, pool, {.weightDecay = 0.1});
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
      adam.step(1e-2, 0.5);
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
    EXPECT_EQ(adam.steps(), 10);
  }
}

TEST(Optimizer, AZeroGradientStillAdvances) {
  ThreadPool pool(1);
  ParameterStore store = makeStore(pool, {2});
  AdamW adam(store, pool);
  const TrainableParameter &state = store.trainables()[0];
  fillGradients(store, 1);
  adam.step(1e-2, 1);
  const float m = state.m[0], v = state.v[0];
  const float before = static_cast<float *>(state.master)[0];
  store.zeroGradients();
  adam.step(1e-2, 1);
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
    AdamW adam(store, pool);
    for (uint64_t step = 0; step < 3; ++step) {
      fillGradients(store, step);
      norms.push_back(adam.gradientNorm());
      adam.step(1e-3, clipFactor(norms.back(), 1.0));
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

TEST(Optimizer, NormShowsWhatIsNotFinite) {
  ThreadPool pool(1);
  ParameterStore store = makeStore(pool, {20000});
  AdamW adam(store, pool);
  static_cast<float *>(store.gradient("p0"))[19999] = std::nanf("");
  EXPECT_TRUE(std::isnan(adam.gradientNorm()));
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
