//===-- BlockProduct.h - a block of rows times weights ----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What the tile of every product with weights does: it copies a block of rows
// to scratch memory and multiplies them by the columns of its split, one
// register tile after the other.
//
// A weight comes in panels that were packed before, or as it lies. Then its
// panels are packed for one register tile of columns at a time, by the tile
// that multiplies by them, and the memory of the next ones is asked for
// meanwhile: a block that is all rows of an expert packs nothing twice, writes
// no panel to memory, and waits for none.
//
// Where rows are too long for scratch memory or for the second cache, the inner
// dimension is taken in slices. Sums wait in scratch memory for the next slice,
// which keeps their bits.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_CPU_KERNELS_BLOCKPRODUCT_H
#define MOE_TARGET_CPU_KERNELS_BLOCKPRODUCT_H

#include "Matmul.h"

namespace mlir::moe {

/// A right operand, inside a kernel.
struct RightOperand {
  enum class Form {
    Panels,
    Transposed, ///< a weight [columns, inner], packed at use
    Straight,   ///< a weight [inner, columns], packed at use
  };
  Form form;
  Value buffer;
};

/// One operand, or one for each sum of a column (gate and up).
using OperandTerm = SmallVector<RightOperand, 2>;

/// A block of rows of the left operand and what it is multiplied by.
struct BlockProduct {
  const ProductTypes &types;
  const MatmulTiling &tiling;
  RowBlock block;
  Value split;
  /// Row i of the block is `source(i)` of `rows`.
  Value rows;
  std::function<Value(Value)> source;
  /// Along the inner dimension, one after the other, `inner` of it each.
  int64_t inner;
  SmallVector<OperandTerm, 2> terms;
};

/// Calls `epilogue` with the sums of every row and vector of columns, as
/// forEachRegisterTile does, and `before` before the sums of a register tile
/// are made that begins at row `row` of the block.
void multiplyBlock(
    KernelBuilder &k, const BlockProduct &product,
    function_ref<void(Value row, const RegisterTileColumns &, ValueRange sums)>
        epilogue,
    function_ref<void(Value row, const RegisterTileColumns &)> before =
        [](Value, const RegisterTileColumns &) {});

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_KERNELS_BLOCKPRODUCT_H
