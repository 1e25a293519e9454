//===-- Losses.cpp - the objective with ATen ------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The losses as docs/Methods.md defines them.
//
//===----------------------------------------------------------------------===//

#include "Losses.h"

#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/softmax.h>

namespace polymoe {

at::Tensor labelLogprobs(const at::Tensor &logits, const at::Tensor &labels) {
  at::Tensor taken = labels >= 0;
  at::Tensor logprobs = at::log_softmax(toPrecise(logits), -1)
                            .gather(-1, labels.clamp_min(0).unsqueeze(-1))
                            .squeeze(-1);
  return logprobs.masked_fill(taken.logical_not(), 0.0);
}

at::Tensor nextTokenLoss(const at::Tensor &logits, const at::Tensor &labels) {
  return -labelLogprobs(logits, labels).sum();
}

at::Tensor balanceLoss(const RoutedLayer &layer, LossForm form) {
  at::Tensor probabilities = at::softmax(layer.logits, -1).flatten(0, 1);
  at::Tensor selected = layer.selected.flatten(0, 1);
  int64_t tokens = selected.size(0), topK = selected.size(1);
  int64_t experts = probabilities.size(1);
  at::Tensor chosenBy = at::one_hot(selected, experts + 1)
                            .sum({0, 1})
                            .narrow(0, 0, experts)
                            .to(probabilities.scalar_type());
  at::Tensor meanProbability = probabilities.mean(0);
  // Paper: f_e = E / (K T) * #(tokens that select e). The released code sums
  // over the K choices without dividing by K.
  double factor = static_cast<double>(experts) / tokens;
  if (form == LossForm::Paper)
    factor /= topK;
  return factor * (chosenBy * meanProbability).sum();
}

at::Tensor languagePriorLoss(const RoutedLayer &layer, const at::Tensor &old,
                             LossForm form) {
  at::Tensor perToken;
  if (form == LossForm::Paper) {
    perToken = -at::log_softmax(layer.logits, -1).select(-1, 0);
  } else {
    at::Tensor probabilities = at::softmax(layer.logits, -1);
    perToken = at::logsumexp(probabilities, {-1}) - probabilities.select(-1, 0);
  }
  return perToken.masked_fill(old == 0, 0.0).sum();
}

at::Tensor classifierLoss(const RoutedLayer &layer, const at::Tensor &old) {
  at::Tensor classes = (old == 0).to(at::kLong).unsqueeze(-1);
  return -at::log_softmax(layer.gate, -1).gather(-1, classes).sum();
}

at::Tensor routerCrossEntropy(const RoutedLayer &layer,
                              const at::Tensor &groups) {
  at::Tensor right = groups.to(at::kLong).unsqueeze(-1);
  return -at::log_softmax(layer.logits, -1).gather(-1, right).sum();
}

} // namespace polymoe
