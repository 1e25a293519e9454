//===-- RoutedMatmulTest.cpp - grouped products against plain loops -------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RoutedProgram.h"
#include "TestProgram.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>

using namespace polymoe::test;

namespace {

constexpr int64_t batch = 2, length = 37, width = 50, hidden = 35;
constexpr int64_t tokens = batch * length;

/// The first of several experts is frozen.
RoutedShape mixture(int64_t experts, int64_t topK, bool gated,
                    const char *activation, bool languageGate = false) {
  return {batch, length,     width, hidden,       experts, topK,
          gated, activation, true,  languageGate, 1};
}

RoutedShape dense(bool gated, const char *activation) {
  return {batch, length,     width, hidden, 1, 1,
          gated, activation, false, false,  0};
}

/// Without biases.
RoutedShape bare(RoutedShape shape) {
  shape.biased = false;
  return shape;
}

RoutedProgram forwardOf(const RoutedShape &shape) {
  RoutedProgram program(shape);
  if (shape.routed)
    program.route();
  program.up();
  program.down();
  program.combine();
  return program;
}

TestProgram forward(const RoutedShape &shape) {
  return forwardOf(shape).returning({"y"});
}

/// Gradients of the input, the scores and the weights of what trains.
TestProgram backward(const RoutedShape &shape) {
  RoutedProgram program = forwardOf(shape);
  program.downGrad();
  program.inputGrad();
  program.weightGrads();
  std::vector<std::string> results = program.gradientNames();
  results.insert(results.end(), {"y", "dx"});
  if (shape.routed)
    results.push_back("dscores");
  return program.returning(results);
}

/// The last expert of several gets no token.
Tensors inputsFor(const RoutedShape &c) {
  Tensors in{{"x", randomTensor({c.batch, c.length, c.width}, 1)},
             {"dy", randomTensor({c.batch, c.length, c.width}, 2)}};
  if (c.routed) {
    in["logits"] = randomTensor({c.batch, c.length, c.experts}, 3);
    if (c.experts > c.topK)
      for (int64_t t = 0; t < c.tokens(); ++t)
        in["logits"][t * c.experts + c.experts - 1] = -9;
    in["scores"] = randomTensor({c.batch, c.length, c.topK}, 4);
  }
  if (c.languageGate)
    in["gate"] = randomTensor({c.batch, c.length, 2}, 99);
  uint64_t seed = 5;
  for (int64_t e = 0; e < c.experts; ++e)
    for (const std::string &name : c.weightNames(e)) {
      in[name] = randomTensor(c.weightShape(name), seed++);
      for (double &value : in[name].values)
        value = static_cast<float>(value * 0.3);
    }
  return in;
}

/// `p` and `n` are the scalars of xielu.
double activate(const std::string &kind, double x, double p, double n) {
  if (kind == "xielu")
    return x / 2 + (x > 0 ? std::log1p(std::exp(p)) * x * x
                          : (0.5 + std::log1p(std::exp(n))) *
                                (std::expm1(std::min(x, -1e-6)) - x));
  if (kind == "silu")
    return x / (1 + std::exp(-x));
  if (kind == "gelu")
    return x * 0.5 * (1 + std::erf(x / std::sqrt(2.0)));
  return 0.5 * x *
         (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

/// The mixture, token by token.
Tensor reference(const RoutedShape &c, const Tensors &in) {
  auto dot = [](const Tensor &w, int64_t row, int64_t n, const double *x) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i)
      sum += w[row * n + i] * x[i];
    return sum;
  };
  Tensor y{{batch, length, width}, std::vector<double>(tokens * width)};
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<int64_t> order(c.experts);
    for (int64_t e = 0; e < c.experts; ++e)
      order[e] = e;
    if (c.routed)
      std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        const double *logits = &in.at("logits").values[t * c.experts];
        return std::pair(-logits[a], a) < std::pair(-logits[b], b);
      });
    const double *x = &in.at("x").values[t * width];
    bool old =
        c.languageGate && in.at("gate")[2 * t] >= in.at("gate")[2 * t + 1];
    for (int64_t slot = 0; slot < (old ? 1 : c.topK); ++slot) {
      std::string e = std::to_string(old ? 0 : order[slot]);
      double score = c.routed ? in.at("scores")[t * c.topK + slot] : 1;
      std::vector<double> h(hidden);
      auto act = [&](double x) {
        bool has = c.hasScalars();
        return activate(c.activation, x, has ? in.at("p" + e)[0] : 0,
                        has ? in.at("n" + e)[0] : 0);
      };
      for (int64_t f = 0; f < hidden; ++f) {
        double up = dot(in.at("up" + e), f, width, x);
        h[f] = c.gated ? act(dot(in.at("gate" + e), f, width, x)) * up
                       : act(up + (c.biased ? in.at("b" + e)[f] : 0));
      }
      for (int64_t i = 0; i < width; ++i)
        y[t * width + i] +=
            score * (dot(in.at("down" + e), i, hidden, h.data()) +
                     (c.gated || !c.biased ? 0 : in.at("c" + e)[i]));
    }
  }
  return y;
}

class RoutedMatmul : public ::testing::TestWithParam<RoutedShape> {};

TEST_P(RoutedMatmul, EqualsPlainLoops) {
  Tensors in = inputsFor(GetParam());
  for (const Mode &mode : ofHost(allModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors stored = rounded(in, mode);
    // A chain of two products and an activation between them.
    expectClose(run(forward(GetParam()), in, mode)["y"],
                reference(GetParam(), stored), 8 * mode.tolerance, "y");
  }
}

TEST_P(RoutedMatmul, GradientsAreThoseOfTheForward) {
  Tensors in = inputsFor(GetParam());
  Mode f64{"f64", 0, 1e-12};
  Tensors out = run(backward(GetParam()), in, f64);
  // One expert stands for all: they differ in nothing but their number.
  std::string checked = std::to_string(GetParam().firstTrained);
  for (auto &[name, gradient] : out)
    if (name == "dx" || name == "dscores" ||
        name.substr(name.size() - 1) == checked)
      expectGradient(forward(GetParam()), in, "y", in["dy"], name.substr(1),
                     gradient);
}

TEST_P(RoutedMatmul, Bf16GradientsAreThoseOfF64) {
  Tensors in = rounded(inputsFor(GetParam()), {"bf16", 0, 0});
  // Routed by the same logits.
  if (GetParam().routed)
    in["logits"] = inputsFor(GetParam())["logits"];
  Tensors expected = run(backward(GetParam()), in, {"f64", 0, 0});
  for (const Mode &mode : ofHost(bf16Modes())) {
    SCOPED_TRACE(nameOf(mode));
    // The hidden state, its gradient and what is made of them are rounded.
    for (auto &[name, tensor] : run(backward(GetParam()), in, mode))
      expectClose(tensor, expected[name], 2 * mode.tolerance, name);
  }
}

TEST_P(RoutedMatmul, SameBitsForAnyNumberOfThreads) {
  expectSameBitsOnThreads(backward(GetParam()), inputsFor(GetParam()));
}

/// Expects the same bits where kernels pack the weights that they multiply by,
/// and where these were packed before.
void expectSameBitsHoweverPacked(const RoutedShape &c,
                                 const std::vector<Mode> &modes) {
  TestProgram atUse = backward(c), before = atUse;
  makeParameters(before, c, 0, c.experts);
  Tensors in = inputsFor(c);
  for (const Mode &mode : ofHost(modes)) {
    SCOPED_TRACE(nameOf(mode));
    Tensors expected = run(before, in, mode);
    Tensors out = run(atUse, in, mode);
    // Panels that were packed before are results, too.
    EXPECT_GT(expected.size(), out.size());
    for (auto &[name, tensor] : out)
      EXPECT_EQ(tensor.values, expected[name].values) << name;
  }
}

TEST(RoutedMatmulPacking, SameBitsByKernelsThatMultiplyOrBefore) {
  for (const RoutedShape &shape :
       {mixture(4, 2, true, "silu"), mixture(3, 2, false, "gelu", true)})
    expectSameBitsHoweverPacked(shape, allModes());
}

TEST(RoutedMatmulPacking, SameBitsHoweverTheInnerDimensionIsCut) {
  // Wide models and wide experts, whose rows are taken in slices by kernels
  // that pack weights, with gradients of scores and without; and rows that are
  // too long for scratch memory, sliced by all kernels.
  RoutedShape wide = mixture(3, 2, true, "silu"), hidden = wide, plain = wide;
  wide.width = 3301;
  hidden.hidden = 3333;
  plain.hidden = 33335;
  plain.gated = false;
  plain.width = 9;
  for (const RoutedShape &shape : {wide, hidden, plain})
    expectSameBitsHoweverPacked(shape, hostModes());
}

TEST(RoutedMatmulRows, DependOnNoOtherExpert) {
  // Tokens of other experts come and go before and after those of expert 1,
  // which has an odd number of them.
  RoutedShape c = mixture(3, 1, true, "silu");
  auto runWith = [&](const Mode &mode, bool toFirst) {
    Tensors in = inputsFor(c);
    for (int64_t t = 0; t < tokens; ++t) {
      int64_t expert = t % 2 == 1 ? 1 : toFirst || t % 4 ? 0 : 2;
      for (int64_t e = 0; e < c.experts; ++e)
        in["logits"][t * c.experts + e] = e == expert ? 1 : -1;
    }
    return run(backward(c), in, mode);
  };
  for (const Mode &mode : ofHost(hostModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors one = runWith(mode, true), other = runWith(mode, false);
    for (const char *name : {"dgate1", "dup1", "ddown1"})
      EXPECT_EQ(one[name].values, other[name].values) << name;
    for (int64_t t = 1; t < tokens; t += 2)
      for (int64_t i = 0; i < width; ++i)
        EXPECT_EQ(one["y"][t * width + i], other["y"][t * width + i]);
  }
}

TEST(RoutedWeightGrad, IsOneSumHoweverRowsAreCutIntoSlices) {
  // So many rows, and so long ones, that they are taken in two slices. Where
  // the rows of expert 1 are cut depends on how many others come before.
  RoutedShape c = {5, 500, 8, 4200, 3, 1, true, "silu", true, false, 0};
  auto runWith = [&](const Mode &mode, int64_t other) {
    Tensors in = inputsFor(c);
    for (int64_t t = 0; t < c.tokens(); ++t) {
      int64_t expert = t % 4 != 1 ? 1 : other;
      for (int64_t e = 0; e < c.experts; ++e)
        in["logits"][t * c.experts + e] = e == expert ? 1 : -1;
    }
    RoutedProgram program = forwardOf(c);
    program.downGrad();
    program.weightGrads();
    return run(program.returning(program.gradientNames()), in, mode);
  };
  for (const Mode &mode : ofHost(hostModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors first = runWith(mode, 2), cut = runWith(mode, 0);
    for (const char *name : {"dgate1", "dup1", "ddown1"})
      EXPECT_EQ(first[name].values, cut[name].values) << name;
    // An expert without rows.
    for (const char *name : {"dgate0", "ddown0"})
      EXPECT_EQ(first[name].values,
                std::vector<double>(first[name].values.size()))
          << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Forms, RoutedMatmul,
    ::testing::Values(
        mixture(4, 2, true, "silu"), mixture(3, 1, false, "gelu"),
        mixture(3, 3, true, "gelu_tanh"), mixture(4, 2, true, "silu", true),
        mixture(3, 2, false, "gelu", true), mixture(3, 1, true, "silu", true),
        dense(true, "silu"), dense(false, "gelu_tanh"),
        bare(mixture(3, 2, false, "silu")), bare(mixture(3, 2, false, "xielu")),
        mixture(3, 2, true, "xielu", true), bare(dense(false, "xielu")),
        bare(dense(false, "gelu"))));

} // namespace
