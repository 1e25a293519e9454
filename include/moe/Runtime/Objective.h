//===-- Objective.h - what training minimises -------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The objective of a training stage as plain data. The compiler turns it into
// ops (moe-add-objective); LibTorch's executor follows docs/Methods.md.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_OBJECTIVE_H
#define MOE_RUNTIME_OBJECTIVE_H

namespace polymoe {

/// A router loss as the paper prints it, or as the authors' released code
/// computes it.
enum class LossForm { Paper, Reference };

/// As options and attributes spell it.
inline const char *nameOf(LossForm form) {
  return form == LossForm::Paper ? "paper" : "reference";
}

/// `next_token + balance * balance_loss + languagePrior * language_prior_loss +
/// classifier * classifier_loss + routerCrossEntropy * router_cross_entropy`,
/// the router losses being means over the MoE layers and the classifier's over
/// those with a language gate. A coefficient of zero leaves its term out; a
/// model without gates has no classifier.
struct Objective {
  double balance = 0;
  LossForm balanceForm = LossForm::Paper;
  double languagePrior = 0;
  LossForm languagePriorForm = LossForm::Paper;
  double classifier = 0;
  double routerCrossEntropy = 0;
};

} // namespace polymoe

#endif // MOE_RUNTIME_OBJECTIVE_H
