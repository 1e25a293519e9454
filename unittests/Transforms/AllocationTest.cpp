//===-- AllocationTest.cpp - how many experts a layer gets ----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Allocation.h"

#include <cmath>
#include <gtest/gtest.h>
#include <numeric>

using namespace mlir::moe;
using Counts = llvm::SmallVector<int64_t>;

namespace {

/// Of Llama-3.2-3B, as LayerMoE's authors measured it.
const std::vector<double> llama = {
    .0359, .0402, .0352, .0503, .0636, .0698, .0842, .0960, .0945, .0978,
    .1060, .1094, .1164, .1074, .1152, .1109, .0973, .0907, .0830, .0835,
    .0778, .0683, .0685, .0548, .0498, .0497, .0481, .0453};

int64_t added(llvm::ArrayRef<int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t(0)) -
         int64_t(counts.size());
}

TEST(Allocation, EqualsThePublishedList) {
  Counts counts = allocateByInverse(llama, 70);
  EXPECT_EQ(counts, Counts({5, 5, 5, 4, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2,
                            2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4}));
  EXPECT_EQ(added(counts), 56);
}

/// The largest number of new experts within `budget` that the formula reaches.
/// It is tried around every delta at which a count changes, a few units in the
/// last place apart: where two counts change at the same delta, rounding may
/// let one of them change first.
int64_t mostWithin(llvm::ArrayRef<double> similarity, int64_t budget) {
  double sum = 0;
  for (double s : similarity)
    sum += 1 / s;
  int64_t most = 0;
  for (double s : similarity)
    for (int64_t count = 1; count <= budget + 2; ++count) {
      double delta = double(count) * sum * s;
      for (int step = 0; step < 8; ++step)
        delta = std::nextafter(delta, 0);
      for (int step = 0; step < 16; ++step) {
        int64_t total = added(allocateByInverse(similarity, delta));
        if (total <= budget)
          most = std::max(most, total);
        delta = std::nextafter(delta, INFINITY);
      }
    }
  return most;
}

TEST(Allocation, SpendsAsMuchOfTheBudgetAsTheFormulaCan) {
  uint64_t state = 1;
  auto any = [&] {
    state = state * 6364136223846793005 + 1442695040888963407;
    return 0.02 + 0.88 * std::ldexp(double(state >> 33), -31);
  };
  for (int sample = 0; sample < 20; ++sample) {
    std::vector<double> similarity(1 + sample % 7);
    for (double &s : similarity)
      // Equal layers among them.
      s = sample % 3 == 0 ? 0.1 + int(any() * 3) : any();
    if (sample == 19)
      similarity = llama;
    const auto layers = int64_t(similarity.size());
    for (int64_t budget = 0; budget <= 6 * layers; ++budget) {
      double delta = largestDelta(similarity, budget);
      int64_t spent = added(allocateByInverse(similarity, delta));
      EXPECT_EQ(spent, mostWithin(similarity, budget));
      double next = std::nextafter(delta, INFINITY);
      EXPECT_GT(added(allocateByInverse(similarity, next)), budget);
    }
  }
}

TEST(Allocation, GivesEqualLayersAnExpertTogether) {
  // One expert cannot be shared by two layers.
  EXPECT_EQ(allocateByInverse({0.5, 0.5}, largestDelta({0.5, 0.5}, 1)),
            Counts({1, 1}));
  EXPECT_EQ(allocateByInverse({0.5, 0.5}, largestDelta({0.5, 0.5}, 2)),
            Counts({2, 2}));
}

TEST(Allocation, StaysFinite) {
  EXPECT_EQ(allocateByInverse({0.5, 0.5}, 1e300), Counts({1 << 20, 1 << 20}));
  // All of a budget that no model has room for.
  EXPECT_GT(largestDelta({0.5, 1e-300}, INT64_MAX), 0);
}

TEST(Allocation, TakesTheMostSimilarLayers) {
  EXPECT_EQ(mostSimilarLayers({.2, .9, .5, .9, .9}, 3), Counts({1, 3, 4}));
  // The lower one of equals.
  EXPECT_EQ(mostSimilarLayers({.2, .9, .5, .9, .9}, 2), Counts({1, 3}));
  EXPECT_TRUE(mostSimilarLayers({.2, .9}, 0).empty());
}

} // namespace
