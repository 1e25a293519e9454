//===-- Verify.h - what verifiers of several families share -----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Each function succeeds, or emits one error at `op` and fails. A dynamic
// dimension agrees with any other.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_DIALECT_VERIFY_H
#define MOE_LIB_DIALECT_VERIFY_H

#include "moe/Dialect/MoE.h"

namespace mlir::moe {

inline RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}

inline int64_t lastDim(Value value) { return typeOf(value).getShape().back(); }

/// Checks a dimension. `what` names it with its article: `a width`.
LogicalResult verifyDim(Operation *op, StringRef what, int64_t expected,
                        int64_t actual);

/// Checks the two leading dimensions, B and S.
LogicalResult verifyLeading(Operation *op, Value expected, Value actual);

LogicalResult verifySameType(Operation *op, StringRef what, Value expected,
                             Value actual);
LogicalResult verifySameElement(Operation *op, Value expected, Value actual);

/// Checks every dimension and the rank of `value`, which is called `what`.
LogicalResult verifyShape(Operation *op, StringRef what, Value value,
                          ArrayRef<int64_t> expected);

/// Checks that a width is a multiple of `factor`.
LogicalResult verifyMultiple(Operation *op, int64_t factor, int64_t width);

/// Checks that `heads` is a multiple of `kvHeads` and gives the width of keys
/// for queries of `queryWidth`.
FailureOr<int64_t> verifyHeads(Operation *op, int64_t queryWidth, int64_t heads,
                               int64_t kvHeads);

/// Checks that each of `experts` experts has weights of these shapes.
LogicalResult verifyWeights(Operation *op, ValueRange weights,
                            ArrayRef<SmallVector<int64_t>> shapes,
                            int64_t experts, Type element);

/// Checks the whole type of `value`, which is called `what`.
LogicalResult verifyType(Operation *op, StringRef what, Value value,
                         ArrayRef<int64_t> shape, Type element);

/// The width of a pre-activation: 2F for gate and up, or F.
inline int64_t preactivationWidth(FfnForm form, int64_t hidden) {
  return form == FfnForm::Gated ? 2 * hidden : hidden;
}

/// The number of tokens of a [B,S,...] value, dynamic if B or S is.
int64_t numTokens(Value value);

/// Checks that `routes`, if any, are for as many tokens as `tokens` [B,S,...].
LogicalResult verifyRoutes(Operation *op, Value routes, Value tokens);

/// Checks that `logits` are for the experts and the tokens of `routes`.
LogicalResult verifyLogits(Operation *op, Value logits,
                           TypedValue<RoutesType> routes);

/// The number of routed rows, or, without `routes` (null), that of tokens.
int64_t numRows(Value routes, Value tokens);

/// The number of experts of `routes`, or 1 without (null).
int64_t numExperts(Value routes);

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_VERIFY_H
