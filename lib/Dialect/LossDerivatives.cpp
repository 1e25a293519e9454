//===-- LossDerivatives.cpp - derivatives of losses
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"

#include "mlir/IR/Builders.h"

using namespace mlir;
using namespace mlir::moe;

void CrossEntropyOp::buildVjp(OpBuilder &b, ValueRange dy,
                              ArrayRef<bool> wanted,
                              MutableArrayRef<Value> grads) {
  if (wanted[0])
    grads[0] = CrossEntropyGradOp::create(b, getLoc(), dy[0], getLogits(),
                                          getLabels(), getWeight());
}

void BalanceLossOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                             MutableArrayRef<Value> grads) {
  if (wanted[0])
    grads[0] =
        BalanceLossGradOp::create(b, getLoc(), dy[0], getLogits(), getRoutes(),
                                  getWeight(), getFormAttr());
}

void LanguagePriorLossOp::buildVjp(OpBuilder &b, ValueRange dy,
                                   ArrayRef<bool> wanted,
                                   MutableArrayRef<Value> grads) {
  if (wanted[0])
    grads[0] = LanguagePriorLossGradOp::create(
        b, getLoc(), dy[0], getLogits(), getOld(), getWeight(), getFormAttr());
}

void ClassifierLossOp::buildVjp(OpBuilder &b, ValueRange dy,
                                ArrayRef<bool> wanted,
                                MutableArrayRef<Value> grads) {
  if (wanted[0])
    grads[0] = ClassifierLossGradOp::create(b, getLoc(), dy[0], getLogits(),
                                            getOld(), getWeight());
}

void WeightedSumOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                             MutableArrayRef<Value> grads) {
  for (auto [i, coefficient] : llvm::enumerate(getCoefficients()))
    if (wanted[i])
      grads[i] = b.createOrFold<WeightedSumOp>(
          getLoc(), getTerms()[i].getType(), dy[0],
          b.getDenseF64ArrayAttr({coefficient}));
}
