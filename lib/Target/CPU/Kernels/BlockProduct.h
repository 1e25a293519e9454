//===-- BlockProduct.h - a block of rows times weights ----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The body of a work item of every product with weights: it copies a block of
// rows to a scratch buffer and multiplies them by the columns of its split, one
// register tile after the other.
//
// A weight comes in panels that were packed before, or it is packed at use: the
// work item that multiplies by it packs the panels of one register tile at a
// time and meanwhile prefetches the weights of the next one. If the block holds
// all rows of an expert, nothing is packed twice, no panel goes to memory, and
// the work item does not wait for memory.
//
// If rows are too long for a scratch buffer or for the L2 cache, the inner
// dimension is cut into slices of whole chains. Between slices the sums are
// kept in a scratch buffer, in the type of computation, so their bits do not
// change.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_CPU_KERNELS_BLOCKPRODUCT_H
#define MOE_TARGET_CPU_KERNELS_BLOCKPRODUCT_H

#include "Matmul.h"

namespace mlir::moe {

/// A right operand in a kernel.
struct RightOperand {
  enum class Form {
    Panels,
    Transposed, ///< a weight [columns, inner], packed at use
    Straight,   ///< a weight [inner, columns], packed at use
  };
  Form form;
  Value buffer;
};

/// The right operands of one term of a sum: one operand, or one for each of the
/// two sums of a column (gate and up).
using OperandTerm = SmallVector<RightOperand, 2>;

/// A block of rows of the left operand, and the terms that multiply it.
struct BlockProduct {
  const ProductTypes &types;
  const MatmulTiling &tiling;
  RowBlock block;
  Value split;
  /// Row i of the block is row `source(i)` of `rows`.
  Value rows;
  std::function<Value(Value)> source;
  /// The terms lie one after the other along the columns of `rows`, `inner` of
  /// them each.
  int64_t inner;
  SmallVector<OperandTerm, 2> terms;
};

/// Calls `epilogue` with the sums of each row of each register tile, as
/// forEachRegisterTile does, and `before` before those sums are made, with the
/// first row of the register tile.
void multiplyBlock(
    KernelBuilder &k, const BlockProduct &product,
    function_ref<void(Value row, const RegisterTileColumns &, ValueRange sums)>
        epilogue,
    function_ref<void(Value row, const RegisterTileColumns &)> before =
        [](Value, const RegisterTileColumns &) {});

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_KERNELS_BLOCKPRODUCT_H
