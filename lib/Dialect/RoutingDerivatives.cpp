//===-- RoutingDerivatives.cpp - derivatives of routers, routes and experts
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Derivatives.h"

using namespace mlir;
using namespace mlir::moe;

void RouterOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                        MutableArrayRef<Value> grads) {
  buildProductVjp(*this, b, dy[0], wanted, grads);
}

void LanguageGateOp::buildVjp(OpBuilder &b, ValueRange dy,
                              ArrayRef<bool> wanted,
                              MutableArrayRef<Value> grads) {
  buildProductVjp(*this, b, dy[0], wanted, grads);
}

void PoolOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                      MutableArrayRef<Value> grads) {
  assert(!getSlots() && "slots come with a cache, in inference alone");
  if (wanted[0])
    grads[0] = PoolGradOp::create(b, getLoc(), dy[0], getKindAttr());
}

void RouteOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                       MutableArrayRef<Value> grads) {
  // The assignment has no gradient, the gate that decides it has none, and
  // neither has the score of a forced expert or of a group's.
  if (!wanted[0] || !dy[1] || getForcedExpert() || getGroups())
    return;
  grads[0] = RouteGradOp::create(b, getLoc(), dy[1], getLogits(), getRoutes(),
                                 getGate(), getRenormalizeAttr());
}

/// The type of the pre-activation of `rows` rows.
static RankedTensorType preactivationType(ValueRange weights, FfnForm form,
                                          int64_t rows) {
  auto up = cast<RankedTensorType>(weights.front().getType());
  int64_t hidden = up.getDimSize(0);
  return RankedTensorType::get(
      {rows, form == FfnForm::Gated ? 2 * hidden : hidden},
      up.getElementType());
}

static int64_t tokensOf(Value input) {
  auto type = cast<RankedTensorType>(input.getType());
  assert(type.hasStaticShape() && "differentiation needs static shapes");
  return type.getDimSize(0) * type.getDimSize(1);
}

Operation *FfnOp::saveForBackward(RewriterBase &rewriter) {
  if (getPreactivation())
    return *this;
  return replaceBySaving(
      rewriter, *this,
      preactivationType(getWeights(), getForm(), tokensOf(getInput())));
}

Operation *ExpertsOp::saveForBackward(RewriterBase &rewriter) {
  if (getPreactivation())
    return *this;
  return replaceBySaving(rewriter, *this,
                         preactivationType(getWeights(), getForm(),
                                           getRoutes().getType().getRows()));
}

/// Builds `moe.experts_grad` and assigns its results to the gradients of the
/// input, the scores (operand `scoresIndex`, if any) and the weights (from
/// operand `firstWeight` on).
static void buildExpertsVjp(OpBuilder &b, Location loc, Value dy, Value input,
                            Value scores, Value routes, Value preactivation,
                            ValueRange weights, FfnFormAttr form,
                            ActivationKindAttr activation,
                            ArrayRef<bool> wanted, unsigned scoresIndex,
                            unsigned firstWeight,
                            MutableArrayRef<Value> grads) {
  bool wantsScores = scores && wanted[scoresIndex];
  ArrayRef<bool> wantedWeights = wanted.drop_front(firstWeight);
  SmallVector<Type> weightTypes;
  for (auto [weight, want] : llvm::zip_equal(weights, wantedWeights))
    if (want)
      weightTypes.push_back(gradientType(weight));
  if (!wanted[0] && !wantsScores && weightTypes.empty())
    return;
  auto grad = ExpertsGradOp::create(
      b, loc, wanted[0] ? input.getType() : Type(),
      wantsScores ? scores.getType() : Type(), weightTypes, dy, input, scores,
      routes, preactivation, weights, form, activation,
      b.getDenseBoolArrayAttr(wantedWeights));
  if (wanted[0])
    grads[0] = grad.getDx();
  if (wantsScores)
    grads[scoresIndex] = grad.getDscores();
  auto next = grad.getDweights().begin();
  for (auto [i, want] : llvm::enumerate(wantedWeights))
    if (want)
      grads[firstWeight + i] = *next++;
}

void FfnOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                     MutableArrayRef<Value> grads) {
  buildExpertsVjp(b, getLoc(), dy[0], getInput(), Value(), Value(),
                  getPreactivation(), getWeights(), getFormAttr(),
                  getActivationAttr(), wanted, /*scoresIndex=*/0,
                  /*firstWeight=*/1, grads);
}

void ExpertsOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                         MutableArrayRef<Value> grads) {
  buildExpertsVjp(b, getLoc(), dy[0], getInput(), getScores(), getRoutes(),
                  getPreactivation(), getWeights(), getFormAttr(),
                  getActivationAttr(), wanted, /*scoresIndex=*/1,
                  /*firstWeight=*/3, grads);
}
