//===-- ProbesTest.cpp - what profiles measure, against plain loops -------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestProgram.h"

#include <cmath>
#include <gtest/gtest.h>

using namespace polymoe::test;

namespace {

constexpr int64_t rows = 3, length = 91, width = 70, experts = 5, topK = 2;

class Probes : public ModeTest {};

/// Labels of which some are negative, and all of the last row.
Tensor labels() {
  Tensor made = randomIntegers({rows, length}, -1, 4, 1);
  for (int64_t s = 0; s < length; ++s)
    made[(rows - 1) * length + s] = -1;
  return made;
}

TEST_P(Probes, SumDirections) {
  Mode mode = GetParam();
  const TestProgram program = {
      {{"x", "3x91x70x$T"}, {"labels", "3x91xi32"}},
      "  %y = moe.direction_sum %x, %labels : (tensor<3x91x70x$T>, "
      "tensor<3x91xi32>) -> tensor<3x70x$P>",
      {{"y", "3x70x$P"}}};
  Tensors in = rounded({{"x", randomTensor({rows, length, width}, 2)}}, mode);
  in["labels"] = labels();
  // A vector of zeros has no direction.
  in["labels"][7] = 1;
  for (int64_t d = 0; d < width; ++d)
    in["x"][7 * width + d] = 0;
  Tensor y{{rows, width}, std::vector<double>(rows * width)};
  for (int64_t t = 0; t < rows * length; ++t) {
    double squares = 0;
    for (int64_t d = 0; d < width; ++d)
      squares += std::pow(in["x"][t * width + d], 2);
    for (int64_t d = 0; d < width && squares > 0 && in["labels"][t] >= 0; ++d)
      y[t / length * width + d] += in["x"][t * width + d] / std::sqrt(squares);
  }
  // Sums are more precise than bf16.
  const double tolerance = mode.type == "f64" ? 1e-12 : 1e-5;
  expectClose(run(program, in, mode)["y"], y, tolerance, "y");
}

TEST_P(Probes, CountTheTokensOfExperts) {
  Mode mode = GetParam();
  const TestProgram program = {
      {{"logits", "3x91x5x$P"}, {"gate", "3x91x2x$P"}, {"labels", "3x91xi32"}},
      R"(
  %r, %s = moe.route %logits, %gate {renormalize} : (tensor<3x91x5x$P>, tensor<3x91x2x$P>) -> (!moe.routes<273x5, 2>, tensor<3x91x2x$P>)
  %y = moe.expert_load %r, %labels : (!moe.routes<273x5, 2>, tensor<3x91xi32>) -> tensor<3x5xf32>)",
      {{"y", "3x5xf32"}}};
  Tensors in = {{"logits", randomTensor({rows, length, experts}, 3)},
                {"gate", randomTensor({rows, length, 2}, 4)},
                {"labels", labels()}};
  Tensor y{{rows, experts}, std::vector<double>(rows * experts)};
  for (int64_t t = 0; t < rows * length; ++t) {
    if (in["labels"][t] < 0)
      continue;
    double *load = &y[t / length * experts];
    if (in["gate"][2 * t] >= in["gate"][2 * t + 1]) {
      ++load[0];
      continue;
    }
    const double *logits = &in["logits"][t * experts];
    for (int64_t e = 0; e < experts; ++e)
      load[e] += std::count_if(logits, logits + experts, [&](double other) {
                   return other > logits[e];
                 }) < topK;
  }
  Tensor counted = run(program, in, mode)["y"];
  for (int64_t i = 0; i < rows * experts; ++i)
    EXPECT_EQ(counted[i], y[i]) << "entry " << i;
}

INSTANTIATE_TEST_SUITE_P(Modes, Probes, ::testing::ValuesIn(allModes()),
                         [](const auto &info) { return nameOf(info.param); });

} // namespace
