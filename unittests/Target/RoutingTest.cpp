//===-- RoutingTest.cpp - routes and their sums against loops -------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestProgram.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <numeric>

using namespace polymoe::test;

namespace {

/// Enough tokens for several tiles.
constexpr int64_t tokens = 2 * 137, width = 70;

struct Sizes {
  int64_t experts, slots;
};

class Routing : public ::testing::TestWithParam<Sizes> {};

std::string sized(std::string text, const Sizes &sizes) {
  for (auto [from, to] : {std::pair<std::string, int64_t>{"$E", sizes.experts},
                          {"$K", sizes.slots},
                          {"$R", tokens * sizes.slots}})
    for (size_t at; (at = text.find(from)) != std::string::npos;)
      text.replace(at, from.size(), std::to_string(to));
  return text;
}

TestProgram sized(TestProgram program, const Sizes &sizes) {
  for (auto *ports : {&program.inputs, &program.results})
    for (Port &port : *ports)
      port.type = sized(port.type, sizes);
  program.body = sized(program.body, sizes);
  return program;
}

const TestProgram forward = {{{"logits", "2x137x$Ex$P"}, {"rows", "$Rx70x$T"}},
                             R"(
  %routes, %scores = moe.route %logits {renormalize} : (tensor<2x137x$Ex$P>) -> (!moe.routes<274x$E, $K>, tensor<2x137x$Kx$P>)
  %raw, %rawScores = moe.route %logits : (tensor<2x137x$Ex$P>) -> (!moe.routes<274x$E, $K>, tensor<2x137x$Kx$P>)
  %y = moe.combine %rows, %routes, %scores : (tensor<$Rx70x$T>, !moe.routes<274x$E, $K>, tensor<2x137x$Kx$P>) -> tensor<2x137x70x$T>
  %z = moe.combine %rows, %raw : (tensor<$Rx70x$T>, !moe.routes<274x$E, $K>) -> tensor<2x137x70x$T>)",
                             {{"routes", "!moe.routes<274x$E, $K>"},
                              {"raw", "!moe.routes<274x$E, $K>"},
                              {"scores", "2x137x$Kx$P"},
                              {"rawScores", "2x137x$Kx$P"},
                              {"y", "2x137x70x$T"},
                              {"z", "2x137x70x$T"}}};

const TestProgram backward = {
    {{"logits", "2x137x$Ex$P"}, {"dscores", "2x137x$Kx$P"}},
    R"(
  %routes, %scores = moe.route %logits : (tensor<2x137x$Ex$P>) -> (!moe.routes<274x$E, $K>, tensor<2x137x$Kx$P>)
  %dx = moe.route_grad %dscores, %logits, %routes {renormalize} : (tensor<2x137x$Kx$P>, tensor<2x137x$Ex$P>, !moe.routes<274x$E, $K>) -> tensor<2x137x$Ex$P>
  %dr = moe.route_grad %dscores, %logits, %routes : (tensor<2x137x$Kx$P>, tensor<2x137x$Ex$P>, !moe.routes<274x$E, $K>) -> tensor<2x137x$Ex$P>)",
    {{"dx", "2x137x$Ex$P"}, {"dr", "2x137x$Ex$P"}}};

Tensors inputsFor(const Sizes &sizes) {
  Tensors in = {{"logits", randomTensor({2, 137, sizes.experts}, 1)},
                {"rows", randomTensor({tokens * sizes.slots, width}, 2)},
                {"dscores", randomTensor({2, 137, sizes.slots}, 3)}};
  for (double &value : in["logits"].values)
    value *= 4;
  return in;
}

/// The routes of `logits`, from the description of moe.route.
struct Reference {
  std::vector<double> p;
  /// Of every (token, slot).
  std::vector<int64_t> expert;
  Tensor scores, rawScores, routes;

  Reference(const Tensor &logits, const Sizes &sizes) {
    int64_t experts = sizes.experts, slots = sizes.slots;
    scores.shape = rawScores.shape = {2, 137, slots};
    for (int64_t t = 0; t < tokens; ++t) {
      double sum = 0, total = 0;
      for (int64_t e = 0; e < experts; ++e)
        sum += std::exp(logits[t * experts + e]);
      std::vector<double> row;
      for (int64_t e = 0; e < experts; ++e)
        row.push_back(std::exp(logits[t * experts + e]) / sum);
      std::vector<int64_t> order(experts);
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return std::pair(-row[a], a) < std::pair(-row[b], b);
      });
      for (int64_t k = 0; k < slots; ++k)
        total += row[order[k]];
      for (int64_t k = 0; k < slots; ++k) {
        expert.push_back(order[k]);
        rawScores.values.push_back(row[order[k]]);
        scores.values.push_back(slots > 1 ? row[order[k]] / total
                                          : row[order[k]]);
      }
      p.insert(p.end(), row.begin(), row.end());
    }
    routes.values = layout(expert, experts);
  }

  /// Order, its inverse, and where every expert begins.
  static std::vector<double> layout(const std::vector<int64_t> &expert,
                                    int64_t experts) {
    std::vector<double> order, inverse(expert.size()), offsets;
    for (int64_t e = 0; e < experts; ++e) {
      offsets.push_back(order.size());
      for (size_t i = 0; i < expert.size(); ++i)
        if (expert[i] == e) {
          inverse[i] = order.size();
          order.push_back(i);
        }
    }
    offsets.push_back(order.size());
    std::vector<double> routes = order;
    routes.insert(routes.end(), inverse.begin(), inverse.end());
    routes.insert(routes.end(), offsets.begin(), offsets.end());
    return routes;
  }
};

TEST_P(Routing, EqualsPlainLoops) {
  Sizes sizes = GetParam();
  Tensors unrounded = inputsFor(sizes);
  Reference reference(unrounded["logits"], sizes);
  for (const Mode &mode : ofHost(allModes())) {
    SCOPED_TRACE(nameOf(mode));
    // Logits and scores are kept in f32 in a bf16 model.
    Tensors in = unrounded;
    if (mode.type == "bf16")
      in["rows"] = roundToBf16(in["rows"]);
    Tensors out = run(sized(forward, sizes), in, mode);
    EXPECT_EQ(out["routes"].values, reference.routes.values);
    EXPECT_EQ(out["raw"].values, reference.routes.values);
    double precise = std::min(mode.tolerance, 1e-6);
    expectClose(out["scores"], reference.scores, precise, "scores");
    expectClose(out["rawScores"], reference.rawScores, precise, "raw scores");

    Tensor y{{2, 137, width}, std::vector<double>(tokens * width)}, z = y;
    for (int64_t i = 0; i < tokens * sizes.slots; ++i)
      for (int64_t d = 0; d < width; ++d) {
        int64_t row = reference.routes[tokens * sizes.slots + i];
        double value = in["rows"][row * width + d];
        y[i / sizes.slots * width + d] += reference.scores[i] * value;
        z[i / sizes.slots * width + d] += value;
      }
    expectClose(out["y"], y, mode.tolerance, "y");
    expectClose(out["z"], z, mode.tolerance, "z");
  }
}

TEST_P(Routing, GradientEqualsPlainLoops) {
  Sizes sizes = GetParam();
  int64_t experts = sizes.experts, slots = sizes.slots;
  Tensors in = inputsFor(sizes);
  const Tensor &ds = in["dscores"];
  Reference reference(in["logits"], sizes);
  Tensor dx{{2, 137, experts}, {}}, dr = dx;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<double> dp(experts), dq(experts);
    double total = 0, product = 0;
    for (int64_t i = t * slots; i < (t + 1) * slots; ++i) {
      total += reference.rawScores[i];
      product += ds[i] * reference.rawScores[i];
    }
    for (int64_t i = t * slots; i < (t + 1) * slots; ++i) {
      dq[reference.expert[i]] = ds[i];
      dp[reference.expert[i]] =
          slots > 1 ? (ds[i] - product / total) / total : ds[i];
    }
    auto throughSoftmax = [&](const std::vector<double> &from, Tensor &to) {
      double mean = 0;
      for (int64_t e = 0; e < experts; ++e)
        mean += from[e] * reference.p[t * experts + e];
      for (int64_t e = 0; e < experts; ++e)
        to.values.push_back(reference.p[t * experts + e] * (from[e] - mean));
    };
    throughSoftmax(dp, dx);
    throughSoftmax(dq, dr);
  }
  for (const Mode &mode : ofHost(preciseModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors out = run(sized(backward, sizes), in, mode);
    expectClose(out["dx"], dx, mode.tolerance, "renormalised");
    expectClose(out["dr"], dr, mode.tolerance, "raw");
  }
}

TEST_P(Routing, GradientEqualsDifferences) {
  Sizes sizes = GetParam();
  Tensors in = inputsFor(sizes);
  Tensors out = run(sized(backward, sizes), in, {"f64", 0, 0});
  TestProgram program = sized(forward, sizes);
  expectGradient(program, in, "scores", in["dscores"], "logits", out["dx"]);
  expectGradient(program, in, "rawScores", in["dscores"], "logits", out["dr"]);
}

TEST_P(Routing, SameBitsForAnyNumberOfThreads) {
  expectSameBitsOnThreads(sized(forward, GetParam()), inputsFor(GetParam()));
  expectSameBitsOnThreads(sized(backward, GetParam()), inputsFor(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Sizes, Routing,
                         ::testing::Values(Sizes{1, 1}, Sizes{5, 1},
                                           Sizes{6, 2}, Sizes{5, 3},
                                           Sizes{64, 2}),
                         [](const auto &info) {
                           return "E" + std::to_string(info.param.experts) +
                                  "K" + std::to_string(info.param.slots);
                         });

TEST(Route, LowerIndexWinsTies) {
  Sizes sizes{6, 2};
  Tensors in = inputsFor(sizes);
  // All equal, then a tie for the second place, then one for the first.
  const double rows[3][6] = {
      {1, 1, 1, 1, 1, 1}, {0, 2, 1, 2, 3, 2}, {0, 5, 1, 5, 5, 2}};
  const int64_t expected[3][2] = {{0, 1}, {4, 1}, {1, 3}};
  std::vector<int64_t> expert;
  for (int64_t t = 0; t < tokens; ++t) {
    std::copy_n(rows[t % 3], 6, in["logits"].values.begin() + t * 6);
    expert.insert(expert.end(), expected[t % 3], expected[t % 3] + 2);
  }
  for (const char *type : {"f32", "f64"}) {
    Tensors out = run(sized(forward, sizes), in, {type, 0, 0});
    EXPECT_EQ(out["routes"].values, Reference::layout(expert, 6)) << type;
  }
}

TEST(Route, ExpertsWithoutProbabilityAreSelectedOnce) {
  Sizes sizes{5, 3};
  Tensors in = inputsFor(sizes);
  std::vector<int64_t> expert;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t e = 0; e < 5; ++e)
      in["logits"][t * 5 + e] = e == 3 ? 0 : -1e4;
    for (int64_t e : {3, 0, 1})
      expert.push_back(e);
  }
  Tensors out = run(sized(forward, sizes), in, {"f32", 0, 0});
  EXPECT_EQ(out["routes"].values, Reference::layout(expert, 5));
  for (int64_t i = 0; i < tokens * 3; ++i)
    EXPECT_EQ(out["scores"][i], i % 3 == 0 ? 1 : 0);
}

TEST(Route, NanLogitMakesAllScoresOfItsTokenNan) {
  Sizes sizes = {5, 3};
  constexpr int64_t token = 7;
  for (double bad : {double(NAN), double(INFINITY)}) {
    Tensors in = inputsFor(sizes);
    in["logits"].values[token * sizes.experts + 2] = bad;
    Tensors out = run(sized(forward, sizes), in, {"f32", 0, 0});
    for (const char *scores : {"scores", "rawScores"})
      for (int64_t i = 0; i < tokens * sizes.slots; ++i)
        EXPECT_EQ(std::isnan(out[scores][i]), i / sizes.slots == token)
            << scores << " " << i;
  }
}

const TestProgram byGroups = {
    {{"logits", "2x137x5x$P"}, {"groups", "2x137xi32"}, {"rows", "274x70x$T"}},
    R"(
  %routes, %scores = moe.route %logits groups(%groups) : (tensor<2x137x5x$P>, tensor<2x137xi32>) -> (!moe.routes<274x5, 1>, tensor<2x137x1x$P>)
  %y = moe.combine %rows, %routes, %scores : (tensor<274x70x$T>, !moe.routes<274x5, 1>, tensor<2x137x1x$P>) -> tensor<2x137x70x$T>)",
    {{"routes", "!moe.routes<274x5, 1>"},
     {"scores", "2x137x1x$P"},
     {"y", "2x137x70x$T"}}};

TEST(Route, GroupsTakeTheirTokensWithScoreOne) {
  for (const Mode &mode : ofHost(allModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = inputsFor({5, 1});
    // The logits are not read, and a group may have no token.
    in["logits"].values.assign(in["logits"].size(), NAN);
    in["groups"] = randomIntegers({2, 137}, 0, 4, 5);
    in["rows"] = rounded(in, mode)["rows"];
    std::vector<int64_t> expert(in["groups"].values.begin(),
                                in["groups"].values.end());
    Tensors out = run(byGroups, in, mode);
    std::vector<double> routes = Reference::layout(expert, 5);
    EXPECT_EQ(out["routes"].values, routes);
    EXPECT_EQ(out["scores"].values, std::vector<double>(tokens, 1.0));
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t d = 0; d < width; ++d)
        EXPECT_EQ(out["y"][t * width + d],
                  in["rows"][int64_t(routes[tokens + t]) * width + d]);
  }
}

TEST(Route, GroupWithoutAnExpertHasScoreNan) {
  Tensors in = inputsFor({5, 1});
  in["groups"] = randomIntegers({2, 137}, 0, 5, 5);
  in["groups"][3] = -1;
  in["groups"][70] = 5;
  in["groups"][200] = 2147483647;
  Tensors out = run(byGroups, in, {"f32", 0, 0});
  for (int64_t t = 0; t < tokens; ++t)
    EXPECT_EQ(std::isnan(out["scores"][t]), t == 3 || t == 70 || t == 200);
}

TEST(Route, ByGroupsSameBitsForAnyNumberOfThreads) {
  Tensors in = inputsFor({5, 1});
  in["groups"] = randomIntegers({2, 137}, 0, 5, 5);
  expectSameBitsOnThreads(byGroups, in);
}

TEST(Route, ForcedExpertTakesAllWithScoreOne) {
  TestProgram program = {{{"logits", "2x137x5x$P"}, {"rows", "274x70x$T"}},
                         R"(
  %routes, %scores = moe.route %logits {forced_expert = 3 : i64} : (tensor<2x137x5x$P>) -> (!moe.routes<274x5, 1>, tensor<2x137x1x$P>)
  %y = moe.combine %rows, %routes, %scores : (tensor<274x70x$T>, !moe.routes<274x5, 1>, tensor<2x137x1x$P>) -> tensor<2x137x70x$T>)",
                         {{"routes", "!moe.routes<274x5, 1>"},
                          {"scores", "2x137x1x$P"},
                          {"y", "2x137x70x$T"}}};
  for (const Mode &mode : ofHost(allModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = inputsFor({5, 1});
    // The logits are not read.
    in["logits"].values.assign(in["logits"].size(), NAN);
    in["rows"] = rounded(in, mode)["rows"];
    Tensors out = run(program, in, mode);
    EXPECT_EQ(out["routes"].values,
              Reference::layout(std::vector<int64_t>(tokens, 3), 5));
    EXPECT_EQ(out["scores"].values, std::vector<double>(tokens, 1.0));
    EXPECT_EQ(out["y"].values, in["rows"].values);
  }
}

} // namespace
