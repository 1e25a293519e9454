//===-- Rows.h - sums over columns and over rows ----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What norms, losses and routing share. A row is reduced over its columns in
// one order, whichever work item it is in. A matrix is reduced over its rows in
// two launches: a partial sum for each work item, and their sum in order.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_KERNELS_ROWS_H
#define MOE_TARGET_KERNELS_ROWS_H

#include "moe/Target/KernelLowering.h"

namespace mlir::moe {

/// `value` where the lane has a column, `fill` where it is masked off.
Value maskedTo(KernelBuilder &k, Value value, KernelBuilder::Lane lane,
               double fill);

/// The sum of `term` over `width` columns.
Value sumColumns(KernelBuilder &k, int64_t width,
                 function_ref<Value(KernelBuilder::Lane)> term);

/// Inside a kernel: the element of a buffer of one.
Value loadOnly(KernelBuilder &k, Value outside);

/// Launches `loss = sum of terms`, times `weight` if it is given. Losses are
/// sums of many small terms, so in f64.
void sumTerms(KernelLowering &lowering, Operation *op, Value terms, Value loss,
              Value weight = {});

/// The largest element of a row, and the sum of `exp(x - maximum)` over the
/// row, of which a softmax and its logarithm are computed.
struct SoftmaxSums {
  Value maximum, sum;

  SoftmaxSums(KernelBuilder &k, Value x, Value row, int64_t width);
  /// `exp(x - maximum) / sum`, of a scalar or a vector.
  Value probability(KernelBuilder &k, Value x) const;
  /// `log sum exp(x) - value`.
  Value minusLogProbability(KernelBuilder &k, Value value) const;
};

/// The gradient of the cross-entropy of a row of logits `x` with label
/// `target`: `dx = factor * (softmax(x) - onehot(target)) * slope(x)`, of
/// vectors and scalars; without `slope` it is 1. `dx` may be the buffer `x`.
/// Returns the cross-entropy.
Value crossEntropyGradient(KernelBuilder &k, Value x, Value row, int64_t width,
                           Value target, Value factor, Value dx,
                           function_ref<Value(Value)> slope = nullptr);

/// Gives the vectors of a row that is summed.
using LaneTerm = std::function<Value(KernelBuilder::Lane)>;
/// Gives the LaneTerm of a row, after any computation on the whole row.
using RowTerm = std::function<LaneTerm(Value row)>;

/// `result[c] = sum over rows of term(row)[c]`, in the type of `result`, by
/// kernels of `op`.
void sumOverRows(KernelLowering &lowering, Operation *op, int64_t rows,
                 Value result, function_ref<RowTerm(KernelBuilder &)> term);

/// The part of addRowLowerings that is in Norms.cpp.
void addNormLowerings(LoweringTable &table);

} // namespace mlir::moe

#endif // MOE_TARGET_KERNELS_ROWS_H
