//===-- LinearCrossEntropyTest.cpp - the loss in chunks
//--------------------===//
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

constexpr int64_t tokens = 2 * 37, width = 50, vocabulary = 101;

/// 74 tokens in chunks of 20: the last one is smaller.
TestProgram program(const std::string &attributes = "") {
  return {
      {{"x", "2x37x50x$T"},
       {"w", "101x50x$T"},
       {"labels", "2x37xi32"},
       {"weight", "$P"}},
      "  %loss, %dx, %dw = moe.linear_cross_entropy %x, %w, %labels, %weight "
      "{chunk = 20 : i64" +
          attributes +
          "} : (tensor<2x37x50x$T>, tensor<101x50x$T>, tensor<2x37xi32>, "
          "tensor<$P>) -> tensor<$P> dx(tensor<2x37x50x$T>) "
          "dweight(tensor<101x50x$P>)\n",
      {{"loss", "$P"}, {"dx", "2x37x50x$T"}, {"dw", "101x50x$P"}}};
}

Tensors inputs() {
  Tensors in{{"x", randomTensor({2, 37, width}, 1)},
             {"w", randomTensor({vocabulary, width}, 2)},
             {"labels", randomIntegers({2, 37}, 0, vocabulary, 3)},
             {"weight", {{}, {0.03125}}}};
  in["labels"][36] = in["labels"][73] = -1;
  return in;
}

/// The three results from the equation, in double. `cap` is infinite without a
/// soft cap.
Tensors reference(const Tensors &in, double cap = INFINITY) {
  const Tensor &x = in.at("x"), &w = in.at("w"), &labels = in.at("labels");
  double weight = in.at("weight")[0];
  Tensors out{{"loss", {{}, {0}}},
              {"dx", {x.shape, std::vector<double>(x.size())}},
              {"dw", {w.shape, std::vector<double>(w.size())}}};
  for (int64_t t = 0; t < tokens; ++t) {
    if (labels[t] < 0)
      continue;
    std::vector<double> logits(vocabulary), slopes(vocabulary, 1);
    double sum = 0;
    for (int64_t v = 0; v < vocabulary; ++v) {
      for (int64_t i = 0; i < width; ++i)
        logits[v] += x[t * width + i] * w[v * width + i];
      if (std::isfinite(cap)) {
        logits[v] = cap * std::tanh(logits[v] / cap);
        slopes[v] = 1 - std::pow(logits[v] / cap, 2);
      }
      sum += std::exp(logits[v]);
    }
    auto label = static_cast<int64_t>(labels[t]);
    out["loss"][0] += weight * (std::log(sum) - logits[label]);
    for (int64_t v = 0; v < vocabulary; ++v) {
      double d =
          weight * slopes[v] * (std::exp(logits[v]) / sum - (v == label));
      for (int64_t i = 0; i < width; ++i) {
        out["dx"][t * width + i] += d * w[v * width + i];
        out["dw"][v * width + i] += d * x[t * width + i];
      }
    }
  }
  return out;
}

TEST(LinearCrossEntropy, EqualsPlainLoops) {
  for (const Mode &mode : ofHost(allModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors out = run(program(), inputs(), mode);
    for (auto &[name, expected] : reference(rounded(inputs(), mode)))
      expectClose(out[name], expected, 4 * mode.tolerance, name);
  }
}

TEST(LinearCrossEntropy, CapsLogits) {
  for (const Mode &mode : ofHost(allModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors out = run(program(", softcap = 2.0"), inputs(), mode);
    for (auto &[name, expected] : reference(rounded(inputs(), mode), 2))
      expectClose(out[name], expected, 4 * mode.tolerance, name);
  }
}

TEST(LinearCrossEntropy, SameBitsForAnyNumberOfThreads) {
  expectSameBitsOnThreads(program(), inputs());
  expectSameBitsOnThreads(program(", softcap = 2.0"), inputs());
}

} // namespace
