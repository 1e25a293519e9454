//===-- Derivatives.h - what derivatives of ops share -----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_DIALECT_DERIVATIVES_H
#define MOE_LIB_DIALECT_DERIVATIVES_H

#include "moe/Dialect/MoE.h"

#include "mlir/IR/Builders.h"

namespace mlir::moe {

/// The type of the gradient of `parameter`.
inline Type gradientType(Value parameter) {
  return parameterGradientType(cast<RankedTensorType>(parameter.getType()));
}

/// Builds the wanted gradients of `op`, which computes `input weight^T` and
/// whose first operands are input and weight.
template <typename OpT>
void buildProductVjp(OpT op, OpBuilder &b, Value dy, ArrayRef<bool> wanted,
                     MutableArrayRef<Value> grads) {
  Value input = op.getInput(), weight = op.getWeight();
  if (wanted[0])
    grads[0] =
        LinearInputGradOp::create(b, op.getLoc(), input.getType(), dy, weight);
  if (wanted[1])
    grads[1] = LinearWeightGradOp::create(b, op.getLoc(), gradientType(weight),
                                          dy, input);
}

/// Replaces `op` by one that returns a value of type `saved`, too.
template <typename OpT>
Operation *replaceBySaving(RewriterBase &rewriter, OpT op, Type saved) {
  auto saving = OpT::create(rewriter, op.getLoc(),
                            TypeRange{op.getResult().getType(), saved},
                            op->getOperands(), op->getAttrs());
  rewriter.replaceOp(op, saving.getResult());
  return saving;
}

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_DERIVATIVES_H
