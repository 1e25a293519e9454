//===-- Packing.h - panels, the layout of right operands --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A register tile reads its right operand as vectors of columns, one for each
// step of the inner dimension. Panels lay those vectors out in the order in
// which they are read: [panels, steps, lanes], zero beyond the last column.
// Where a step takes two elements of the inner dimension, a lane holds both:
// [panels, ceil(inner / 2), lanes * 2], zero beyond an odd end. Sixteen such
// steps of a panel are a tile, and there zeros fill up the last one. Packing
// moves data and nothing else, so it changes no bit of a result.
//
// Weights that do not train may be quantised instead: panels hold integers from
// -127 to 127, and behind the last step of each stand the scales of its
// columns, in the type of computation, in as many more steps as they take.
// Whoever loads a step gets integers as numbers, exact in bf16 too, and
// finished sums are multiplied by the scales once.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_CPU_KERNELS_PACKING_H
#define MOE_TARGET_CPU_KERNELS_PACKING_H

#include "moe/Target/KernelLowering.h"

namespace mlir::moe {

/// Lanes of a vector of `compute`.
int64_t lanesOf(const TargetDescription &target, Type compute);

/// In what types a product is made, which decides how its operands lie in
/// memory. Two operands in bf16 are multiplied in pairs or tiles of pairs where
/// the target can; one in f32 keeps its precision, and the other is widened.
struct ProductTypes {
  ProductTypes(const TargetDescription &target, Type lhs, Type rhs);

  Type compute;  ///< of sums
  Type operand;  ///< of left operands in scratch memory
  Type panel;    ///< of panels in memory; i8 where they are quantised
  int64_t lanes; ///< columns of a panel
  int64_t step;  ///< elements of the inner dimension that a step takes
  int64_t stepsOfAmxTile = 1; ///< steps of a tile
  int64_t registerTileRows;   ///< rows of a register tile

  /// A multiple of those taken at once.
  int64_t steps(int64_t inner) const {
    return llvm::divideCeilSigned(inner, step * stepsOfAmxTile) *
           stepsOfAmxTile;
  }
  Value steps(KernelBuilder &k, Value inner) const;
  bool inPairs() const { return step == 2; }
  bool usesAmx() const { return stepsOfAmxTile > 1; }
  /// The same product in pairs, where its shapes do not suit tiles.
  ProductTypes withoutAmx(const TargetDescription &target) const;
  /// The same product with quantised panels, which tiles do not take.
  ProductTypes withQuantisedPanels(const TargetDescription &target) const;
  bool quantised() const { return panel.isInteger(8); }
  /// Names the layout of panels, apart from their shape.
  std::string layout() const;
};

/// In what types `input` is multiplied by `weights`, which are quantised where
/// all of them may be.
ProductTypes typesOfWeights(const KernelLowering &lowering, Value input,
                            ValueRange weights);

/// The shape of the panels of `columns` columns.
SmallVector<int64_t> panelShape(int64_t columns, int64_t inner,
                                const ProductTypes &types);
MemRefType panelType(int64_t columns, int64_t inner, const ProductTypes &types,
                     Type element);
/// How many elements of the inner dimension a step of such panels takes.
int64_t stepOfPanels(const KernelBuilder &k, Value panels);

/// Vector `step` of panel `panel`, which is given by all leading indices.
Value loadPanel(KernelBuilder &k, Value panels, ValueRange panel, Value step);
bool isQuantised(Value panels);
/// By what sums over quantised panel `panel` are multiplied.
Value loadScales(KernelBuilder &k, Value panels, ValueRange panel);

/// Rows of `from` that become the columns of a panel.
struct TransposedRows {
  Value from;
  /// The number in `from` of each of as many rows as there are lanes. Those
  /// from `count` on become zero, and theirs may be any that exists.
  std::function<Value(Value)> row;
  Value count;
  /// The columns taken, from `firstColumn` on (0 if not given).
  int64_t width;
  Value firstColumn = {};
};
/// The rows from `first` on of a matrix, all columns of them.
TransposedRows consecutiveRows(KernelBuilder &k, Value from, Value first);
/// Inside a kernel: packs columns [lo, hi) of `rows` into a panel of `steps`
/// steps. `lo` is a multiple of a vector of `from`, `hi` too unless it is the
/// width. `convert` turns elements of row `i` into those of panels, where these
/// are not the same.
void packPanel(KernelBuilder &k, const TransposedRows &rows, Value lo, Value hi,
               int64_t steps, Value panels, ValueRange panel,
               function_ref<Value(int64_t i, Value)> convert = {});

/// Rows of `from`, as many of which as a step takes become one.
struct SteppedRows {
  Value from;
  /// The number in `from` of each of the rows 0 to `count`; zeros fill up the
  /// last steps.
  function_ref<Value(Value)> row;
  Value count;
  /// Where the first step goes in the panels, 0 if not given.
  Value firstStep = {};
};
/// Inside a kernel: packs the steps [first, last) of `rows`, `width` columns
/// from `firstColumn` on, into panels [panels, steps, columns of a panel *
/// step]. With `transposed`, for left operands of tiles, the pairs of a tile
/// are transposed: its rows are columns of `rows`. `first` and `last` are
/// multiples of its steps then.
void packSteps(KernelBuilder &k, const SteppedRows &rows, int64_t firstColumn,
               int64_t width, Value first, Value last, Value panels,
               const ProductTypes &types, bool transposed = false);
/// The same for the columns `lanes` alone, each of which becomes the panel of
/// its number.
void packSteps(KernelBuilder &k, const SteppedRows &rows,
               ArrayRef<KernelBuilder::Lane> lanes, Value first, Value last,
               Value panels, const ProductTypes &types);

/// Packs `weight` [columns, inner], whose rows become columns: for `x
/// weight^T`. Quantises it where `types` says so.
Value packTransposed(KernelLowering &lowering, Operation *op, Value weight,
                     const ProductTypes &types);
/// Packs `weight` [inner, columns] as it lies: for `dy weight`.
Value packStraight(KernelLowering &lowering, Operation *op, Value weight,
                   const ProductTypes &types);

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_KERNELS_PACKING_H
