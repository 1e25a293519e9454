//===-- Routing.h - scalar work over the experts of a token -----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_KERNELS_ROUTING_H
#define MOE_TARGET_KERNELS_ROUTING_H

#include "moe/Target/KernelLowering.h"

namespace mlir::moe {

/// The work on a token of a loop over tokens and their experts, in operations.
inline int64_t routerWork(int64_t experts) {
  // An exponential and a division are worth some thirty simple operations.
  return 32 * experts;
}

/// Sum of `term(i)` for i from 0 to `count`, in order.
Value sumInOrder(KernelBuilder &k, int64_t count,
                 function_ref<Value(Value)> term);

/// `probabilities[e] = softmax(x)[e]`; returns `log sum_e exp(x(e))`.
Value softmaxInto(KernelBuilder &k, function_ref<Value(Value)> x,
                  Value probabilities, int64_t experts);
/// The same of a row of `logits`.
Value softmaxInto(KernelBuilder &k, Value logits, Value row,
                  Value probabilities, int64_t experts);

/// Stores the gradient of every logit of a softmax,
/// `p_e (gradient_e - sum_j gradient_j p_j)`.
void softmaxGradient(KernelBuilder &k, Value probabilities, Value gradient,
                     int64_t experts,
                     function_ref<void(Value e, Value value)> store);

} // namespace mlir::moe

#endif // MOE_TARGET_KERNELS_ROUTING_H
