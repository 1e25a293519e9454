//===-- NormsTest.cpp - norms and their gradients against loops -----------===//
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

/// Enough rows for two tiles.
constexpr int64_t tokens = 2 * 137, width = 70;

class Norms : public ModeTest {};

Tensors inputs() {
  return {{"x", randomTensor({2, 137, 70}, 1)},
          {"w", randomTensor({70}, 2)},
          {"v", randomTensor({14}, 3)},
          {"b", randomTensor({70}, 4)},
          {"dy", randomTensor({2, 137, 70}, 5)}};
}

//===----------------------------------------------------------------------===//
// Root mean square
//===----------------------------------------------------------------------===//

/// Of the row as Llama does it, and of groups of 14 as Gemma would.
const TestProgram rmsForward = {
    {{"x", "2x137x70x$T"}, {"w", "70x$T"}, {"v", "14x$T"}},
    R"(
  %y = moe.rms_norm %x, %w {epsilon = 1.0e-2} : (tensor<2x137x70x$T>, tensor<70x$T>) -> tensor<2x137x70x$T>
  %g = moe.rms_norm %x, %v {epsilon = 1.0e-2, offset = 1.0} : (tensor<2x137x70x$T>, tensor<14x$T>) -> tensor<2x137x70x$T>)",
    {{"y", "2x137x70x$T"}, {"g", "2x137x70x$T"}}};

const TestProgram rmsBackward = {{{"x", "2x137x70x$T"},
                                  {"w", "70x$T"},
                                  {"v", "14x$T"},
                                  {"dy", "2x137x70x$T"}},
                                 R"(
  %dxy = moe.rms_norm_grad %dy, %x, %w {epsilon = 1.0e-2} : (tensor<2x137x70x$T>, tensor<2x137x70x$T>, tensor<70x$T>) -> tensor<2x137x70x$T>
  %dxg = moe.rms_norm_grad %dy, %x, %v {epsilon = 1.0e-2, offset = 1.0} : (tensor<2x137x70x$T>, tensor<2x137x70x$T>, tensor<14x$T>) -> tensor<2x137x70x$T>
  %dw = moe.rms_norm_weight_grad %dy, %x {epsilon = 1.0e-2} : (tensor<2x137x70x$T>, tensor<2x137x70x$T>) -> tensor<70x$P>
  %dv = moe.rms_norm_weight_grad %dy, %x {epsilon = 1.0e-2} : (tensor<2x137x70x$T>, tensor<2x137x70x$T>) -> tensor<14x$P>)",
                                 {{"dxy", "2x137x70x$T"},
                                  {"dxg", "2x137x70x$T"},
                                  {"dw", "70x$P"},
                                  {"dv", "14x$P"}}};

struct RmsReference {
  Tensor y, dx, dweight;

  RmsReference(const Tensor &x, const Tensor &weight, const Tensor &dy,
               double epsilon, double offset)
      : y(x), dx(x), dweight(weight) {
    int64_t d = weight.size();
    dweight.values.assign(d, 0);
    for (int64_t first = 0; first < x.size(); first += d) {
      double squares = 0, mean = 0;
      for (int64_t i = 0; i < d; ++i)
        squares += x[first + i] * x[first + i];
      double r = 1 / std::sqrt(squares / d + epsilon);
      for (int64_t i = 0; i < d; ++i) {
        y[first + i] = x[first + i] * r * (offset + weight[i]);
        mean += dy[first + i] * (offset + weight[i]) * x[first + i] / d;
        dweight[i] += dy[first + i] * x[first + i] * r;
      }
      for (int64_t i = 0; i < d; ++i)
        dx[first + i] = r * (dy[first + i] * (offset + weight[i]) -
                             x[first + i] * r * r * mean);
    }
  }
};

TEST_P(Norms, RmsNormAndItsGradients) {
  Mode mode = GetParam();
  Tensors in = rounded(inputs(), mode);
  RmsReference row(in["x"], in["w"], in["dy"], 1e-2, 0);
  RmsReference group(in["x"], in["v"], in["dy"], 1e-2, 1);
  Tensors forward = run(rmsForward, in, mode);
  expectClose(forward["y"], row.y, mode.tolerance, "y");
  expectClose(forward["g"], group.y, mode.tolerance, "g");
  Tensors backward = run(rmsBackward, in, mode);
  expectClose(backward["dxy"], row.dx, mode.tolerance, "dxy");
  expectClose(backward["dxg"], group.dx, mode.tolerance, "dxg");
  double precise = std::min(mode.tolerance, 1e-6);
  expectClose(backward["dw"], row.dweight, precise, "dw");
  expectClose(backward["dv"], group.dweight, precise, "dv");
}

TEST(RmsNormBf16, RoundsBeforeTheWeightOnlyWithoutOffset) {
  Mode mode{"bf16", 0, 0};
  Tensors in = rounded(inputs(), mode);
  Tensors out = run(rmsForward, in, mode);
  int64_t agree = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i)
      squares += in["x"][t * width + i] * in["x"][t * width + i];
    for (int64_t i = 0; i < width; ++i) {
      double normed =
          in["x"][t * width + i] / std::sqrt(squares / width + 1e-2);
      Tensor expected = roundToBf16({{1}, {normed}});
      expected[0] *= in["w"][i];
      agree += roundToBf16(expected)[0] == out["y"][t * width + i];
    }
  }
  // All but those that f32 puts on the other side of a rounding.
  EXPECT_GT(agree, tokens * width * 0.995);
}

TEST(RmsNormGradient, EqualsDifferences) {
  Tensors in = inputs();
  Tensors out = run(rmsBackward, in, {"f64", 0, 0});
  expectGradient(rmsForward, in, "y", in["dy"], "x", out["dxy"]);
  expectGradient(rmsForward, in, "g", in["dy"], "x", out["dxg"]);
  expectGradient(rmsForward, in, "y", in["dy"], "w", out["dw"]);
  expectGradient(rmsForward, in, "g", in["dy"], "v", out["dv"]);
}

TEST(RmsNormBits, SameForAnyNumberOfThreads) {
  expectSameBitsOnThreads(rmsForward, inputs());
  expectSameBitsOnThreads(rmsBackward, inputs());
}

//===----------------------------------------------------------------------===//
// Layer norm
//===----------------------------------------------------------------------===//

const TestProgram layerForward = {
    {{"x", "2x137x70x$T"}, {"w", "70x$T"}, {"b", "70x$T"}},
    R"(
  %y = moe.layer_norm %x, %w, %b {epsilon = 1.0e-2} : (tensor<2x137x70x$T>, tensor<70x$T>, tensor<70x$T>) -> tensor<2x137x70x$T>
  %bare = moe.layer_norm %x, %w {epsilon = 1.0e-2} : (tensor<2x137x70x$T>, tensor<70x$T>) -> tensor<2x137x70x$T>)",
    {{"y", "2x137x70x$T"}, {"bare", "2x137x70x$T"}}};

const TestProgram layerBackward = {
    {{"x", "2x137x70x$T"}, {"w", "70x$T"}, {"dy", "2x137x70x$T"}},
    R"(
  %dx = moe.layer_norm_grad %dy, %x, %w {epsilon = 1.0e-2} : (tensor<2x137x70x$T>, tensor<2x137x70x$T>, tensor<70x$T>) -> tensor<2x137x70x$T>
  %dw = moe.layer_norm_weight_grad %dy, %x {epsilon = 1.0e-2} : (tensor<2x137x70x$T>, tensor<2x137x70x$T>) -> tensor<70x$P>
  %db = moe.column_sum %dy : (tensor<2x137x70x$T>) -> tensor<70x$P>)",
    {{"dx", "2x137x70x$T"}, {"dw", "70x$P"}, {"db", "70x$P"}}};

TEST_P(Norms, LayerNormAndItsGradients) {
  Mode mode = GetParam();
  Tensors in = inputs();
  // A mean that is large beside the deviation must not cost the variance.
  for (double &value : in["x"].values)
    value += 8;
  in = rounded(in, mode);
  const Tensor &x = in["x"], &dy = in["dy"], &w = in["w"];
  Tensor y = x, bare = x, dx = x, dw{{70}, std::vector<double>(70)};
  for (int64_t t = 0; t < tokens; ++t) {
    double mean = 0, variance = 0, meanG = 0, meanProduct = 0;
    for (int64_t i = 0; i < width; ++i)
      mean += x[t * width + i] / width;
    for (int64_t i = 0; i < width; ++i)
      variance += std::pow(x[t * width + i] - mean, 2) / width;
    double r = 1 / std::sqrt(variance + 1e-2);
    for (int64_t i = 0; i < width; ++i) {
      double n = (x[t * width + i] - mean) * r;
      bare[t * width + i] = n * w[i];
      y[t * width + i] = n * w[i] + in["b"][i];
      meanG += dy[t * width + i] * w[i] / width;
      meanProduct += dy[t * width + i] * w[i] * n / width;
      dw[i] += dy[t * width + i] * n;
    }
    for (int64_t i = 0; i < width; ++i)
      dx[t * width + i] = r * (dy[t * width + i] * w[i] - meanG -
                               (x[t * width + i] - mean) * r * meanProduct);
  }
  // The mean of 8 takes three bits of x.
  double factor = mode.type == "f64" ? 8 : 4;
  double precise = std::min(mode.tolerance, 1e-6) * factor;
  double tolerance = std::max(mode.tolerance, precise);
  Tensors forward = run(layerForward, in, mode);
  expectClose(forward["y"], y, tolerance, "y");
  expectClose(forward["bare"], bare, tolerance, "y without a bias");
  Tensors backward = run(layerBackward, in, mode);
  expectClose(backward["dx"], dx, tolerance, "dx");
  expectClose(backward["dw"], dw, precise, "dw");
}

TEST(LayerNormGradient, EqualsDifferences) {
  Tensors in = inputs();
  Tensors out = run(layerBackward, in, {"f64", 0, 0});
  expectGradient(layerForward, in, "y", in["dy"], "x", out["dx"]);
  expectGradient(layerForward, in, "y", in["dy"], "w", out["dw"]);
  expectGradient(layerForward, in, "y", in["dy"], "b", out["db"]);
}

TEST(LayerNormBits, SameForAnyNumberOfThreads) {
  expectSameBitsOnThreads(layerForward, inputs());
  expectSameBitsOnThreads(layerBackward, inputs());
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

TEST(NormRow, DependsNeitherOnOtherRowsNorOnTheTile) {
  // 700 rows of 70 are several tiles.
  auto normsOf = [](int64_t rows) {
    std::string x = "1x" + std::to_string(rows) + "x70xf32";
    return TestProgram{
        {{"x", x}, {"w", "70xf32"}, {"b", "70xf32"}},
        "%y = moe.rms_norm %x, %w {epsilon = 1.0e-5} : (tensor<" + x +
            ">, tensor<70xf32>) -> tensor<" + x +
            ">\n%z = moe.layer_norm %x, %w, %b {epsilon = 1.0e-5} : (tensor<" +
            x + ">, tensor<70xf32>, tensor<70xf32>) -> tensor<" + x + ">",
        {{"y", x}, {"z", x}}};
  };
  Mode mode{"f32", 0, 0};
  Tensors in = inputs();
  in["x"] = randomTensor({1, 700, 70}, 9);
  Tensors all = run(normsOf(700), in, mode, 3);
  for (int64_t row : {0, 233, 234, 699}) {
    Tensors single = in;
    single["x"] = {{1, 1, 70},
                   {in["x"].values.begin() + row * 70,
                    in["x"].values.begin() + (row + 1) * 70}};
    Tensors out = run(normsOf(1), single, mode);
    for (const char *name : {"y", "z"})
      for (int64_t i = 0; i < 70; ++i)
        EXPECT_EQ(out[name][i], all[name][row * 70 + i]) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, Norms, ::testing::ValuesIn(allModes()),
                         [](const auto &info) { return nameOf(info.param); });

} // namespace
