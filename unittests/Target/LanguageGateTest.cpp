//===-- LanguageGateTest.cpp - gates, and routes with missing rows --------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestProgram.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>

using namespace polymoe::test;

namespace {

constexpr int64_t batch = 2, length = 137, tokens = batch * length;
constexpr int64_t experts = 5, width = 70;

/// A program in which `$K` is the number of slots and `$R` that of rows.
TestProgram withSlots(TestProgram program, int64_t slots) {
  auto replace = [&](std::string &text) {
    for (auto [from, to] :
         {std::pair<std::string, int64_t>{"$K", slots}, {"$R", tokens * slots}})
      for (size_t at; (at = text.find(from)) != std::string::npos;)
        text.replace(at, from.size(), std::to_string(to));
  };
  for (auto *ports : {&program.inputs, &program.results})
    for (Port &port : *ports)
      replace(port.type);
  replace(program.body);
  return program;
}

const TestProgram forward = {
    {{"logits", "2x137x5x$P"}, {"gate", "2x137x2x$P"}, {"rows", "$Rx70x$T"}},
    R"(
  %routes, %scores = moe.route %logits, %gate {renormalize} : (tensor<2x137x5x$P>, tensor<2x137x2x$P>) -> (!moe.routes<274x5, $K>, tensor<2x137x$Kx$P>)
  %free, %freeScores = moe.route %logits {renormalize} : (tensor<2x137x5x$P>) -> (!moe.routes<274x5, $K>, tensor<2x137x$Kx$P>)
  %y = moe.combine %rows, %routes, %scores : (tensor<$Rx70x$T>, !moe.routes<274x5, $K>, tensor<2x137x$Kx$P>) -> tensor<2x137x70x$T>
  %z = moe.combine %rows, %routes : (tensor<$Rx70x$T>, !moe.routes<274x5, $K>) -> tensor<2x137x70x$T>)",
    {{"routes", "!moe.routes<274x5, $K>"},
     {"free", "!moe.routes<274x5, $K>"},
     {"scores", "2x137x$Kx$P"},
     {"freeScores", "2x137x$Kx$P"},
     {"y", "2x137x70x$T"},
     {"z", "2x137x70x$T"}}};

const TestProgram backward = {{{"logits", "2x137x5x$P"},
                               {"gate", "2x137x2x$P"},
                               {"dscores", "2x137x$Kx$P"}},
                              R"(
  %routes, %scores = moe.route %logits, %gate : (tensor<2x137x5x$P>, tensor<2x137x2x$P>) -> (!moe.routes<274x5, $K>, tensor<2x137x$Kx$P>)
  %dx = moe.route_grad %dscores, %logits, %routes, %gate {renormalize} : (tensor<2x137x$Kx$P>, tensor<2x137x5x$P>, !moe.routes<274x5, $K>, tensor<2x137x2x$P>) -> tensor<2x137x5x$P>
  %dr = moe.route_grad %dscores, %logits, %routes, %gate : (tensor<2x137x$Kx$P>, tensor<2x137x5x$P>, !moe.routes<274x5, $K>, tensor<2x137x2x$P>) -> tensor<2x137x5x$P>)",
                              {{"dx", "2x137x5x$P"}, {"dr", "2x137x5x$P"}}};

/// Ties, which say old, at every 11th token.
Tensors inputsFor(int64_t slots) {
  Tensors in = {{"logits", randomTensor({batch, length, experts}, 1)},
                {"gate", randomTensor({batch, length, 2}, 2)},
                {"rows", randomTensor({tokens * slots, width}, 3)},
                {"dscores", randomTensor({batch, length, slots}, 4)}};
  for (int64_t t = 0; t < tokens; t += 11)
    in["gate"][2 * t + 1] = in["gate"][2 * t];
  return in;
}

bool isOld(const Tensors &in, int64_t t) {
  const Tensor &gate = in.at("gate");
  return gate[2 * t] >= gate[2 * t + 1];
}

class GatedRoutes : public ::testing::TestWithParam<int64_t> {};

TEST_P(GatedRoutes, EqualPlainLoops) {
  const int64_t slots = GetParam(), rows = tokens * slots;
  const Tensors unrounded = inputsFor(slots);
  for (const Mode &mode : ofHost(allModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = unrounded;
    if (mode.type == "bf16")
      in["rows"] = roundToBf16(in["rows"]);
    Tensors out = run(withSlots(forward, slots), in, mode);
    const Tensor routes = out["routes"], free = out["free"];

    // The expert of every slot, from the routes without a gate.
    std::vector<int64_t> expert(rows);
    for (int64_t i = 0; i < rows; ++i) {
      while (free[2 * rows + expert[i] + 1] <= free[rows + i])
        ++expert[i];
      if (isOld(in, i / slots))
        expert[i] = i % slots ? experts : 0;
    }
    std::vector<double> order, offsets;
    for (int64_t e = 0; e <= experts; ++e) {
      offsets.push_back(order.size());
      for (int64_t i = 0; i < rows; ++i)
        if (expert[i] == e)
          order.push_back(i);
    }
    const auto count = static_cast<int64_t>(offsets.back());
    ASSERT_TRUE(slots == 1 ? count == rows : count < rows);
    for (int64_t r = 0; r < count; ++r) {
      EXPECT_EQ(routes[r], order[r]);
      EXPECT_EQ(routes[rows + int64_t(order[r])], r);
    }
    for (int64_t e = 0; e <= experts; ++e)
      EXPECT_EQ(routes[2 * rows + e], offsets[e]);

    // Nothing reads the rows that are not in use.
    for (int64_t i = count * width; i < rows * width; ++i)
      in["rows"][i] = NAN;
    // Not even the sign of a zero is lost.
    in["rows"][3] = -0.0;
    out = run(withSlots(forward, slots), in, mode);
    Tensor y{{batch, length, width}, std::vector<double>(tokens * width)},
        z = y;
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t k = 0; k < slots; ++k) {
        const int64_t i = t * slots + k;
        const bool old = isOld(in, t);
        const double score = old ? k == 0 : out["freeScores"][i];
        EXPECT_EQ(out["scores"][i], score);
        for (int64_t d = 0; d < width && (!old || k == 0); ++d) {
          const double row = in["rows"][int64_t(routes[rows + i]) * width + d];
          y[t * width + d] += score * row;
          z[t * width + d] += row;
          if (old) {
            EXPECT_EQ(out["y"][t * width + d], row);
            EXPECT_EQ(std::signbit(out["y"][t * width + d]), std::signbit(row));
          }
        }
      }
    expectClose(out["y"], y, mode.tolerance, "y");
    expectClose(out["z"], z, mode.tolerance, "z");
  }
}

TEST_P(GatedRoutes, OldTokensHaveNoGradient) {
  const int64_t slots = GetParam();
  Tensors in = inputsFor(slots);
  Tensors all = in;
  for (int64_t t = 0; t < tokens; ++t)
    all["gate"][2 * t] = all["gate"][2 * t + 1] - 1;
  for (const Mode &mode : ofHost(preciseModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors expected = run(withSlots(backward, slots), all, mode);
    // What lies in the slots of old tokens is not read.
    for (int64_t t = 0; t < tokens; ++t)
      if (isOld(in, t))
        std::fill_n(in["dscores"].values.begin() + t * slots, slots, NAN);
    Tensors out = run(withSlots(backward, slots), in, mode);
    for (const char *name : {"dx", "dr"})
      for (int64_t i = 0; i < tokens * experts; ++i)
        EXPECT_EQ(out[name][i], isOld(in, i / experts) ? 0 : expected[name][i])
            << name << " element " << i;
  }
}

TEST_P(GatedRoutes, GradientEqualsDifferences) {
  const int64_t slots = GetParam();
  Tensors in = inputsFor(slots);
  Tensors out = run(withSlots(backward, slots), in, {"f64", 0, 0});
  TestProgram program = withSlots(forward, slots);
  expectGradient(program, in, "scores", in["dscores"], "logits", out["dx"]);
}

TEST_P(GatedRoutes, SameBitsForAnyNumberOfThreads) {
  Tensors in = inputsFor(GetParam());
  TestProgram program = withSlots(forward, GetParam());
  // Order and inverse of missing slots are settled, too.
  expectSameBitsOnThreads(program, in);
  expectSameBitsOnThreads(withSlots(backward, GetParam()), in);
}

INSTANTIATE_TEST_SUITE_P(Slots, GatedRoutes, ::testing::Values(1, 2, 3));

TEST(GatedRoute, AllOldIsForcedExpert0) {
  Tensors in = inputsFor(2);
  for (int64_t t = 0; t < tokens; ++t)
    in["gate"][2 * t] = in["gate"][2 * t + 1] + 1;
  // The logits of the router are not read.
  in["logits"].values.assign(in["logits"].size(), NAN);
  for (const Mode &mode : ofHost(allModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors out = run(withSlots(forward, 2), in, mode);
    Tensor rows = rounded(in, mode)["rows"];
    for (int64_t i = 0; i < tokens * width; ++i)
      EXPECT_EQ(out["y"][i], rows[i]);
  }
}

//===----------------------------------------------------------------------===//
// Gates and their pools
//===----------------------------------------------------------------------===//

const TestProgram gate = {{{"x", "2x137x70x$T"}, {"w", "2x70x$T"}},
                          R"(
  %y = moe.language_gate %x, %w : (tensor<2x137x70x$T>, tensor<2x70x$T>) -> tensor<2x137x2x$P>)",
                          {{"y", "2x137x2x$P"}}};

TEST(LanguageGate, EqualsPlainLoops) {
  const Tensors unrounded = {{"x", randomTensor({batch, length, width}, 1)},
                             {"w", randomTensor({2, width}, 2)}};
  for (const Mode &mode : ofHost(allModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = rounded(unrounded, mode);
    Tensor y{{batch, length, 2}, std::vector<double>(tokens * 2)};
    for (int64_t i = 0; i < tokens * 2; ++i)
      for (int64_t d = 0; d < width; ++d)
        y[i] += in["x"][i / 2 * width + d] * in["w"][i % 2 * width + d];
    // Logits are not rounded to bf16.
    expectClose(run(gate, in, mode)["y"], y, std::min(mode.tolerance, 1e-5),
                "y");
  }
}

const TestProgram pool = {
    {{"x", "2x137x2x$P"}, {"slots", "2x137xi32"}},
    R"(
  %mean = moe.pool %x {kind = #moe.pool<causal_mean>} : (tensor<2x137x2x$P>) -> tensor<2x137x2x$P>
  %cached = moe.pool %x, %slots {kind = #moe.pool<causal_mean>} : (tensor<2x137x2x$P>, tensor<2x137xi32>) -> tensor<2x137x2x$P>
  %sum = moe.pool %x {kind = #moe.pool<sequence_sum>} : (tensor<2x137x2x$P>) -> tensor<2x137x2x$P>)",
    {{"mean", "2x137x2x$P"}, {"cached", "2x137x2x$P"}, {"sum", "2x137x2x$P"}}};

const TestProgram poolGrad = {{{"dy", "2x137x2x$P"}},
                              R"(
  %mean = moe.pool_grad %dy {kind = #moe.pool<causal_mean>} : (tensor<2x137x2x$P>) -> tensor<2x137x2x$P>
  %sum = moe.pool_grad %dy {kind = #moe.pool<sequence_sum>} : (tensor<2x137x2x$P>) -> tensor<2x137x2x$P>)",
                              {{"mean", "2x137x2x$P"}, {"sum", "2x137x2x$P"}}};

/// Slots from 0 on, as without slots.
Tensors poolInputs() {
  Tensors in = {{"x", randomTensor({batch, length, 2}, 1)},
                {"dy", randomTensor({batch, length, 2}, 2)},
                {"slots", {{batch, length}, {}}}};
  for (int64_t t = 0; t < tokens; ++t)
    in["slots"].values.push_back(t % length);
  return in;
}

TEST(Pool, EqualsPlainLoops) {
  Tensors in = poolInputs();
  Tensor mean{{batch, length, 2}, std::vector<double>(tokens * 2)}, sum = mean;
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < length; ++j)
      for (int64_t c = 0; c < 2; ++c) {
        double x = in["x"][(t / length * length + j) * 2 + c];
        sum[t * 2 + c] += x;
        if (j <= t % length)
          mean[t * 2 + c] += x / (t % length + 1);
      }
  for (const Mode &mode : ofHost(preciseModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors out = run(pool, in, mode);
    expectClose(out["mean"], mean, 4 * mode.tolerance, "mean");
    expectClose(out["sum"], sum, 4 * mode.tolerance, "sum");
    // Decoding gives the bits of the whole sequence.
    EXPECT_EQ(out["cached"].values, out["mean"].values);
  }
}

TEST(Pool, GradientEqualsDifferences) {
  Tensors in = poolInputs();
  Tensors out = run(poolGrad, in, {"f64", 0, 0});
  expectGradient(pool, in, "mean", in["dy"], "x", out["mean"]);
  expectGradient(pool, in, "sum", in["dy"], "x", out["sum"]);
}

TEST(Pool, SameBitsForAnyNumberOfThreads) {
  expectSameBitsOnThreads(pool, poolInputs());
  expectSameBitsOnThreads(poolGrad, poolInputs());
}

//===----------------------------------------------------------------------===//
// The classifier's loss
//===----------------------------------------------------------------------===//

const TestProgram loss = {
    {{"logits", "2x137x2x$P"}, {"old", "2x137xi32"}, {"weight", "$P"}},
    R"(
  %y = moe.classifier_loss %logits, %old, %weight : (tensor<2x137x2x$P>, tensor<2x137xi32>, tensor<$P>) -> tensor<$P>)",
    {{"y", "$P"}}};

const TestProgram lossGrad = {{{"logits", "2x137x2x$P"},
                               {"old", "2x137xi32"},
                               {"weight", "$P"},
                               {"dy", "$P"}},
                              R"(
  %dx = moe.classifier_loss_grad %dy, %logits, %old, %weight : (tensor<$P>, tensor<2x137x2x$P>, tensor<2x137xi32>, tensor<$P>) -> tensor<2x137x2x$P>)",
                              {{"dx", "2x137x2x$P"}}};

Tensors lossInputs() {
  Tensors in = {{"logits", randomTensor({batch, length, 2}, 1)},
                {"old", {{batch, length}, {}}},
                {"weight", {{}, {0.25}}},
                {"dy", {{}, {1.5}}}};
  for (double &value : in["logits"].values)
    value *= 4;
  for (int64_t t = 0; t < tokens; ++t)
    in["old"].values.push_back(t % 3 == 1);
  return in;
}

TEST(ClassifierLoss, EqualsPlainLoops) {
  Tensors in = lossInputs();
  Tensor y{{}, {0}}, dx{{batch, length, 2}, {}};
  for (int64_t t = 0; t < tokens; ++t) {
    double a = std::exp(in["logits"][2 * t]),
           b = std::exp(in["logits"][2 * t + 1]);
    bool old = in["old"][t] != 0;
    y[0] -= 0.25 * std::log((old ? a : b) / (a + b));
    dx.values.push_back(1.5 * 0.25 * (a / (a + b) - old));
    dx.values.push_back(1.5 * 0.25 * (b / (a + b) - !old));
  }
  for (const Mode &mode : ofHost(preciseModes())) {
    SCOPED_TRACE(nameOf(mode));
    expectClose(run(loss, in, mode)["y"], y, mode.tolerance, "loss");
    expectClose(run(lossGrad, in, mode)["dx"], dx, mode.tolerance, "gradient");
  }
}

TEST(ClassifierLoss, GradientEqualsDifferences) {
  Tensors in = lossInputs();
  expectGradient(loss, in, "y", in["dy"], "logits",
                 run(lossGrad, in, {"f64", 0, 0})["dx"]);
}

TEST(ClassifierLoss, SameBitsForAnyNumberOfThreads) {
  expectSameBitsOnThreads(loss, lossInputs());
  expectSameBitsOnThreads(lossGrad, lossInputs());
}

} // namespace
