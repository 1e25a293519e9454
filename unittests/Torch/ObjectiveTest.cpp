//===-- ObjectiveTest.cpp - losses, gradients and sequences ---------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestModel.h"

#include "moe/Runtime/Error.h"

#include <cmath>

using namespace polymoe;

/// A decoder of two MoE layers that uses every differentiable op, all in f64.
/// The embedding is tied to the output projection. `pool` is what language
/// gates look at, if there are any.
static std::string decoder(const std::string &train,
                           const std::string &pool = "") {
  std::string text;
  auto parameter = [&](const std::string &role, const std::string &name,
                       const std::string &shape) {
    text +=
        "moe.parameter " +
        std::string(train.find(role) != std::string::npos ? "trainable " : "") +
        role + " @" + name + " : tensor<" + shape +
        "xf64> from #moe.init<ones, seed = 0>\n";
  };
  parameter("backbone", "embed", "7x4");
  parameter("backbone", "norm", "4");
  std::string calls, h = "%x";
  for (std::string l : {"0", "1"}) {
    std::string operands, types;
    auto argument = [&](const std::string &role, const std::string &name,
                        const std::string &shape) {
      parameter(role, name + l, shape);
      calls += "%" + name + l + " = moe.get_parameter @" + name + l +
               " : tensor<" + shape + "xf64>\n";
      operands += ", %" + name + l;
      types += ", tensor<" + shape + "xf64>";
    };
    argument("backbone", "n", "4");
    argument("backbone", "b", "4");
    argument("backbone", "q", "4x4");
    argument("backbone", "qb", "4");
    argument("backbone", "k", "2x4");
    argument("router", "r", "3x4");
    if (!pool.empty())
      argument("language_gate", "c", "2x4");
    for (std::string e : {"0", "1", "2"}) {
      std::string role = e == "0" ? "backbone" : "expert";
      argument(role, "g" + e + "_", "5x4");
      argument(role, "u" + e + "_", "5x4");
      argument(role, "d" + e + "_", "4x5");
    }
    calls += "%h" + l + " = func.call @layer(" + h + ", %cos, %sin, %slots" +
             operands +
             ") : (tensor<?x?x4xf64>, tensor<?x?x1xf64>, tensor<?x?x1xf64>, "
             "tensor<?x?xi32>" +
             types + ") -> tensor<?x?x4xf64>\n";
    h = "%h" + l;
  }
  std::string gateArgument, gate, gateOperand, gateType;
  if (!pool.empty()) {
    gateArgument = "%w: tensor<2x4xf64>, ";
    gate = "%c = moe.language_gate %h, %w : (tensor<?x?x4xf64>, "
           "tensor<2x4xf64>) -> tensor<?x?x2xf64>\n";
    gateOperand = ", %c";
    gateType = ", tensor<?x?x2xf64>";
  }
  if (pool == "causal_mean" || pool == "sequence_sum") {
    gate += "%p = moe.pool %c {kind = #moe.pool<" + pool +
            ">} : (tensor<?x?x2xf64>) -> tensor<?x?x2xf64>\n";
    gateOperand = ", %p";
  }
  return text + R"(
func.func @forward(
    %tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">},
    %positions: tensor<?x?xi32> {moe.binding = #moe.binding<input, "positions">},
    %slots: tensor<?x?xi32> {moe.binding = #moe.binding<input, "slots">},
    %segments: tensor<?x?xi32> {moe.binding = #moe.binding<input, "segments">})
    -> (tensor<?x?x7xf64> {moe.binding = #moe.binding<output, "logits">}) {
  %embed = moe.get_parameter @embed : tensor<7x4xf64>
  %norm = moe.get_parameter @norm : tensor<4xf64>
  %x = moe.embedding %tokens, %embed {scale = 2.0} : (tensor<?x?xi32>, tensor<7x4xf64>) -> tensor<?x?x4xf64>
  %cos, %sin = moe.rotary_table %positions {frequencies = array<f32: 0.3>} : (tensor<?x?xi32>) -> (tensor<?x?x1xf64>, tensor<?x?x1xf64>)
)" + calls +
         "%f = moe.rms_norm " + h +
         R"(, %norm {epsilon = 1.0e-5, offset = 1.0} : (tensor<?x?x4xf64>, tensor<4xf64>) -> tensor<?x?x4xf64>
  %logits = moe.linear %f, %embed : (tensor<?x?x4xf64>, tensor<7x4xf64>) -> tensor<?x?x7xf64>
  return %logits : tensor<?x?x7xf64>
}
func.func private @layer(%x: tensor<?x?x4xf64>, %cos: tensor<?x?x1xf64>, %sin: tensor<?x?x1xf64>, %slots: tensor<?x?xi32>,
    %n: tensor<4xf64>, %b: tensor<4xf64>, %q: tensor<4x4xf64>, %qb: tensor<4xf64>, %k: tensor<2x4xf64>, %r: tensor<3x4xf64>,
    )" + gateArgument +
         R"(%g0: tensor<5x4xf64>, %u0: tensor<5x4xf64>, %d0: tensor<4x5xf64>,
    %g1: tensor<5x4xf64>, %u1: tensor<5x4xf64>, %d1: tensor<4x5xf64>,
    %g2: tensor<5x4xf64>, %u2: tensor<5x4xf64>, %d2: tensor<4x5xf64>) -> tensor<?x?x4xf64> {
  %m = moe.layer_norm %x, %n, %b {epsilon = 1.0e-5} : (tensor<?x?x4xf64>, tensor<4xf64>, tensor<4xf64>) -> tensor<?x?x4xf64>
  %q0 = moe.linear %m, %q, %qb : (tensor<?x?x4xf64>, tensor<4x4xf64>, tensor<4xf64>) -> tensor<?x?x4xf64>
  %k0 = moe.linear %m, %k : (tensor<?x?x4xf64>, tensor<2x4xf64>) -> tensor<?x?x2xf64>
  %q1 = moe.rotary %q0, %cos, %sin : (tensor<?x?x4xf64>, tensor<?x?x1xf64>, tensor<?x?x1xf64>) -> tensor<?x?x4xf64>
  %k1 = moe.rotary %k0, %cos, %sin : (tensor<?x?x2xf64>, tensor<?x?x1xf64>, tensor<?x?x1xf64>) -> tensor<?x?x2xf64>
  %o = moe.attention %q1, %k1, %k0, %slots {heads = 2 : i64, kv_heads = 1 : i64, scale = 0.7} : (tensor<?x?x4xf64>, tensor<?x?x2xf64>, tensor<?x?x2xf64>, tensor<?x?xi32>) -> tensor<?x?x4xf64>
  %h = moe.add %x, %o : (tensor<?x?x4xf64>, tensor<?x?x4xf64>) -> tensor<?x?x4xf64>
  %l = moe.router %h, %r : (tensor<?x?x4xf64>, tensor<3x4xf64>) -> tensor<?x?x3xf64>
  )" + gate +
         "%routes, %s = moe.route %l" + gateOperand +
         " {renormalize} : (tensor<?x?x3xf64>" + gateType +
         R"() -> (!moe.routes<?x3, 2>, tensor<?x?x2xf64>)
  %y = moe.experts %h, %s, %routes, %g0, %u0, %d0, %g1, %u1, %d1, %g2, %u2, %d2 {form = #moe.ffn<gated>, activation = #moe.activation<gelu_tanh>} : (tensor<?x?x4xf64>, tensor<?x?x2xf64>, !moe.routes<?x3, 2>, tensor<5x4xf64>, tensor<5x4xf64>, tensor<4x5xf64>, tensor<5x4xf64>, tensor<5x4xf64>, tensor<4x5xf64>, tensor<5x4xf64>, tensor<5x4xf64>, tensor<4x5xf64>) -> tensor<?x?x4xf64>
  %z = moe.add %h, %y : (tensor<?x?x4xf64>, tensor<?x?x4xf64>) -> tensor<?x?x4xf64>
  return %z : tensor<?x?x4xf64>
}
)";
}

static Batch mixedBatch() {
  Batch batch = TestModel::row({0, 3, 6, 1, 1, 5});
  batch.old = {1, 1, 0, 0, 0, 1};
  batch.groups = {0, 2, 1, 1, 0, 2};
  return batch;
}

static const LossWeights mixedWeights = {1.0 / 5, 1.0 / 3, 1.0, 1.0 / 6};

struct ObjectiveCase {
  const char *name;
  Objective objective;
  const char *pool = "";
};

class TorchGradients : public testing::TestWithParam<ObjectiveCase> {};

// Whatever the executor calls the loss, its gradients are that loss's.
TEST_P(TorchGradients, MatchFiniteDifferences) {
  TestModel model(
      decoder("backbone expert router language_gate", GetParam().pool),
      GetParam().objective);
  Batch batch = mixedBatch();
  auto loss = [&] { return model.accumulate(batch, mixedWeights).at("loss"); };
  loss();
  std::map<std::string, std::vector<double>> gradients;
  for (const ParameterSpec &spec : model.store->specs()) {
    std::span<double> gradient = model.gradient(spec.name);
    gradients[spec.name].assign(gradient.begin(), gradient.end());
  }
  const double step = 1e-6;
  for (const ParameterSpec &spec : model.store->specs()) {
    std::span<double> values = model.values(spec.name);
    for (size_t i = 0; i < values.size(); i += 3) {
      double value = values[i];
      values[i] = value + step;
      double above = loss();
      values[i] = value - step;
      double below = loss();
      values[i] = value;
      EXPECT_NEAR(gradients[spec.name][i], (above - below) / (2 * step), 2e-8)
          << spec.name << " element " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Objectives, TorchGradients,
    testing::Values(
        ObjectiveCase{"NextToken", {}},
        ObjectiveCase{"BalancePaper", {.balance = 0.7}},
        ObjectiveCase{"BalanceReference",
                      {.balance = 0.7, .balanceForm = LossForm::Reference}},
        ObjectiveCase{"PriorPaper", {.languagePrior = 0.3}},
        ObjectiveCase{
            "PriorReference",
            {.languagePrior = 0.3, .languagePriorForm = LossForm::Reference}},
        ObjectiveCase{"Gated", {.balance = 0.7, .classifier = 0.4}, "token"},
        ObjectiveCase{"CausalMean", {.classifier = 0.4}, "causal_mean"},
        ObjectiveCase{"SequenceSum", {.classifier = 0.4}, "sequence_sum"},
        ObjectiveCase{"RouterCrossEntropy", {.routerCrossEntropy = 1.28}}),
    [](const auto &info) { return info.param.name; });

TEST(TorchObjective, LossIsItsWeightedTerms) {
  TestModel model(decoder("router"), {.balance = 0.5, .languagePrior = 0.25});
  Losses losses = model.accumulate(mixedBatch(), mixedWeights);
  EXPECT_NEAR(losses.at("loss"),
              losses.at("next_token") + 0.5 * losses.at("balance") +
                  0.25 * losses.at("language_prior"),
              1e-12);
  EXPECT_EQ(losses.size(), 4u);
}

// Gates of zeros are undecided, and the lower class wins a tie.
TEST(TorchObjective, UndecidedGatesSendAllToExpert0) {
  TestModel gated(decoder("router", "token"), {.balance = 1, .classifier = 1});
  for (const char *gate : {"c0", "c1"})
    std::ranges::fill(gated.values(gate), 0.0);
  Losses losses = gated.accumulate(mixedBatch(), mixedWeights);
  EXPECT_NEAR(losses.at("classifier"), std::log(2.0), 1e-12);
  for (double g : gated.gradient("r0"))
    EXPECT_NE(g, 0.0); // the balance loss's
  // A row for each of 6 tokens, all expert 0's, where 12 would be full.
  TestModel only(decoder("router", "token"), {.classifier = 1});
  for (const char *gate : {"c0", "c1"})
    std::ranges::fill(only.values(gate), 0.0);
  only.accumulate(mixedBatch(), mixedWeights);
  for (double g : only.gradient("r0"))
    EXPECT_EQ(g, 0.0);
}

TEST(TorchObjective, TermsWithoutCoefficientAreLeftOut) {
  TestModel model(decoder("router"));
  Losses losses = model.accumulate(mixedBatch(), mixedWeights);
  EXPECT_EQ(losses.size(), 2u);
  EXPECT_EQ(losses.at("loss"), losses.at("next_token"));
}

// Routers of zeros make every probability 1/3, and ties send all tokens to
// experts 0 and 1.
TEST(TorchObjective, RouterLossesOfUniformProbabilities) {
  auto losses = [](LossForm form) {
    TestModel model(decoder("router"), {.balance = 1,
                                        .balanceForm = form,
                                        .languagePrior = 1,
                                        .languagePriorForm = form});
    for (const char *router : {"r0", "r1"})
      std::ranges::fill(model.values(router), 0.0);
    return model.accumulate(mixedBatch(), mixedWeights);
  };
  Losses paper = losses(LossForm::Paper);
  EXPECT_NEAR(paper.at("balance"), 1, 1e-12);
  EXPECT_NEAR(paper.at("language_prior"), std::log(3.0), 1e-12);
  Losses reference = losses(LossForm::Reference);
  EXPECT_NEAR(reference.at("balance"), 2, 1e-12);
  // The double softmax: log(3 exp(1/3)) - 1/3.
  EXPECT_NEAR(reference.at("language_prior"), std::log(3.0), 1e-12);
}

// Certainty of expert 0, and of the other two in equal parts.
TEST(TorchObjective, RouterCrossEntropyOfUniformProbabilities) {
  TestModel model(decoder("router"), {.routerCrossEntropy = 1});
  for (const char *router : {"r0", "r1"})
    std::ranges::fill(model.values(router), 0.0);
  // 3 experts, and half of the tokens of the step.
  LossWeights weights = mixedWeights;
  weights.position /= 2;
  EXPECT_NEAR(
      model.accumulate(mixedBatch(), weights).at("router_cross_entropy"),
      std::log(3.0) / 2, 1e-12);
}

TEST(TorchObjective, RouterCrossEntropyNeedsAGroupOfEachToken) {
  TestModel model(decoder("router"), {.routerCrossEntropy = 1});
  Batch batch = mixedBatch();
  batch.groups[3] = -1;
  EXPECT_THROW(model.accumulate(batch, mixedWeights), Error);
}

TEST(TorchObjective, ReferencePriorOfCertainRouters) {
  for (auto [scale, expected] :
       {std::pair{1e3, std::log(std::exp(1.0) + 2) - 1},
        std::pair{-1e3, std::log(1 + 2 * std::exp(0.5))}}) {
    TestModel model(
        decoder("router"),
        {.languagePrior = 1, .languagePriorForm = LossForm::Reference});
    // Attention and experts add nothing, and every token has 100 as its first
    // feature, so that routers that read it alone are certain.
    for (const ParameterSpec &spec : model.store->specs())
      if (spec.name[0] == 'k' || spec.name[0] == 'd')
        std::ranges::fill(model.values(spec.name), 0.0);
    std::span<double> embed = model.values("embed");
    for (size_t i = 0; i < embed.size(); i += 4)
      embed[i] = 50;
    for (const char *router : {"r0", "r1"}) {
      std::ranges::fill(model.values(router), 0.0);
      model.values(router)[0] = scale;
    }
    Losses losses = model.accumulate(mixedBatch(), mixedWeights);
    EXPECT_NEAR(losses.at("language_prior"), expected, 1e-9);
  }
}

TEST(TorchObjective, NoOldTokensGiveExactlyZero) {
  for (LossForm form : {LossForm::Paper, LossForm::Reference}) {
    TestModel model(decoder("router"),
                    {.languagePrior = 1, .languagePriorForm = form});
    Batch batch = mixedBatch();
    std::ranges::fill(batch.old, 0);
    Losses losses = model.accumulate(batch, {0, 0, 1});
    EXPECT_EQ(losses.at("language_prior"), 0.0);
    EXPECT_EQ(losses.at("loss"), 0.0);
    for (double g : model.gradient("r0"))
      EXPECT_EQ(g, 0.0);
  }
}

TEST(TorchObjective, GradientsAddUp) {
  TestModel model(decoder("expert router"), {.balance = 0.5});
  model.accumulate(mixedBatch(), mixedWeights);
  std::span<double> gradient = model.gradient("g1_0");
  std::vector<double> once(gradient.begin(), gradient.end());
  EXPECT_GT(std::ranges::max(once), 0);
  model.accumulate(mixedBatch(), mixedWeights, {1, 2});
  for (size_t i = 0; i < once.size(); ++i)
    EXPECT_EQ(gradient[i], 2 * once[i]);
}

TEST(TorchSequences, ExtendingEqualsScoring) {
  TestModel model(decoder(""));
  const std::vector<std::vector<int32_t>> texts = {{0, 3, 6, 1, 1, 5},
                                                   {2, 4, 1}};
  std::vector<std::vector<float>> all;
  for (const std::vector<int32_t> &text : texts)
    all.push_back(model.logits(TestModel::row(text), 7));
  auto expectLogits = [&](std::span<const float> got, int text, int token) {
    for (int v = 0; v < 7; ++v)
      EXPECT_NEAR(got[v], all[text][token * 7 + v], 1e-6);
  };
  // Sequences of any lengths, some of which go on.
  model.executor.generator->beginSequences(2, 6);
  std::vector<float> both(14), one(7);
  auto part = [&](int64_t sequence, int text, size_t from, size_t count) {
    return Continuation{sequence, std::span(texts[text]).subspan(from, count)};
  };
  std::vector<Continuation> prompts = {part(1, 0, 0, 3), part(0, 1, 0, 1)};
  model.executor.generator->extendSequences(prompts, both);
  EXPECT_EQ(prompts[0].taken, 3);
  expectLogits(std::span(both).first(7), 0, 2);
  expectLogits(std::span(both).last(7), 1, 0);
  std::vector<Continuation> more = {part(1, 0, 3, 3)};
  model.executor.generator->extendSequences(more, one);
  expectLogits(one, 0, 5);
  more = {part(0, 1, 1, 2)};
  model.executor.generator->extendSequences(more, one);
  expectLogits(one, 1, 2);
  more = {part(1, 0, 0, 1)};
  EXPECT_THROW(model.executor.generator->extendSequences(more, one), Error);
  model.executor.generator->clearSequence(1);
  more = {part(1, 1, 0, 3)};
  model.executor.generator->extendSequences(more, one);
  expectLogits(one, 1, 2);
}

TEST(TorchErrors, NameWhatIsWrong) {
  auto expectError = [](const std::string &text, const std::string &what) {
    try {
      TestModel model(text);
      model.logits(TestModel::row({0}), 2);
      FAIL() << "expected an error";
    } catch (const Error &error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos)
          << error.what();
    }
  };
  expectError("", "@forward");
  expectError("func.func @forward(%x: tensor<?x?xi32> {moe.binding = "
              "#moe.binding<input, \"colours\">}) { return }",
              "'colours'");
}
