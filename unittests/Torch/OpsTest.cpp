//===-- OpsTest.cpp - ops against values computed by hand -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestModel.h"

#include "llvm/ADT/StringExtras.h"

#include <cmath>

using namespace polymoe;

/// A module whose "logits" are what `body` makes of %x, the row of @table that
/// each token names. `width` is %x's, `result` that of %y.
static std::string opModule(const std::string &body, int width, int result,
                            const std::string &parameters = "") {
  auto sized = [](std::string text, int width, int result) {
    auto replace = [&](const std::string &what, const std::string &with) {
      for (size_t at; (at = text.find(what)) != std::string::npos;)
        text.replace(at, what.size(), with);
    };
    replace("$W", std::to_string(width));
    replace("$R", std::to_string(result));
    return text;
  };
  return sized(R"(
moe.parameter backbone @table : tensor<4x$Wxf64> from #moe.init<zeros, seed = 0>
)" + parameters + R"(
func.func @forward(
    %tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">},
    %positions: tensor<?x?xi32> {moe.binding = #moe.binding<input, "positions">},
    %slots: tensor<?x?xi32> {moe.binding = #moe.binding<input, "slots">},
    %segments: tensor<?x?xi32> {moe.binding = #moe.binding<input, "segments">})
    -> (tensor<?x?x$Rxf64> {moe.binding = #moe.binding<output, "logits">}) {
  %table = moe.get_parameter @table : tensor<4x$Wxf64>
  %x = moe.embedding %tokens, %table : (tensor<?x?xi32>, tensor<4x$Wxf64>) -> tensor<?x?x$Wxf64>
)" + body + R"(
  return %y : tensor<?x?x$Rxf64>
}
)",
               width, result);
}

TEST(TorchOps, RmsNormOfGroupsAndWithOffset) {
  std::string parameter = "moe.parameter backbone @w : tensor<2xf64> from "
                          "#moe.init<ones, seed = 0>\n";
  auto body = [](const char *attributes) {
    return std::string("%w = moe.get_parameter @w : tensor<2xf64>\n"
                       "%y = moe.rms_norm %x, %w {") +
           attributes +
           "} : (tensor<?x?x4xf64>, tensor<2xf64>) -> tensor<?x?x4xf64>";
  };
  // Groups (3, 4) and (0, 2) have mean squares 12.5 and 2.
  TestModel plain(opModule(body("epsilon = 0.5"), 4, 4, parameter));
  plain.set("table", {3, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  plain.set("w", {1, 2});
  double r0 = 1 / std::sqrt(13.0), r1 = 1 / std::sqrt(2.5);
  expectNear(plain.logits(TestModel::row({0}), 4), {3 * r0, 8 * r0, 0, 4 * r1});

  TestModel offset(
      opModule(body("epsilon = 0.5, offset = 1.0"), 4, 4, parameter));
  offset.set("table", {3, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  offset.set("w", {1, 2});
  expectNear(offset.logits(TestModel::row({0}), 4),
             {6 * r0, 12 * r0, 0, 6 * r1});
}

TEST(TorchOps, LayerNorm) {
  TestModel model(opModule(
      "%w = moe.get_parameter @w : tensor<2xf64>\n"
      "%b = moe.get_parameter @b : tensor<2xf64>\n"
      "%y = moe.layer_norm %x, %w, %b {epsilon = 3.0} : (tensor<?x?x2xf64>, "
      "tensor<2xf64>, tensor<2xf64>) -> tensor<?x?x2xf64>",
      2, 2,
      "moe.parameter backbone @w : tensor<2xf64> from #moe.init<ones, seed = "
      "0>\n"
      "moe.parameter backbone @b : tensor<2xf64> from #moe.init<ones, seed = "
      "0>\n"));
  // Mean 4, variance 1: (3, 5) becomes (-1/2, 1/2).
  model.set("table", {3, 5, 0, 0, 0, 0, 0, 0});
  model.set("w", {2, 4});
  model.set("b", {10, 20});
  expectNear(model.logits(TestModel::row({0}), 2), {9, 22});
}

TEST(TorchOps, LayerNormWithoutBias) {
  TestModel model(opModule(
      "%w = moe.get_parameter @w : tensor<2xf64>\n"
      "%y = moe.layer_norm %x, %w {epsilon = 3.0} : (tensor<?x?x2xf64>, "
      "tensor<2xf64>) -> tensor<?x?x2xf64>",
      2, 2,
      "moe.parameter backbone @w : tensor<2xf64> from #moe.init<ones, seed = "
      "0>\n"));
  model.set("table", {3, 5, 0, 0, 0, 0, 0, 0});
  model.set("w", {2, 4});
  expectNear(model.logits(TestModel::row({0}), 2), {-1, 2});
}

TEST(TorchOps, ScaleAndSoftCap) {
  TestModel model(
      opModule("%z = moe.scale %x {factor = 0.5} : tensor<?x?x2xf64>\n"
               "%y = moe.soft_cap %z {cap = 3.0} : tensor<?x?x2xf64>",
               2, 2));
  model.set("table", {1, -2, 20, 0, 0, 0, 0, 0});
  expectNear(model.logits(TestModel::row({0, 1}), 2),
             {3 * std::tanh(0.5 / 3), -3 * std::tanh(1.0 / 3),
              3 * std::tanh(10.0 / 3), 0});
}

TEST(TorchOps, EmbeddingScale) {
  TestModel model(opModule(
      "%y = moe.embedding %tokens, %table {scale = 3.0} : (tensor<?x?xi32>, "
      "tensor<4x2xf64>) -> tensor<?x?x2xf64>",
      2, 2));
  model.set("table", {1, 2, 3, 4, 5, 6, 7, 8});
  expectNear(model.logits(TestModel::row({3, 1}), 2), {21, 24, 9, 12});
}

TEST(TorchOps, LinearWithBias) {
  TestModel model(opModule(
      "%w = moe.get_parameter @w : tensor<3x2xf64>\n"
      "%b = moe.get_parameter @b : tensor<3xf64>\n"
      "%y = moe.linear %x, %w, %b : (tensor<?x?x2xf64>, tensor<3x2xf64>, "
      "tensor<3xf64>) -> tensor<?x?x3xf64>",
      2, 3,
      "moe.parameter backbone @w : tensor<3x2xf64> from #moe.init<ones, seed = "
      "0>\n"
      "moe.parameter backbone @b : tensor<3xf64> from #moe.init<ones, seed = "
      "0>\n"));
  model.set("table", {1, 10, 0, 0, 0, 0, 0, 0});
  model.set("w", {1, 2, 3, 4, 5, 6});
  model.set("b", {100, 200, 300});
  expectNear(model.logits(TestModel::row({0}), 3), {121, 243, 365});
}

// The first half of a head turns into the second as the position grows.
TEST(TorchOps, RotaryTurnsHalvesOfEveryHead) {
  auto body = [](const char *inverse) {
    return std::string(
               "%cos, %sin = moe.rotary_table %positions {frequencies = "
               "array<f32: 1.57079637, 0.0>, scale = 2.0} : (tensor<?x?xi32>) "
               "-> (tensor<?x?x2xf64>, tensor<?x?x2xf64>)\n"
               "%y = moe.rotary %x, %cos, %sin ") +
           inverse +
           " : (tensor<?x?x8xf64>, tensor<?x?x2xf64>, tensor<?x?x2xf64>) -> "
           "tensor<?x?x8xf64>";
  };
  std::vector<double> table(32);
  std::iota(table.begin(), table.begin() + 8, 1.0);
  TestModel model(opModule(body(""), 8, 8));
  model.set("table", table);
  expectNear(model.logits(TestModel::row({0, 0}), 8),
             {2, 4, 6, 8, 10, 12, 14, 16, -6, 4, 2, 8, -14, 12, 10, 16});
  TestModel inverse(opModule(body("{inverse}"), 8, 8));
  inverse.set("table", table);
  expectNear(inverse.logits(TestModel::row({0, 0}), 8),
             {2, 4, 6, 8, 10, 12, 14, 16, 6, 4, -2, 8, 14, 12, -10, 16});
}

// Neighbours turn, in the first four elements of heads of six.
TEST(TorchOps, RotaryTurnsNeighboursOfAPartOfAHead) {
  TestModel model(opModule(
      "%cos, %sin = moe.rotary_table %positions {frequencies = "
      "array<f32: 1.57079637, 0.0>} : (tensor<?x?xi32>) -> "
      "(tensor<?x?x2xf64>, tensor<?x?x2xf64>)\n"
      "%y = moe.rotary %x, %cos, %sin {interleaved, head_dim = 6 : i64} : "
      "(tensor<?x?x12xf64>, tensor<?x?x2xf64>, tensor<?x?x2xf64>) -> "
      "tensor<?x?x12xf64>",
      12, 12));
  std::vector<double> table(48);
  std::iota(table.begin(), table.begin() + 12, 1.0);
  model.set("table", table);
  expectNear(model.logits(TestModel::row({0, 0}), 12),
             {1,  2, 3, 4, 5, 6, 7,  8, 9, 10, 11, 12, //
              -2, 1, 3, 4, 5, 6, -8, 7, 9, 10, 11, 12});
}

/// Attention of %x over itself, with scores that are all equal: every output
/// is the mean of what the query sees.
static TestModel uniformAttention(const std::string &attributes,
                                  const std::string &operands = "%slots",
                                  const std::string &types = "") {
  return TestModel(opModule(
      "%w = moe.get_parameter @zero : tensor<1x1xf64>\n"
      "%q = moe.linear %x, %w : (tensor<?x?x1xf64>, tensor<1x1xf64>) -> "
      "tensor<?x?x1xf64>\n"
      "%y = moe.attention %q, %x, %x, " +
          operands + " {heads = 1 : i64, kv_heads = 1 : i64, scale = 1.0" +
          attributes +
          "} : (tensor<?x?x1xf64>, tensor<?x?x1xf64>, tensor<?x?x1xf64>, "
          "tensor<?x?xi32>" +
          types + ") -> tensor<?x?x1xf64>",
      1, 1,
      "moe.parameter backbone @zero : tensor<1x1xf64> from #moe.init<zeros, "
      "seed "
      "= 0>\n"));
}

TEST(TorchOps, AttentionSeesThePast) {
  TestModel model = uniformAttention("");
  model.set("table", {1, 3, 8, 20});
  model.set("zero", {0});
  expectNear(model.logits(TestModel::row({0, 1, 2, 3}), 1), {1, 2, 4, 8});
}

TEST(TorchOps, AttentionWindow) {
  TestModel model = uniformAttention(", window = 2 : i64");
  model.set("table", {1, 3, 8, 20});
  model.set("zero", {0});
  expectNear(model.logits(TestModel::row({0, 1, 2, 3}), 1), {1, 2, 5.5, 14});
}

TEST(TorchOps, AttentionSegments) {
  TestModel model =
      uniformAttention("", "%slots, %segments", ", tensor<?x?xi32>");
  model.set("table", {1, 3, 8, 20});
  model.set("zero", {0});
  Batch batch = TestModel::row({0, 1, 2, 3});
  batch.segments = {0, 0, 1, 1};
  expectNear(model.logits(batch, 1), {1, 2, 8, 14});
}

// With one head, n = 1 and its slope is 2^-8.
TEST(TorchOps, AttentionAlibi) {
  TestModel model = uniformAttention(", alibi");
  model.set("table", {1, 3, 8, 20});
  model.set("zero", {0});
  double far = std::exp(-1.0 / 256);
  expectNear(model.logits(TestModel::row({0, 1}), 1),
             {1, (far * 1 + 3) / (far + 1)}, 1e-6);
}

// One head, whose query, key and value are the row itself.
TEST(TorchOps, AttentionSoftCap) {
  TestModel model(opModule(
      "%y = moe.attention %x, %x, %x, %slots {heads = 1 : i64, kv_heads = 1 : "
      "i64, scale = 0.5, softcap = 2.0} : (tensor<?x?x1xf64>, "
      "tensor<?x?x1xf64>, tensor<?x?x1xf64>, tensor<?x?xi32>) -> "
      "tensor<?x?x1xf64>",
      1, 1));
  model.set("table", {1, 3, 0, 0});
  auto weight = [](double dot) {
    return std::exp(2 * std::tanh(0.5 * dot / 2));
  };
  double near = weight(9), far = weight(3);
  expectNear(model.logits(TestModel::row({0, 1}), 1),
             {1, (far * 1 + near * 3) / (far + near)});
}

// Three heads: n = 2, slopes 2^-4, 2^-8, and 2^-2 for the head beyond n. Query
// heads all read the one key and value head.
TEST(TorchOps, AttentionGroupsHeadsAndSlopes) {
  TestModel model(opModule(
      "%p = moe.get_parameter @pick : tensor<1x3xf64>\n"
      "%k = moe.linear %x, %p : (tensor<?x?x3xf64>, tensor<1x3xf64>) -> "
      "tensor<?x?x1xf64>\n"
      "%y = moe.attention %x, %k, %k, %slots {heads = 3 : i64, kv_heads = 1 : "
      "i64, scale = 0.5, alibi} : (tensor<?x?x3xf64>, tensor<?x?x1xf64>, "
      "tensor<?x?x1xf64>, tensor<?x?xi32>) -> tensor<?x?x3xf64>",
      3, 3,
      "moe.parameter backbone @pick : tensor<1x3xf64> from #moe.init<ones, "
      "seed "
      "= 0>\n"));
  model.set("table", {1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0});
  model.set("pick", {1, 0, 0});
  // Keys are 1 and 4; the second token's queries 4, 5, 6.
  auto expected = [](double q, double slope) {
    double a = std::exp(0.5 * q * 1 - slope), b = std::exp(0.5 * q * 4);
    return (a * 1 + b * 4) / (a + b);
  };
  expectNear(model.logits(TestModel::row({0, 1}), 3),
             {1, 1, 1, expected(4, 1.0 / 16), expected(5, 1.0 / 256),
              expected(6, 1.0 / 4)});
}

static double gelu(double x) {
  return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
}
static double silu(double x) { return x / (1 + std::exp(-x)); }

TEST(TorchOps, PlainFfn) {
  TestModel model(opModule(
      "%u = moe.get_parameter @u : tensor<1x1xf64>\n"
      "%b = moe.get_parameter @b : tensor<1xf64>\n"
      "%d = moe.get_parameter @d : tensor<1x1xf64>\n"
      "%c = moe.get_parameter @c : tensor<1xf64>\n"
      "%y = moe.ffn %x, %u, %b, %d, %c {form = #moe.ffn<plain>, activation = "
      "#moe.activation<gelu>} : (tensor<?x?x1xf64>, tensor<1x1xf64>, "
      "tensor<1xf64>, tensor<1x1xf64>, tensor<1xf64>) -> tensor<?x?x1xf64>",
      1, 1,
      "moe.parameter backbone @u : tensor<1x1xf64> from #moe.init<ones, seed = "
      "0>\n"
      "moe.parameter backbone @b : tensor<1xf64> from #moe.init<ones, seed = "
      "0>\n"
      "moe.parameter backbone @d : tensor<1x1xf64> from #moe.init<ones, seed = "
      "0>\n"
      "moe.parameter backbone @c : tensor<1xf64> from #moe.init<ones, seed = "
      "0>\n"));
  model.set("table", {2, 0, 0, 0});
  model.set("u", {0.5});
  model.set("b", {0.25});
  model.set("d", {3});
  model.set("c", {7});
  expectNear(model.logits(TestModel::row({0}), 1), {3 * gelu(1.25) + 7});
}

TEST(TorchOps, PlainFfnWithoutBiases) {
  TestModel model(opModule(
      "%u = moe.get_parameter @u : tensor<1x1xf64>\n"
      "%d = moe.get_parameter @d : tensor<1x1xf64>\n"
      "%y = moe.ffn %x, %u, %d {form = #moe.ffn<plain>, activation = "
      "#moe.activation<gelu>} : (tensor<?x?x1xf64>, tensor<1x1xf64>, "
      "tensor<1x1xf64>) -> tensor<?x?x1xf64>",
      1, 1,
      "moe.parameter backbone @u : tensor<1x1xf64> from #moe.init<ones, seed = "
      "0>\n"
      "moe.parameter backbone @d : tensor<1x1xf64> from #moe.init<ones, seed = "
      "0>\n"));
  model.set("table", {2, 0, 0, 0});
  model.set("u", {0.5});
  model.set("d", {3});
  expectNear(model.logits(TestModel::row({0}), 1), {3 * gelu(1)});
}

/// Three experts `e` of width one, which compute `(e+1) * silu(x) * x`, under
/// the router logits (x, r1 x, r2 x). With `byToken` a token's group is its
/// number.
static TestModel mixture(int topK, const std::string &attributes,
                         bool byToken = false) {
  std::string body, parameters, operands, types;
  parameters =
      "moe.parameter backbone @r : tensor<3x1xf64> from #moe.init<ones, "
      "seed = 0>\nmoe.parameter backbone @one : tensor<1x1xf64> from "
      "#moe.init<ones, seed = 0>\n";
  body = "%r = moe.get_parameter @r : tensor<3x1xf64>\n"
         "%one = moe.get_parameter @one : tensor<1x1xf64>\n";
  for (std::string e : {"0", "1", "2"}) {
    parameters += "moe.parameter backbone @d" + e +
                  " : tensor<1x1xf64> from #moe.init<ones, seed = 0>\n";
    body += "%d" + e + " = moe.get_parameter @d" + e + " : tensor<1x1xf64>\n";
    operands += ", %one, %one, %d" + e;
    types += ", tensor<1x1xf64>, tensor<1x1xf64>, tensor<1x1xf64>";
  }
  std::string k = std::to_string(topK);
  body += "%l = moe.router %x, %r : (tensor<?x?x1xf64>, tensor<3x1xf64>) -> "
          "tensor<?x?x3xf64>\n%routes, %s = moe.route %l " +
          std::string(byToken ? "groups(%tokens) " : "") + attributes +
          " : (tensor<?x?x3xf64>" + (byToken ? ", tensor<?x?xi32>" : "") +
          ") -> (!moe.routes<?x3, " + k + ">, tensor<?x?x" + k +
          "xf64>)\n%y = moe.experts %x, %s, %routes" + operands +
          " {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : "
          "(tensor<?x?x1xf64>, tensor<?x?x" +
          k + "xf64>, !moe.routes<?x3, " + k + ">" + types +
          ") -> tensor<?x?x1xf64>";
  return TestModel(opModule(body, 1, 1, parameters));
}

static void fill(TestModel &model, const std::vector<double> &router) {
  model.set("table", {1, -1, 2, 0});
  model.set("r", router);
  model.set("one", {1});
  model.set("d0", {1});
  model.set("d1", {2});
  model.set("d2", {3});
}

TEST(TorchOps, ExpertsAreWeightedByRenormalisedScores) {
  TestModel model = mixture(2, "{renormalize}");
  fill(model, {0, 1, 2});
  // Token 0 (x = 1) takes experts 2 and 1, token 1 (x = -1) 0 and 1.
  double e = std::exp(1.0);
  expectNear(
      model.logits(TestModel::row({0, 1}), 1),
      {(3 * e + 2) / (e + 1) * silu(1), (1 * e + 2) / (e + 1) * silu(-1) * -1});
}

TEST(TorchOps, ScoresWithoutRenormalisation) {
  TestModel model = mixture(2, "");
  fill(model, {0, 1, 2});
  double e = std::exp(1.0), sum = 1 + e + e * e;
  expectNear(model.logits(TestModel::row({0}), 1),
             {(3 * e * e + 2 * e) / sum * silu(1)});
}

// As released: the output of a single choice is scaled by its probability.
TEST(TorchOps, OneChoiceIsNotRenormalised) {
  TestModel model = mixture(1, "{renormalize}");
  fill(model, {0, 1, 2});
  double e = std::exp(1.0), sum = 1 + e + e * e;
  expectNear(model.logits(TestModel::row({0}), 1), {3 * e * e / sum * silu(1)});
}

TEST(TorchOps, LowerIndexWinsTies) {
  TestModel one = mixture(1, "");
  fill(one, {0, 0, 0});
  expectNear(one.logits(TestModel::row({0}), 1), {silu(1) / 3});
  TestModel two = mixture(2, "{renormalize}");
  fill(two, {-1, 0, 0});
  expectNear(two.logits(TestModel::row({0}), 1), {2.5 * silu(1)});
}

TEST(TorchOps, PoolsOfGates) {
  auto pooled = [](const char *kind) {
    TestModel model(opModule(
        "%w = moe.get_parameter @w : tensor<2x1xf64>\n"
        "%g = moe.language_gate %x, %w : (tensor<?x?x1xf64>, tensor<2x1xf64>) "
        "-> tensor<?x?x2xf64>\n"
        "%y = moe.pool %g {kind = #moe.pool<" +
            std::string(kind) + ">} : (tensor<?x?x2xf64>) -> tensor<?x?x2xf64>",
        1, 2,
        "moe.parameter backbone @w : tensor<2x1xf64> from #moe.init<ones, seed "
        "= 0>\n"));
    model.set("table", {1, 3, 8, 0});
    model.set("w", {1, -2});
    return model.logits(TestModel::row({0, 1, 2}), 2);
  };
  expectNear(pooled("causal_mean"), {1, -2, 2, -4, 4, -8});
  expectNear(pooled("sequence_sum"), {12, -24, 12, -24, 12, -24});
}

TEST(TorchOps, GroupsAreExpertsWithScoreOne) {
  TestModel model = mixture(1, "", /*byToken=*/true);
  fill(model, {9, 0, 0});
  std::vector<float> logits = model.logits(TestModel::row({2, 0, 3}), 1);
  expectNear({logits[0], logits[1]}, {6 * silu(2), silu(1)});
  EXPECT_TRUE(std::isnan(logits[2]));
}

TEST(TorchOps, RowsOfMatricesAreJoined) {
  TestModel model(opModule(
      "%a = moe.get_parameter @a : tensor<2x1xf64>\n"
      "%b = moe.get_parameter @b : tensor<1x1xf64>\n"
      "%w = moe.concat_rows %a, %b : (tensor<2x1xf64>, tensor<1x1xf64>) -> "
      "tensor<3x1xf64>\n"
      "%y = moe.linear %x, %w : (tensor<?x?x1xf64>, tensor<3x1xf64>) -> "
      "tensor<?x?x3xf64>",
      1, 3,
      "moe.parameter backbone @a : tensor<2x1xf64> from #moe.init<ones, seed = "
      "0>\nmoe.parameter backbone @b : tensor<1x1xf64> from #moe.init<ones, "
      "seed = 0>\n"));
  model.set("table", {2, 0, 0, 0});
  model.set("a", {3, 4});
  model.set("b", {5});
  expectNear(model.logits(TestModel::row({0}), 3), {6, 8, 10});
}

TEST(TorchOps, ForcedExpertHasScoreOne) {
  TestModel model = mixture(1, "{forced_expert = 1 : i64}");
  fill(model, {9, 0, 0});
  expectNear(model.logits(TestModel::row({0, 2}), 1),
             {2 * silu(1), 4 * silu(2)});
}
