//===-- Matmul.h - the schedule of every matrix product ---------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// All matrix products have one schedule. A work item copies a block of rows of
// the left operand to a scratch buffer, gathered by index, and widened unless
// bf16 is multiplied in pairs. The right operand comes in panels, one vector of
// columns wide. A register tile sums over the inner dimension in ascending
// order, and then an epilogue gets the sums. Each sum adds up chains of
// multiply-adds, cut at the same elements whichever register tile it is in, so
// a row's result does not depend on the other rows, on the batch or on the
// number of threads.
//
// With AMX, a register tile is 2 x 2 AMX tiles, which take 32 elements of the
// inner dimension at a time. Only the layout of operands differs, and epilogues
// read their sums from a scratch buffer.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_CPU_KERNELS_MATMUL_H
#define MOE_TARGET_CPU_KERNELS_MATMUL_H

#include "Kernels/RoutesView.h"
#include "Packing.h"
#include "RegisterTile.h"

#include <functional>

namespace mlir::moe {

/// Vectors of sums (or AMX tiles) in each row of a register tile.
constexpr int64_t accumulators = 2;

/// Elements of the inner dimension in a chain of multiply-adds, which begins at
/// zero; a sum adds up its chains in order. Shorter chains err less. The bits
/// of results depend on this number, so it is the same for all targets.
/// Products in pairs or AMX tiles are one chain: the rounding of their operands
/// to bf16 is a far greater error.
constexpr int64_t chainLength = 256;

/// How a product of `rows` x `inner` times `inner` x `columns` is cut into work
/// items, blocks and register tiles. Depends on shapes and on the target only.
struct MatmulTiling {
  /// A register tile has `vectors` vectors of columns: 2, or 1 where each
  /// column has two sums (gate and up).
  MatmulTiling(int64_t rows, int64_t inner, int64_t columns,
               const ProductTypes &types, int64_t vectors = accumulators);

  /// Makes a block hold all rows of an expert (`share` of them if all experts
  /// have as many), unless that is too much for the L2 cache.
  void holdExpert(int64_t share);
  /// The same for weights that are packed at use, by every work item that
  /// multiplies by them: blocks hold all rows of an expert, and the inner
  /// dimension is cut into slices so that a block stays in the L2 cache. With
  /// `keepColumns` a work item has all columns of a block and the inner
  /// dimension is not cut; returns false if blocks would then have so few rows
  /// that packing at use does not pay.
  bool holdExpertAtUse(int64_t share, bool keepColumns);
  /// Cuts rows that are longer than TargetDescription::longestRow into slices.
  /// A slice is whole chains, so that slices change no bit.
  void sliceLongRows();

  int64_t inner, columns;
  int64_t blockRows;        ///< rows in a scratch buffer at a time
  int64_t registerTileRows; ///< rows of a register tile
  int64_t vectors;          ///< vectors of columns of a register tile
  int64_t tileWidth;        ///< columns of a register tile
  int64_t tilesAcross;      ///< register tiles across all columns
  int64_t splits;           ///< work items that share a block's columns
  int64_t tilesPerSplit;    ///< register tiles across those of a work item
  int64_t slice;            ///< elements of the inner dimension at a time
  bool usesAmx;             ///< whether a register tile is AMX tiles
  bool atUse = false;       ///< whether weights are packed at use

  int64_t rowBlocks(int64_t rows) const {
    return llvm::divideCeilSigned(rows, blockRows);
  }
  /// Gives all columns of a block to one work item.
  void doNotSplit() { splitAfter(tilesAcross); }
  /// Gives a work item at most `most` register tiles across.
  void splitAfter(int64_t most) {
    tilesPerSplit = most;
    splits = llvm::divideCeilSigned(tilesAcross, most);
  }

private:
  void setBlockRows(int64_t tiles);
  /// How many elements of a row fit `bytes`, a multiple of chainLength.
  int64_t wholeChains(int64_t bytes) const;
  TargetDescription target;
  int64_t rows;
  int64_t rowBytes; ///< bytes of a row of the left operand
  int64_t sumBytes; ///< bytes of a vector of sums
};

/// A block of rows of the left operand: rows `first` to `first + count`, of
/// `expert` where rows are grouped by expert.
struct RowBlock {
  Value first;
  Value count;
  Value expert;
};

/// Block number `index` of `rows` rows that are not grouped.
RowBlock denseRowBlock(KernelBuilder &k, Value index, int64_t rows,
                       int64_t blockRows);

/// Block number `index` of the rows of all experts. If they have fewer blocks,
/// its `count` is 0.
RowBlock routedRowBlock(KernelBuilder &k, Value index, const RoutesView &routes,
                        int64_t blockRows);

/// How many rows of a scratch buffer the register tiles of a block read: its
/// rows, up to whole register tiles.
Value rowsOfRegisterTiles(KernelBuilder &k, const RowBlock &block,
                          int64_t registerTileRows, int64_t blockRows);

/// A scratch buffer for packRows: `blockRows` rows of `width` columns, and the
/// zeros after them.
Value scratchRows(KernelBuilder &k, int64_t blockRows, int64_t width,
                  const ProductTypes &types);
/// Copies the rows of `block` to `scratch`, in the type in which they are
/// multiplied. Row i is row `source(i)` of `from`, from `firstColumn` on (0 if
/// not given). The rest of the last register tile is zero, and so are the
/// columns that a last inner step reads beyond `width`: one for pairs, 32 for
/// AMX. `scratch` may be for wider rows.
void packRows(KernelBuilder &k, Value from, const RowBlock &block,
              Value scratch, int64_t width, const ProductTypes &types,
              function_ref<Value(Value)> source, Value firstColumn = {});
/// The same in a new scratch buffer.
Value packRows(KernelBuilder &k, Value from, const RowBlock &block,
               int64_t blockRows, int64_t width, const ProductTypes &types,
               function_ref<Value(Value)> source);

/// The columns of a register tile: its number among those across, and a lane
/// for each vector, masked where the vector may reach beyond the last column.
struct RegisterTileColumns {
  Value number;
  SmallVector<KernelBuilder::Lane> lanes;
};

/// Runs every register tile of a block of rows and a split of columns. `sums`
/// makes the accumulators (vectors or AMX tiles) of the register tile that
/// begins at row `row` of the block. `epilogue` gets them as vectors, row by
/// row, for rows that exist. `prepare` is called for each number across, before
/// the first register tile there.
void forEachRegisterTile(
    KernelBuilder &k, const MatmulTiling &tiling, const RowBlock &block,
    Value split,
    function_ref<SmallVector<Value>(Value row, const RegisterTileColumns &)>
        sums,
    function_ref<void(Value row, const RegisterTileColumns &, ValueRange sums)>
        epilogue,
    function_ref<void(const RegisterTileColumns &)> prepare = {});

/// The epilogue that stores sums to row `row` of `to`, or adds them there.
void storeSums(KernelBuilder &k, ValueRange sums, Value to, Value row,
               const RegisterTileColumns &columns, bool add = false);
/// Prefetches what an epilogue will read of `from`: the rows and columns of the
/// register tile at row `row`, `offset` columns further on. The lines come from
/// memory while the sums are made.
void prefetchRegisterTile(KernelBuilder &k, const MatmulTiling &tiling,
                          Value from, Value row,
                          const RegisterTileColumns &columns,
                          int64_t offset = 0);

/// Loads the accumulators of the register tile at row `row` of `from`, where
/// storeSums stored them. Rows beyond the `rows` of `from` get its last row.
SmallVector<Value> loadSums(KernelBuilder &k, const MatmulTiling &tiling,
                            Value from, Value row, int64_t rows,
                            const RegisterTileColumns &columns);

/// An element of a buffer.
struct Element {
  Value buffer;
  SmallVector<Value> index;
};
/// A panel: a buffer of panels, and the index of one.
struct Panel {
  Value buffer;
  SmallVector<Value> index;
  /// The element whose cache line each inner step prefetches into the L2 cache.
  /// Without it, the next register tile's panel is prefetched if that pays.
  std::function<Element(Value step)> prefetch = {};
};
/// Which part of a left operand a sum takes, and what it continues.
struct LeftOperand {
  /// The first column.
  int64_t offset = 0;
  /// The sums to continue from; zero if empty.
  ValueRange init = {};
  /// The inner step of the panels that multiplies the first column. A chain
  /// begins there.
  Value firstStep = {};
  /// Whether another sum continues from this one. Then it is not scaled yet.
  bool partial = false;
};
/// The sums of a register tile: `inner` columns of rows `row` and on of
/// `packed` times panels, `panel(j)` for accumulator `j` of each row. Quantised
/// panels give sums of integers, which are scaled when they are complete.
SmallVector<Value> timesPanels(KernelBuilder &k, const MatmulTiling &tiling,
                               Value packed, Value row, int64_t inner,
                               function_ref<Panel(int64_t)> panel,
                               const LeftOperand &left = {});

/// Zero accumulators of a register tile.
SmallVector<Value> zeroSums(KernelBuilder &k, const MatmulTiling &tiling);

/// Where a sum over inner steps begins.
struct SumStart {
  /// The first inner step, 0 if not given.
  Value step = {};
  /// The sums to continue from; zero if empty.
  ValueRange init = {};
};
/// The sums of a register tile of `lhs^T rhs` over `steps` inner steps: columns
/// `row + i` of `lhs` times columns `tile` of `rhs`, both packed by packSteps.
SmallVector<Value> sumOuterProducts(KernelBuilder &k,
                                    const MatmulTiling &tiling,
                                    const ProductTypes &types, Value steps,
                                    Value lhs, Value row, Value rhs,
                                    const RegisterTileColumns &tile,
                                    const SumStart &start = {});

/// An operand of `lhs^T rhs`: `columns` columns of `from`, to be packed into
/// `to` so that sums over rows read memory in order.
struct SteppedOperand {
  enum Side { Left, Right } side;
  Value from;
  int64_t firstColumn, columns;
  Value to;
};
/// Buffers for `steps` inner steps of `columns` columns of `from`. The panels
/// are as wide as a register tile has rows (left), or as a vector (right).
Value leftPanels(KernelLowering &lowering, const MatmulTiling &tiling,
                 Value from, int64_t columns, int64_t steps,
                 const ProductTypes &types);
Value rightPanels(KernelLowering &lowering, Value from, int64_t columns,
                  int64_t steps, const ProductTypes &types);
/// Rows that are packed one after the other: how many, which row of the operand
/// each is, and the inner step where they begin in the panels (0 if not given).
struct RowList {
  Value count;
  function_ref<Value(Value)> row;
  Value firstStep = {};
};
/// Packs the inner steps [first, last) of `rows`.
using PackRows =
    function_ref<void(const RowList &rows, Value first, Value last)>;
/// Launches the packing of an operand into panels of `steps` inner steps.
/// `body` packs the steps [first, last), those of one work item.
void launchSteps(
    KernelLowering &lowering, Operation *op, const SteppedOperand &operand,
    const ProductTypes &types, int64_t steps,
    function_ref<void(KernelBuilder &, Value first, Value last, PackRows pack)>
        body);

//===----------------------------------------------------------------------===//
// Dense products, for any op
//===----------------------------------------------------------------------===//

/// `result[firstResult + t, n] = sum_k input[firstInput + t, k] w(k, n)` for
/// `rows` rows, where `weight` holds the panels of w. The rows of `input` and
/// `result` may be longer than `inner` and `columns`.
struct DenseProduct {
  ProductTypes types;
  Value input, weight, result;
  int64_t rows, inner, columns;
  int64_t firstInput = 0, firstResult = 0;
};
void launchProduct(KernelLowering &lowering, Operation *op,
                   const DenseProduct &product, Value bias = {});

/// `result[m, n] (+)= sum_t lhs[t, m] rhs[firstRhs + t, n]` over `rows` rows.
struct OuterProducts {
  Value lhs, rhs, result;
  int64_t rows, lhsWidth, rhsWidth;
  int64_t firstRhs = 0;
  bool accumulate = false;
};
void launchOuterProducts(KernelLowering &lowering, Operation *op,
                         const OuterProducts &products);

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_KERNELS_MATMUL_H
