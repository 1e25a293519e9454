//===-- Losses.h - the objective with ATen ----------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TORCH_LOSSES_H
#define MOE_LIB_TORCH_LOSSES_H

#include "Interpreter.h"

#include "moe/Runtime/Objective.h"

namespace polymoe {

/// Sum of `-log p(label)` over the labels that are not negative. `logits` [B,
/// S, V], `labels` [B, S] I64.
at::Tensor nextTokenLoss(const at::Tensor &logits, const at::Tensor &labels);

/// The balance loss of one MoE layer: 1 (paper) or K (reference) when uniform.
at::Tensor balanceLoss(const RoutedLayer &layer, LossForm form);

/// The language-prior loss of one MoE layer, summed over the tokens where
/// `old` [B, S] is not 0: exactly 0 where there are none.
at::Tensor languagePriorLoss(const RoutedLayer &layer, const at::Tensor &old,
                             LossForm form);

/// The loss of the language gate of one layer, summed over all tokens: class 0
/// is right where `old` [B, S] is not 0, class 1 elsewhere.
at::Tensor classifierLoss(const RoutedLayer &layer, const at::Tensor &old);

/// The cross-entropy of the router of one layer, summed over all tokens: expert
/// `groups` [B, S] is right.
at::Tensor routerCrossEntropy(const RoutedLayer &layer,
                              const at::Tensor &groups);

/// `log p(label)`, 0 where the label is negative.
at::Tensor labelLogprobs(const at::Tensor &logits, const at::Tensor &labels);

} // namespace polymoe

#endif // MOE_LIB_TORCH_LOSSES_H
