//===-- LossesTest.cpp - losses and their gradients against loops ---------===//
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

Tensor scalar(double value) { return {{}, {value}}; }

Tensor zerosLike(Tensor tensor) {
  tensor.values.assign(tensor.size(), 0);
  return tensor;
}

/// Of `count` numbers from `x` on.
std::vector<double> softmax(const double *x, int64_t count) {
  std::vector<double> p(x, x + count);
  double largest = *std::max_element(p.begin(), p.end()), sum = 0;
  for (double &value : p)
    sum += value = std::exp(value - largest);
  for (double &value : p)
    value /= sum;
  return p;
}

//===----------------------------------------------------------------------===//
// The next token
//===----------------------------------------------------------------------===//

class NextToken : public ModeTest {};

const TestProgram nextToken = {
    {{"logits", "2x37x101x$T"}, {"labels", "2x37xi32"}, {"weight", "$P"}},
    R"(
  %loss = moe.cross_entropy %logits, %labels, %weight : (tensor<2x37x101x$T>, tensor<2x37xi32>, tensor<$P>) -> tensor<$P>
  %logprobs = moe.token_logprobs %logits, %labels : (tensor<2x37x101x$T>, tensor<2x37xi32>) -> tensor<2x37x$P>)",
    {{"loss", "$P"}, {"logprobs", "2x37x$P"}}};

const TestProgram nextTokenGrad = {{{"logits", "2x37x101x$T"},
                                    {"labels", "2x37xi32"},
                                    {"weight", "$P"},
                                    {"dloss", "$P"}},
                                   R"(
  %dlogits = moe.cross_entropy_grad %dloss, %logits, %labels, %weight : (tensor<$P>, tensor<2x37x101x$T>, tensor<2x37xi32>, tensor<$P>) -> tensor<2x37x101x$T>)",
                                   {{"dlogits", "2x37x101x$T"}}};

TestProgram withVocabulary(TestProgram program, int64_t size) {
  auto widen = [&](std::string &text) {
    std::string wide = "x" + std::to_string(size) + "x";
    for (size_t at = 0; (at = text.find("x101x", at)) != std::string::npos;
         at += wide.size())
      text.replace(at, 5, wide);
  };
  for (auto *ports : {&program.inputs, &program.results})
    for (Port &port : *ports)
      widen(port.type);
  widen(program.body);
  return program;
}

Tensors nextTokenInputs(int64_t vocabulary) {
  Tensors in = {{"logits", randomTensor({2, 37, vocabulary}, 1)},
                {"labels", randomIntegers({2, 37}, 0, vocabulary, 2)},
                {"weight", scalar(0.015625)},
                {"dloss", scalar(1.5)}};
  for (double &value : in["logits"].values)
    value *= 8;
  // No label at the end of every row, and the ends of the vocabulary.
  in["labels"][36] = in["labels"][73] = -1;
  in["labels"][0] = 0;
  in["labels"][1] = vocabulary - 1;
  return in;
}

TEST_P(NextToken, LossAndItsGradient) {
  Mode mode = GetParam();
  // Routers have few experts.
  for (int64_t vocabulary : {1, 6, 101, 2003}) {
    SCOPED_TRACE(vocabulary);
    Tensors in = rounded(nextTokenInputs(vocabulary), mode);
    Tensor loss = scalar(0), logprobs = zerosLike(in["labels"]);
    Tensor dlogits = zerosLike(in["logits"]);
    for (int64_t t = 0; t < 74; ++t) {
      int64_t label = in["labels"][t];
      if (label < 0)
        continue;
      std::vector<double> p =
          softmax(&in["logits"].values[t * vocabulary], vocabulary);
      logprobs[t] = std::log(p[label]);
      loss[0] -= in["weight"][0] * logprobs[t];
      for (int64_t v = 0; v < vocabulary; ++v)
        dlogits[t * vocabulary + v] =
            1.5 * in["weight"][0] * (p[v] - (v == label));
    }
    Tensors forward = run(withVocabulary(nextToken, vocabulary), in, mode);
    double precise = std::min(mode.tolerance, 1e-6);
    expectClose(forward["loss"], loss, precise, "loss");
    expectClose(forward["logprobs"], logprobs, precise, "logprobs");
    for (int64_t t : {36, 73})
      EXPECT_EQ(forward["logprobs"][t], 0);
    Tensors backward = run(withVocabulary(nextTokenGrad, vocabulary), in, mode);
    expectClose(backward["dlogits"], dlogits, mode.tolerance, "dlogits");
    for (int64_t v = 0; v < vocabulary; ++v)
      EXPECT_EQ(backward["dlogits"][36 * vocabulary + v], 0);
  }
}

TEST_P(NextToken, LargeLogitsDoNotOverflow) {
  Mode mode = GetParam();
  Tensors in = nextTokenInputs(101);
  for (double &value : in["logits"].values)
    value = value > 0 ? 1024 : -1024;
  Tensors out = run(nextToken, in, mode);
  for (int64_t t = 0; t < 74; ++t) {
    int64_t label = in["labels"][t], largest = 0;
    for (int64_t v = 0; v < 101; ++v)
      largest += in["logits"][t * 101 + v] > 0;
    double expected = label < 0 ? 0 : -std::log(largest);
    if (label >= 0 && in["logits"][t * 101 + label] < 0)
      expected -= 2048;
    EXPECT_NEAR(out["logprobs"][t], expected, 1e-3);
  }
  EXPECT_TRUE(std::isfinite(out["loss"][0]));
}

INSTANTIATE_TEST_SUITE_P(Modes, NextToken, ::testing::ValuesIn(allModes()),
                         [](const auto &info) { return nameOf(info.param); });

TEST(CrossEntropyGradient, EqualsDifferences) {
  Tensors in = nextTokenInputs(101);
  Tensors out = run(nextTokenGrad, in, {"f64", 0, 0});
  expectGradient(nextToken, in, "loss", in["dloss"], "logits", out["dlogits"]);
}

TEST(CrossEntropyBits, SameForAnyNumberOfThreads) {
  Tensors in = nextTokenInputs(2003);
  expectSameBitsOnThreads(withVocabulary(nextToken, 2003), in);
  expectSameBitsOnThreads(withVocabulary(nextTokenGrad, 2003), in);
}

//===----------------------------------------------------------------------===//
// Routers
//===----------------------------------------------------------------------===//

constexpr int64_t tokens = 2 * 137, experts = 6, slots = 3;

class RouterLoss : public ModeTest {};

const TestProgram balance = {
    {{"logits", "2x137x6x$P"}, {"weight", "$P"}},
    R"(
  %routes, %scores = moe.route %logits : (tensor<2x137x6x$P>) -> (!moe.routes<274x6, 3>, tensor<2x137x3x$P>)
  %paper = moe.balance_loss %logits, %routes, %weight {form = #moe.form<paper>} : (tensor<2x137x6x$P>, !moe.routes<274x6, 3>, tensor<$P>) -> tensor<$P>
  %reference = moe.balance_loss %logits, %routes, %weight {form = #moe.form<reference>} : (tensor<2x137x6x$P>, !moe.routes<274x6, 3>, tensor<$P>) -> tensor<$P>)",
    {{"paper", "$P"}, {"reference", "$P"}, {"scores", "2x137x3x$P"}}};

const TestProgram balanceGrad = {
    {{"logits", "2x137x6x$P"}, {"weight", "$P"}, {"dloss", "$P"}},
    R"(
  %routes, %scores = moe.route %logits : (tensor<2x137x6x$P>) -> (!moe.routes<274x6, 3>, tensor<2x137x3x$P>)
  %paper = moe.balance_loss_grad %dloss, %logits, %routes, %weight {form = #moe.form<paper>} : (tensor<$P>, tensor<2x137x6x$P>, !moe.routes<274x6, 3>, tensor<$P>) -> tensor<2x137x6x$P>
  %reference = moe.balance_loss_grad %dloss, %logits, %routes, %weight {form = #moe.form<reference>} : (tensor<$P>, tensor<2x137x6x$P>, !moe.routes<274x6, 3>, tensor<$P>) -> tensor<2x137x6x$P>)",
    {{"paper", "2x137x6x$P"}, {"reference", "2x137x6x$P"}}};

const TestProgram prior = {
    {{"logits", "2x137x6x$P"}, {"old", "2x137xi32"}, {"weight", "$P"}},
    R"(
  %paper = moe.language_prior_loss %logits, %old, %weight {form = #moe.form<paper>} : (tensor<2x137x6x$P>, tensor<2x137xi32>, tensor<$P>) -> tensor<$P>
  %reference = moe.language_prior_loss %logits, %old, %weight {form = #moe.form<reference>} : (tensor<2x137x6x$P>, tensor<2x137xi32>, tensor<$P>) -> tensor<$P>)",
    {{"paper", "$P"}, {"reference", "$P"}}};

const TestProgram priorGrad = {
    {{"logits", "2x137x6x$P"},
     {"old", "2x137xi32"},
     {"weight", "$P"},
     {"dloss", "$P"}},
    R"(
  %paper = moe.language_prior_loss_grad %dloss, %logits, %old, %weight {form = #moe.form<paper>} : (tensor<$P>, tensor<2x137x6x$P>, tensor<2x137xi32>, tensor<$P>) -> tensor<2x137x6x$P>
  %reference = moe.language_prior_loss_grad %dloss, %logits, %old, %weight {form = #moe.form<reference>} : (tensor<$P>, tensor<2x137x6x$P>, tensor<2x137xi32>, tensor<$P>) -> tensor<2x137x6x$P>)",
    {{"paper", "2x137x6x$P"}, {"reference", "2x137x6x$P"}}};

Tensors routerInputs() {
  Tensors in = {{"logits", randomTensor({2, 137, 6}, 1)},
                {"old", randomIntegers({2, 137}, 0, 2, 2)},
                {"weight", scalar(0.0078125)},
                {"dloss", scalar(1.5)}};
  for (double &value : in["logits"].values)
    value *= 4;
  return in;
}

/// `p_e (dp_e - sum_j dp_j p_j)`.
std::vector<double> throughSoftmax(const std::vector<double> &p,
                                   const std::vector<double> &dp) {
  double mean = 0;
  std::vector<double> dx;
  for (size_t e = 0; e < p.size(); ++e)
    mean += p[e] * dp[e];
  for (size_t e = 0; e < p.size(); ++e)
    dx.push_back(p[e] * (dp[e] - mean));
  return dx;
}

TEST_P(RouterLoss, BalanceAndItsGradient) {
  Mode mode = GetParam();
  Tensors in = routerInputs();
  std::vector<double> share(experts), mean(experts);
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<double> p = softmax(&in["logits"].values[t * experts], experts);
    for (int64_t e = 0; e < experts; ++e) {
      mean[e] += p[e] / tokens;
      int64_t larger = 0;
      for (int64_t other = 0; other < experts; ++other)
        larger += p[other] > p[e];
      if (larger < slots)
        share[e] += static_cast<double>(experts) / (slots * tokens);
    }
  }
  Tensor paper = scalar(0), dpaper = zerosLike(in["logits"]);
  for (int64_t e = 0; e < experts; ++e)
    paper[0] += in["weight"][0] * share[e] * mean[e];
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<double> dp(experts);
    for (int64_t e = 0; e < experts; ++e)
      dp[e] = 1.5 * in["weight"][0] * share[e] / tokens;
    std::vector<double> dx =
        throughSoftmax(softmax(&in["logits"].values[t * experts], experts), dp);
    std::copy(dx.begin(), dx.end(), dpaper.values.begin() + t * experts);
  }
  // The released code's form is K times the paper's.
  auto timesK = [](Tensor tensor) {
    for (double &value : tensor.values)
      value *= slots;
    return tensor;
  };
  Tensors forward = run(balance, in, mode);
  expectClose(forward["paper"], paper, mode.tolerance, "paper");
  expectClose(forward["reference"], timesK(paper), mode.tolerance, "reference");
  Tensors backward = run(balanceGrad, in, mode);
  expectClose(backward["paper"], dpaper, mode.tolerance, "dpaper");
  expectClose(backward["reference"], timesK(dpaper), mode.tolerance,
              "dreference");
}

TEST_P(RouterLoss, LanguagePriorAndItsGradient) {
  Mode mode = GetParam();
  Tensors in = routerInputs();
  Tensor paper = scalar(0), reference = scalar(0);
  Tensor dpaper = zerosLike(in["logits"]), dreference = dpaper;
  for (int64_t t = 0; t < tokens; ++t) {
    if (in["old"][t] == 0)
      continue;
    std::vector<double> p = softmax(&in["logits"].values[t * experts], experts);
    double factor = in["weight"][0], sum = 0;
    for (double value : p)
      sum += std::exp(value);
    paper[0] -= factor * std::log(p[0]);
    reference[0] += factor * (std::log(sum) - p[0]);
    factor *= 1.5;
    std::vector<double> dp = softmax(p.data(), experts);
    dp[0] -= 1;
    for (int64_t e = 0; e < experts; ++e) {
      dpaper[t * experts + e] = factor * (p[e] - (e == 0));
      dreference[t * experts + e] = factor * throughSoftmax(p, dp)[e];
    }
  }
  Tensors forward = run(prior, in, mode);
  expectClose(forward["paper"], paper, mode.tolerance, "paper");
  expectClose(forward["reference"], reference, mode.tolerance, "reference");
  Tensors backward = run(priorGrad, in, mode);
  expectClose(backward["paper"], dpaper, mode.tolerance, "dpaper");
  expectClose(backward["reference"], dreference, mode.tolerance, "dreference");
}

TEST_P(RouterLoss, NothingWithoutOldTokens) {
  Mode mode = GetParam();
  Tensors in = routerInputs();
  in["old"] = zerosLike(in["old"]);
  in["weight"] = scalar(0);
  // Not even a logit that is far out matters.
  in["logits"][7] = 1e30;
  Tensors forward = run(prior, in, mode), backward = run(priorGrad, in, mode);
  for (const char *form : {"paper", "reference"}) {
    EXPECT_EQ(forward[form][0], 0) << form;
    for (double value : backward[form].values)
      EXPECT_EQ(value, 0) << form;
  }
}

TEST_P(RouterLoss, ReferencePriorIsBounded) {
  Mode mode = GetParam();
  Tensors in = routerInputs();
  in["weight"] = scalar(1);
  in["old"] = zerosLike(in["old"]);
  in["old"][5] = 1;
  for (int64_t chosen : {0, 4}) {
    for (int64_t e = 0; e < experts; ++e)
      in["logits"][5 * experts + e] = e == chosen ? 100 : 0;
    double expected = std::log(std::exp(1.0) + 5) - (chosen == 0);
    EXPECT_NEAR(run(prior, in, mode)["reference"][0], expected, 1e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, RouterLoss, ::testing::ValuesIn(preciseModes()),
                         [](const auto &info) { return nameOf(info.param); });

TEST(RouterLossGradient, EqualsDifferences) {
  Tensors in = routerInputs();
  Mode f64{"f64", 0, 0};
  Tensors dbalance = run(balanceGrad, in, f64),
          dprior = run(priorGrad, in, f64);
  for (const char *form : {"paper", "reference"}) {
    expectGradient(balance, in, form, in["dloss"], "logits", dbalance[form]);
    expectGradient(prior, in, form, in["dloss"], "logits", dprior[form]);
  }
}

TEST(RouterLossBits, SameForAnyNumberOfThreads) {
  Tensors in = routerInputs();
  for (const TestProgram &program : {balance, balanceGrad, prior, priorGrad})
    expectSameBitsOnThreads(program, in);
}

TEST(BalanceLoss, IsOneWhenUniform) {
  Tensors in = routerInputs();
  in["weight"] = scalar(1);
  // Equal logits select experts 0, 1 and 2, but P is uniform.
  in["logits"] = zerosLike(in["logits"]);
  Tensors out = run(balance, in, {"f32", 0, 0});
  EXPECT_NEAR(out["paper"][0], 1, 1e-6);
  EXPECT_NEAR(out["reference"][0], slots, slots * 1e-6);
}

//===----------------------------------------------------------------------===//
// Sums of losses
//===----------------------------------------------------------------------===//

TEST(WeightedSum, AddsTermsInOrder) {
  TestProgram program = {
      {{"x", "1x1xi32"}, {"a", "$P"}, {"b", "$P"}, {"c", "$P"}},
      R"(
  %y = moe.weighted_sum %a, %b, %c {coefficients = array<f64: 1.0, 0.01, -2.5>} : (tensor<$P>, tensor<$P>, tensor<$P>) -> tensor<$P>
  %z = moe.weighted_sum %b {coefficients = array<f64: 0.5>} : (tensor<$P>) -> tensor<$P>)",
      {{"y", "$P"}, {"z", "$P"}}};
  Tensors in = {{"x", {{1, 1}, {0}}},
                {"a", scalar(3)},
                {"b", scalar(0.75)},
                {"c", scalar(0.125)}};
  for (const Mode &mode : ofHost(preciseModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors out = run(program, in, mode);
    expectClose(out["y"], scalar(3 + 0.0075 - 0.3125), mode.tolerance, "y");
    expectClose(out["z"], scalar(0.375), mode.tolerance, "z");
  }
}

} // namespace
