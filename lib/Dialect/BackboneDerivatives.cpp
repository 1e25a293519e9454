//===-- BackboneDerivatives.cpp - derivatives of the decoder's ops
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Derivatives.h"

using namespace mlir;
using namespace mlir::moe;

void EmbeddingOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                           MutableArrayRef<Value> grads) {
  if (wanted[1])
    grads[1] = EmbeddingGradOp::create(b, getLoc(), gradientType(getTable()),
                                       getTokens(), dy[0], getScaleAttr());
}

void RmsNormOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                         MutableArrayRef<Value> grads) {
  if (wanted[0])
    grads[0] =
        RmsNormGradOp::create(b, getLoc(), dy[0], getInput(), getWeight(),
                              getEpsilonAttr(), getOffsetAttr());
  if (wanted[1])
    grads[1] =
        RmsNormWeightGradOp::create(b, getLoc(), gradientType(getWeight()),
                                    dy[0], getInput(), getEpsilonAttr());
}

void LayerNormOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                           MutableArrayRef<Value> grads) {
  if (wanted[0])
    grads[0] = LayerNormGradOp::create(b, getLoc(), dy[0], getInput(),
                                       getWeight(), getEpsilonAttr());
  if (wanted[1])
    grads[1] =
        LayerNormWeightGradOp::create(b, getLoc(), gradientType(getWeight()),
                                      dy[0], getInput(), getEpsilonAttr());
  if (getBias() && wanted[2])
    grads[2] = ColumnSumOp::create(b, getLoc(), gradientType(getBias()), dy[0]);
}

void ConcatRowsOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                            MutableArrayRef<Value> grads) {
  int64_t first = 0;
  for (auto [i, input] : llvm::enumerate(getInputs())) {
    if (wanted[i])
      grads[i] = TakeRowsOp::create(b, getLoc(), gradientType(input), dy[0],
                                    b.getI64IntegerAttr(first));
    first += cast<RankedTensorType>(input.getType()).getDimSize(0);
  }
}

void LinearOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                        MutableArrayRef<Value> grads) {
  buildProductVjp(*this, b, dy[0], wanted, grads);
  if (getBias() && wanted[2])
    grads[2] = ColumnSumOp::create(b, getLoc(), gradientType(getBias()), dy[0]);
}

void AddOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                     MutableArrayRef<Value> grads) {
  grads[0] = wanted[0] ? dy[0] : Value();
  grads[1] = wanted[1] ? dy[0] : Value();
}

void ScaleOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                       MutableArrayRef<Value> grads) {
  if (wanted[0])
    grads[0] = ScaleOp::create(b, getLoc(), dy[0], getFactorAttr());
}

void SoftCapOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                         MutableArrayRef<Value> grads) {
  if (wanted[0])
    grads[0] =
        SoftCapGradOp::create(b, getLoc(), dy[0], getInput(), getCapAttr());
}

void RotaryOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                        MutableArrayRef<Value> grads) {
  // A rotation's transpose is its inverse. The table depends on no parameter.
  if (wanted[0])
    grads[0] =
        RotaryOp::create(b, getLoc(), dy[0], getCos(), getSin(), !getInverse(),
                         getInterleaved(), getHeadDimAttr());
}

Operation *AttentionOp::saveForBackward(RewriterBase &rewriter) {
  if (getLse())
    return *this;
  auto query = cast<RankedTensorType>(getQuery().getType());
  auto lse = RankedTensorType::get({query.getDimSize(0),
                                    static_cast<int64_t>(getHeads()),
                                    query.getDimSize(1)},
                                   preciseType(query.getElementType()));
  return replaceBySaving(rewriter, *this, lse);
}

void AttentionOp::buildVjp(OpBuilder &b, ValueRange dy, ArrayRef<bool> wanted,
                           MutableArrayRef<Value> grads) {
  auto grad = AttentionGradOp::create(
      b, getLoc(), dy[0], getQuery(), getKey(), getValue(), getResult(),
      getLse(), getSlots(), getSegments(), getHeadsAttr(), getKvHeadsAttr(),
      getScaleAttr(), getWindowAttr(), getAlibiAttr(), getSoftcapAttr());
  Value values[] = {grad.getDquery(), grad.getDkey(), grad.getDvalue()};
  for (int i : {0, 1, 2})
    if (wanted[i])
      grads[i] = values[i];
}
