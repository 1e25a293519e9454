//===-- Packing.h - panels, the layout of right operands --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A register tile reads its right operand as vectors of columns, one for each
// step of the inner dimension. Panels lay those vectors out in the order in
// which they are read: [panels, inner, lanes], zero beyond the last column.
// Packing moves data and nothing else, so it changes no bit of a result.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_KERNELS_PACKING_H
#define MOE_TARGET_KERNELS_PACKING_H

#include "moe/Target/KernelLowering.h"

namespace mlir::moe {

/// Lanes of a vector of `compute`.
int64_t lanesOf(const TargetDescription &target, Type compute);

/// The shape of the panels of `columns` columns.
SmallVector<int64_t> panelShape(int64_t columns, int64_t inner, int64_t lanes);
MemRefType panelType(int64_t columns, int64_t inner, int64_t lanes,
                     Type element);

/// Vector `step` of panel `panel`, which is given by all leading indices.
Value loadPanel(KernelBuilder &k, Value panels, ValueRange panel, Value step);

/// Inside a kernel: packs rows `row(0)` to `row(lanes - 1)` of `from`, columns
/// [lo, hi) of `width`, into a panel whose columns they become. `lo` is a
/// multiple of the lanes, `hi` too unless it is the width. Rows from `count` on
/// become zero; `row` gives any row that exists for them.
void packPanel(KernelBuilder &k, Value from, function_ref<Value(int64_t)> row,
               Value count, Value lo, Value hi, int64_t width, Value panels,
               ValueRange panel);

/// Packs `weight` [columns, inner], whose rows become columns: for `x
/// weight^T`.
Value packTransposed(KernelLowering &lowering, Operation *op, Value weight,
                     Type compute);
/// Packs `weight` [inner, columns] as it lies: for `dy weight`.
Value packStraight(KernelLowering &lowering, Operation *op, Value weight,
                   Type compute);

} // namespace mlir::moe

#endif // MOE_TARGET_KERNELS_PACKING_H
