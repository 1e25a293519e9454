//===-- QuantisedTest.cpp - products with weights as integers -------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The reference quantises plainly, turns the integers back into numbers, and
// multiplies these as they are, in f64.
//
//===----------------------------------------------------------------------===//

#include "RoutedProgram.h"
#include "TestProgram.h"

#include <bit>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>

using namespace polymoe::test;

namespace {

std::vector<Mode> quantised(std::vector<Mode> modes) {
  for (Mode &mode : modes)
    mode.frozenWeights = FrozenWeights::Int8;
  return modes;
}

/// A row of a weight as integers times a scale.
struct Channel {
  double scale = 0;
  std::vector<int> integers;
};

/// In the type T of computation.
template <typename T>
Channel quantisedRow(const Tensor &weight, int64_t row, int64_t width) {
  Channel channel;
  T largest = 0;
  for (int64_t i = 0; i < width; ++i)
    largest = std::max(largest, std::abs(T(weight[row * width + i])));
  T scale = largest / 127;
  channel.scale = scale;
  for (int64_t i = 0; i < width; ++i)
    channel.integers.push_back(
        largest == 0 ? 0
                     : int(std::nearbyint(T(weight[row * width + i]) / scale)));
  return channel;
}

Channel channelOf(const Tensor &weight, int64_t row, const Mode &mode) {
  int64_t width = weight.shape[1];
  return mode.type == "f64" ? quantisedRow<double>(weight, row, width)
                            : quantisedRow<float>(weight, row, width);
}

/// `weight` as products with integers see it.
Tensor dequantised(const Tensor &weight, const Mode &mode) {
  Tensor result{weight.shape, {}};
  for (int64_t row = 0; row < weight.shape[0]; ++row) {
    Channel channel = channelOf(weight, row, mode);
    for (int integer : channel.integers)
      result.values.push_back(integer * channel.scale);
  }
  return result;
}

//===----------------------------------------------------------------------===//
// Dense products
//===----------------------------------------------------------------------===//

struct Shape {
  int64_t rows, inner, outer;
};

TestProgram linear(const Shape &s) {
  std::string x = "1x" + std::to_string(s.rows) + "x";
  std::string inner = std::to_string(s.inner) + "x$T";
  std::string outer = std::to_string(s.outer);
  TestProgram program;
  program.inputs = {{"x", x + inner},
                    {"w", outer + "x" + inner, "parameter"},
                    {"b", outer + "x$T", "parameter"}};
  program.results = {{"y", x + outer + "x$T"}};
  program.body = "  %y = moe.linear %x, %w, %b : (" +
                 typeOf(program.inputs[0]) + ", " + typeOf(program.inputs[1]) +
                 ", " + typeOf(program.inputs[2]) + ") -> " +
                 typeOf(program.results[0]);
  return program;
}

/// Channels of very different size, one of them without any.
Tensors inputsFor(const Shape &s) {
  Tensors in{{"x", randomTensor({1, s.rows, s.inner}, 1)},
             {"w", randomTensor({s.outer, s.inner}, 2)},
             {"b", randomTensor({s.outer}, 3)}};
  for (int64_t i = 0; i < s.outer * s.inner; ++i)
    in["w"][i] *= std::ldexp(1.0, -int(i / s.inner % 5));
  return in;
}

class QuantisedLinear : public ::testing::TestWithParam<Shape> {};

TEST_P(QuantisedLinear, EqualsProductsOfWhatIntegersStandFor) {
  Shape s = GetParam();
  for (const Mode &mode : ofHost(quantised(allModes()))) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = rounded(inputsFor(s), mode);
    Tensors plain = in;
    plain["w"] = dequantised(in["w"], mode);
    // The roundings of the sum, and in bf16 one of the result: integers are
    // exact.
    double tolerance = mode.type == "bf16" ? 0x1p-8 : mode.tolerance;
    tolerance *= std::max<double>(1, double(s.inner) / 4096);
    expectClose(run(linear(s), in, mode)["y"],
                run(linear(s), plain, {"f64", 0, 0})["y"], tolerance, "y");
  }
}

TEST_P(QuantisedLinear, PanelsHoldIntegersAndScales) {
  Shape s = GetParam();
  for (const Mode &mode : ofHost(quantised(allModes()))) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = rounded(inputsFor(s), mode);
    Tensors out = run(linear(s), in, mode);
    auto packed = out.begin();
    while (packed->first.rfind("w.transposed.", 0) != 0)
      ASSERT_NE(++packed, out.end());
    ASSERT_NE(packed->first.find(".int8"), std::string::npos);
    const Tensor &panels = packed->second;
    // Pairs where bf16 is multiplied in them, and never tiles.
    bool pairs = packed->first.find("x2") != std::string::npos;
    EXPECT_EQ(packed->first.find("x16"), std::string::npos);
    int64_t step = pairs ? 2 : 1, lanes = panels.shape[2] / step;
    int64_t steps = (s.inner + step - 1) / step;
    int64_t bytes = mode.type == "f64" ? 8 : 4;
    ASSERT_EQ(panels.shape[1], steps + bytes / step);
    for (int64_t column = 0; column < panels.shape[0] * lanes; ++column) {
      Channel channel;
      if (column < s.outer)
        channel = channelOf(in["w"], column, mode);
      channel.integers.resize(steps * step);
      int64_t first = column / lanes * panels.shape[1] * panels.shape[2];
      int64_t lane = column % lanes;
      for (int64_t k = 0; k < steps * step; ++k) {
        auto byte = int64_t(panels[first + k / step * panels.shape[2] +
                                   lane * step + k % step]);
        ASSERT_EQ(int8_t(byte), channel.integers[k])
            << "element " << k << " of column " << column;
      }
      uint64_t bits = 0;
      for (int64_t i = 0; i < bytes; ++i)
        bits |=
            uint64_t(panels[first + steps * panels.shape[2] + lane * bytes + i])
            << (8 * i);
      double scale = bytes == 8 ? std::bit_cast<double>(bits)
                                : std::bit_cast<float>(uint32_t(bits));
      ASSERT_EQ(scale, channel.scale) << "column " << column;
    }
  }
}

TEST_P(QuantisedLinear, SameBitsForAnyNumberOfThreads) {
  for (const Mode &mode : ofHost(quantised(hostModes()))) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = inputsFor(GetParam());
    Tensors one = run(linear(GetParam()), in, mode, 1);
    EXPECT_EQ(one["y"].values,
              run(linear(GetParam()), in, mode, 4)["y"].values);
  }
}

TEST_P(QuantisedLinear, RowsDependNeitherOnOtherRowsNorOnTheTile) {
  Shape s = GetParam(), single{1, s.inner, s.outer};
  for (const Mode &mode : ofHost(quantised(allModes()))) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = inputsFor(s);
    Tensor all = run(linear(s), in, mode)["y"];
    int64_t row = s.rows - 1;
    in["x"] = {{1, 1, s.inner},
               {in["x"].values.end() - s.inner, in["x"].values.end()}};
    Tensor one = run(linear(single), in, mode)["y"];
    for (int64_t j = 0; j < s.outer; ++j)
      EXPECT_EQ(one[j], all[row * s.outer + j]);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, QuantisedLinear,
                         ::testing::Values(Shape{1, 1, 1}, Shape{5, 16, 32},
                                           Shape{37, 51, 70},
                                           Shape{14, 129, 48},
                                           // Taken in slices.
                                           Shape{3, 32769, 5}));

TEST(QuantisedChannel, ThatIsZeroGivesZero) {
  Shape s{3, 21, 9};
  for (const Mode &mode : ofHost(quantised(allModes()))) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = inputsFor(s);
    in["b"].values.assign(s.outer, 0);
    std::fill_n(in["w"].values.begin() + 4 * s.inner, s.inner, 0.0);
    Tensor y = run(linear(s), in, mode)["y"];
    for (int64_t i = 0; i < y.size(); ++i)
      EXPECT_EQ(y[i] == 0, i % s.outer == 4) << i;
  }
}

/// What is not a number must show, in its channel alone.
TEST(QuantisedChannel, WithWhatIsNotFiniteGivesNaN) {
  Shape s{3, 21, 9};
  for (double broken : {std::numeric_limits<double>::infinity(),
                        -std::numeric_limits<double>::infinity(),
                        std::numeric_limits<double>::quiet_NaN()})
    for (const Mode &mode : ofHost(quantised(allModes()))) {
      SCOPED_TRACE(nameOf(mode) + " " + std::to_string(broken));
      Tensors in = inputsFor(s);
      Tensor before = run(linear(s), in, mode)["y"];
      in["w"][4 * s.inner + 20] = broken;
      Tensor y = run(linear(s), in, mode)["y"];
      for (int64_t i = 0; i < y.size(); ++i)
        if (i % s.outer == 4)
          EXPECT_TRUE(std::isnan(y[i])) << i;
        else
          EXPECT_EQ(y[i], before[i]) << i;
    }
}

TEST(QuantisedChannel, BelowWhatAScaleCanSayIsZero) {
  Shape s{3, 21, 9};
  Tensors in = inputsFor(s);
  in["b"].values.assign(s.outer, 0);
  for (double &value : in["w"].values)
    value *= 0x1p-140;
  Mode mode{"f32", 0, 0};
  mode.frozenWeights = FrozenWeights::Int8;
  Tensor y = run(linear(s), in, mode)["y"];
  for (double value : y.values)
    EXPECT_EQ(value, 0);
}

//===----------------------------------------------------------------------===//
// Experts
//===----------------------------------------------------------------------===//

TestProgram experts(const RoutedShape &shape) {
  RoutedProgram routed(shape);
  if (shape.routed)
    routed.route();
  routed.up();
  routed.down();
  routed.combine();
  TestProgram program = routed.returning({"y"});
  makeParameters(program, shape, 0, shape.experts);
  return program;
}

Tensors inputsFor(const RoutedShape &c) {
  Tensors in{{"x", randomTensor({c.batch, c.length, c.width}, 1)},
             {"logits", randomTensor({c.batch, c.length, c.experts}, 3)},
             {"scores", randomTensor({c.batch, c.length, c.topK}, 4)}};
  uint64_t seed = 5;
  for (int64_t e = 0; e < c.experts; ++e)
    for (const std::string &name : c.weightNames(e)) {
      in[name] = randomTensor(c.weightShape(name), seed++);
      for (double &value : in[name].values)
        value *= 0.25;
    }
  return in;
}

class QuantisedExperts : public ::testing::TestWithParam<RoutedShape> {};

TEST_P(QuantisedExperts, EqualProductsOfWhatIntegersStandFor) {
  RoutedShape c = GetParam();
  for (const Mode &mode : ofHost(quantised(allModes()))) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = rounded(inputsFor(c), mode);
    in["logits"] = inputsFor(c)["logits"];
    Tensors plain = in;
    for (int64_t e = 0; e < c.experts; ++e)
      for (const std::string &name : c.weightNames(e))
        if (in[name].shape.size() == 2)
          plain[name] = dequantised(in[name], mode);
    // A chain of two products and an activation between them.
    expectClose(run(experts(c), in, mode)["y"],
                run(experts(c), plain, {"f64", 0, 0})["y"], 8 * mode.tolerance,
                "y");
  }
}

TEST_P(QuantisedExperts, SameBitsForAnyNumberOfThreads) {
  for (const Mode &mode : ofHost(quantised(hostModes()))) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = inputsFor(GetParam());
    EXPECT_EQ(run(experts(GetParam()), in, mode, 1)["y"].values,
              run(experts(GetParam()), in, mode, 4)["y"].values);
  }
}

RoutedShape mixture(int64_t experts, int64_t topK, bool gated) {
  return {.batch = 2,
          .length = 37,
          .width = 50,
          .hidden = 35,
          .experts = experts,
          .topK = topK,
          .gated = gated};
}

RoutedShape dense(bool gated) {
  RoutedShape shape = mixture(1, 1, gated);
  shape.routed = false;
  return shape;
}

INSTANTIATE_TEST_SUITE_P(Forms, QuantisedExperts,
                         ::testing::Values(mixture(4, 2, true),
                                           mixture(3, 1, false), dense(true),
                                           dense(false)));

} // namespace
