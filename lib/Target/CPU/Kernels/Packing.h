//===-- Packing.h - panels, the layout of right operands --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A register tile reads its right operand as vectors of columns, one for each
// inner step. Panels hold those vectors in the order in which they are read:
// [panels, steps, lanes], with zeros beyond the last column. In bf16 an inner
// step takes two elements of the inner dimension and a lane holds both:
// [panels, ceil(inner / 2), lanes * 2], with a zero after an odd number. For
// AMX, sixteen such steps of a panel are an AMX tile, and zeros fill up the
// last one. Packing only moves data, so it changes no bit of a result.
//
// Panels of weights that do not train may be quantised. Then a panel holds
// integers from -127 to 127, and after its last step the scales of its columns,
// in the type of computation, in as many more steps as they take. loadPanel
// converts the integers to floats, which is exact in bf16, too. Complete sums
// are multiplied by the scales once.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_CPU_KERNELS_PACKING_H
#define MOE_TARGET_CPU_KERNELS_PACKING_H

#include "moe/Target/KernelLowering.h"

namespace mlir::moe {

/// Lanes of a vector of `compute`.
int64_t lanesOf(const TargetDescription &target, Type compute);

/// The types of a product, which decide the layout of its operands. Two
/// operands in bf16 are multiplied in pairs, or in AMX tiles of pairs, if the
/// target supports that. If one is f32, the other is widened.
struct ProductTypes {
  ProductTypes(const TargetDescription &target, Type lhs, Type rhs);

  TargetDescription target;
  Type compute;  ///< type of sums
  Type operand;  ///< type of left operands in scratch buffers
  Type panel;    ///< type of panels; i8 where they are quantised
  int64_t lanes; ///< columns of a panel
  int64_t step;  ///< elements of the inner dimension in an inner step
  int64_t stepsOfAmxTile = 1; ///< inner steps of an AMX tile, if used
  int64_t registerTileRows;   ///< rows of a register tile

  /// Inner steps of `inner` elements, up to whole AMX tiles.
  int64_t steps(int64_t inner) const {
    return llvm::divideCeilSigned(inner, step * stepsOfAmxTile) *
           stepsOfAmxTile;
  }
  Value steps(KernelBuilder &k, Value inner) const;
  bool inPairs() const { return step == 2; }
  bool usesAmx() const { return stepsOfAmxTile > 1; }
  /// The same in pairs, for a product whose shapes do not suit AMX.
  ProductTypes withoutAmx() const;
  /// The same with quantised panels, which AMX tiles cannot be loaded from.
  ProductTypes withQuantisedPanels() const;
  bool quantised() const { return panel.isInteger(8); }
  /// A name for the layout of panels, without their shape.
  std::string layout() const;
};

/// The types of the product of `input` and `weights`, with quantised panels if
/// all weights are to be quantised.
ProductTypes typesOfWeights(const KernelLowering &lowering, Value input,
                            ValueRange weights);

/// The shape of the panels of `columns` columns.
SmallVector<int64_t> panelShape(int64_t columns, int64_t inner,
                                const ProductTypes &types);
/// Elements of the inner dimension in an inner step of these panels.
int64_t stepOfPanels(const KernelBuilder &k, Value panels);

/// Loads inner step `step` of panel `panel`, given by all leading indices.
Value loadPanel(KernelBuilder &k, Value panels, ValueRange panel, Value step);
bool isQuantised(Value panels);
/// Loads the scales of quantised panel `panel`, one for each column.
Value loadScales(KernelBuilder &k, Value panels, ValueRange panel);

/// Rows of `from` that become the columns of a panel.
struct TransposedRows {
  Value from;
  /// The row of `from` that becomes column i, for each lane. Columns from
  /// `count` on become zero; theirs may be any row that exists.
  std::function<Value(Value)> row;
  Value count;
  /// The columns taken, from `firstColumn` on (0 if not given).
  int64_t width;
  Value firstColumn = {};
};
/// Rows `first` and on of matrix `from`, with all of their columns.
TransposedRows consecutiveRows(KernelBuilder &k, Value from, Value first);
/// Inside a kernel: packs columns [lo, hi) of `rows` into a panel of `steps`
/// inner steps. `lo` and `hi` are multiples of lanes * elements per step; `hi`
/// may also be the width. `convert` converts elements of row `i` to the type of
/// panels, if that differs.
void packPanel(KernelBuilder &k, const TransposedRows &rows, Value lo, Value hi,
               int64_t steps, Value panels, ValueRange panel,
               function_ref<Value(int64_t i, Value)> convert = {});

/// Rows of `from` along the inner dimension: one row becomes an inner step, or
/// two rows do where a step is a pair.
struct SteppedRows {
  Value from;
  /// The row of `from` that is row r, for r in [0, count). Zeros fill up the
  /// last inner step, or AMX tile.
  function_ref<Value(Value)> row;
  Value count;
  /// The inner step of the panels where row 0 goes, 0 if not given.
  Value firstStep = {};
};
/// Inside a kernel: packs inner steps [first, last) of `rows`, `width` columns
/// from `firstColumn` on, into panels [panels, steps, columns of a panel *
/// elements per step]. `transposed` is for left operands of AMX: the rows of an
/// AMX tile are columns of `rows`, and `first` and `last` are multiples of
/// stepsOfAmxTile.
void packSteps(KernelBuilder &k, const SteppedRows &rows, int64_t firstColumn,
               int64_t width, Value first, Value last, Value panels,
               const ProductTypes &types, bool transposed = false);
/// The same for a few vectors of columns: `lanes[i]` becomes panel i.
void packSteps(KernelBuilder &k, const SteppedRows &rows,
               ArrayRef<KernelBuilder::Lane> lanes, Value first, Value last,
               Value panels, const ProductTypes &types);

/// Launches the packing of `weight` [columns, inner], for `x weight^T`, whose
/// rows become columns of panels. Quantises it if `types` are quantised.
Value packTransposed(KernelLowering &lowering, Operation *op, Value weight,
                     const ProductTypes &types);
/// Launches the packing of `weight` [inner, columns], for `dy weight`.
Value packStraight(KernelLowering &lowering, Operation *op, Value weight,
                   const ProductTypes &types);

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_KERNELS_PACKING_H
