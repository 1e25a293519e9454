//===-- Matmul.h - the schedule of every matrix product ---------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// One schedule, described once: blocks of rows are copied into scratch memory
// (gathered by index and widened there, or kept where pairs are multiplied),
// columns come in panels as wide as a vector, and a register tile sums over the
// whole inner dimension in ascending order before its epilogue sees the sums. A
// sum is one chain of multiply-adds whatever the tile, which is what makes a
// row's result independent of the other rows, of the batch and of the number of
// threads. On machines with AMX the register tile is 2 x 2 tiles, which take 32
// elements of the inner dimension at a time; all that differs is how operands
// lie and that epilogues read their sums from scratch memory.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_CPU_KERNELS_MATMUL_H
#define MOE_TARGET_CPU_KERNELS_MATMUL_H

#include "Kernels/RoutesView.h"
#include "Packing.h"
#include "RegisterTile.h"

#include <functional>

namespace mlir::moe {

/// Bytes of a row of the left operand beyond which a block of rows takes care
/// of the stack, where it lies: 48 such rows take 3 MiB.
constexpr int64_t longestRow = 64 << 10;

/// Accumulator vectors of a row of the register tile.
constexpr int64_t accumulators = 2;

/// How a product of `rows` x `inner` times `inner` x `columns` is cut into
/// tiles. Depends on shapes and on the target only.
struct MatmulTiling {
  /// `vectors` vectors of columns for each register tile: 2, or 1 where each
  /// column has two sums (gate and up).
  MatmulTiling(int64_t rows, int64_t inner, int64_t columns,
               const ProductTypes &types, int64_t vectors = accumulators);

  /// An expert has `share` rows if all have as many. Blocks get so tall that
  /// they hold all of them, where that is not too much for the second cache.
  void holdExpert(int64_t share);
  /// The same for weights that are packed by whoever multiplies by them, which
  /// is done once for each block: slices of the inner dimension keep its rows
  /// in the second cache. With `keepColumns` a tile has all columns of a block
  /// and rows are whole; returns false where these are so long that weights
  /// would be packed for few of them.
  bool holdExpertAtUse(int64_t share, bool keepColumns);
  /// Takes rows that are longer than longestRow in slices, too.
  void sliceLongRows();

  int64_t inner, columns;
  int64_t blockRows;        ///< rows copied to scratch memory at a time
  int64_t registerTileRows; ///< rows of a register tile
  int64_t vectors;          ///< vectors of columns of a register tile
  int64_t groupWidth;       ///< columns of a register tile
  int64_t groups;           ///< register tiles across all columns
  int64_t splits;           ///< tiles that share the columns of a block of rows
  int64_t groupsPerSplit;
  int64_t slice;      ///< elements of the inner dimension taken at a time
  bool usesAmx;       ///< a register tile is tiles of AMX
  bool atUse = false; ///< weights are packed by whoever multiplies by them

  int64_t rowBlocks(int64_t rows) const {
    return llvm::divideCeilSigned(rows, blockRows);
  }
  /// Gives all columns of a block of rows to one tile.
  void doNotSplit() { splitAfter(groups); }
  /// Gives a tile at most so many register tiles of columns.
  void splitAfter(int64_t most) {
    groupsPerSplit = most;
    splits = llvm::divideCeilSigned(groups, most);
  }

private:
  void setBlockRows(int64_t tiles);
  int64_t rows;
  int64_t rowBytes; ///< of a row of the left operand
  int64_t sumBytes; ///< of a vector of sums
};

/// A block of rows of the left operand: rows `first` to `first + count`, of
/// expert `expert` where rows are grouped.
struct RowBlock {
  Value first;
  Value count;
  Value expert;
};

/// The block of rows `index` of `rows` dense rows.
RowBlock denseRowBlock(KernelBuilder &k, Value index, int64_t rows,
                       int64_t blockRows);

/// The block of rows `index` of all experts; `count` is 0 for a block that none
/// of them has.
RowBlock routedRowBlock(KernelBuilder &k, Value index, const RoutesView &routes,
                        int64_t blockRows);

/// The rows of a block that its register tiles read, of which the last may have
/// fewer: none of an empty block.
Value rowsOfRegisterTiles(KernelBuilder &k, const RowBlock &block,
                          int64_t registerTileRows, int64_t blockRows);

/// Copies `count` rows into scratch memory [blockRows, width], in the type in
/// which they are multiplied; row i is `source(i)` (a row number of `from`),
/// from column `firstColumn` on,
/// the rest of the block is zero. Where pairs are multiplied, so is the column
/// after the last; for tiles, the 32 after the last. `scratch` comes from
/// scratchRows, and may be for wider rows.
Value scratchRows(KernelBuilder &k, int64_t blockRows, int64_t width,
                  const ProductTypes &types);
void packRows(KernelBuilder &k, Value from, const RowBlock &block,
              Value scratch, int64_t width, const ProductTypes &types,
              function_ref<Value(Value)> source, Value firstColumn = {});
/// The same in scratch memory of its own.
Value packRows(KernelBuilder &k, Value from, const RowBlock &block,
               int64_t blockRows, int64_t width, const ProductTypes &types,
               function_ref<Value(Value)> source);

/// The columns of a register tile: `group` counts register tiles across, and
/// there is one lane for each vector, masked where columns may be missing.
struct RegisterTileColumns {
  Value group;
  SmallVector<KernelBuilder::Lane> lanes;
};

/// For every register tile of the tile's columns and rows: `sums` gives the
/// accumulators of the tile that begins at row `row` of the block, vectors or
/// tiles; `epilogue` gets them as vectors row by row, for rows that exist.
/// `prepare` comes before all rows of the tile's columns.
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
/// Asks for what an epilogue will read, from row `row` of `from` on and
/// `offset` columns on: it comes from memory while the sums are made.
void prefetchRegisterTile(KernelBuilder &k, const MatmulTiling &tiling,
                          Value from, Value row,
                          const RegisterTileColumns &columns,
                          int64_t offset = 0);

/// The accumulators of a register tile, from rows `row` and on of `from`, to
/// which storeSums stored them; from its last for those beyond `rows` rows.
SmallVector<Value> loadSums(KernelBuilder &k, const MatmulTiling &tiling,
                            Value from, Value row, int64_t rows,
                            const RegisterTileColumns &columns);

/// A place in a buffer.
struct Place {
  Value buffer;
  SmallVector<Value> index;
};
/// A panel, by its place among panels.
struct Panel {
  Value buffer;
  SmallVector<Value> index;
  /// What is asked for at each step, if it is not the panel after the next: the
  /// second cache gets it while sums are made.
  std::function<Place(Value step)> ahead = {};
};
/// What a sum over panels may need to know of its left operand.
struct LeftOperand {
  /// The first column taken.
  int64_t offset = 0;
  /// The sums to go on from, zero if there are none.
  ValueRange init = {};
  /// The step of the panels that its first column is multiplied by.
  Value firstStep = {};
  /// Whether other sums go on from these, which are not scaled then.
  bool partial = false;
};
/// Sums of packed rows (from `row` on, `inner` columns) times panels;
/// `panel(j)` feeds accumulator vector `j`. Where panels are quantised, the
/// sums are of integers, and are scaled when they are finished.
SmallVector<Value> timesPanels(KernelBuilder &k, const MatmulTiling &tiling,
                               Value packed, Value row, int64_t inner,
                               function_ref<Panel(int64_t)> panel,
                               const LeftOperand &left = {});

/// Zero accumulators of a register tile.
SmallVector<Value> zeroSums(KernelBuilder &k, const MatmulTiling &tiling);

/// Where a sum over steps begins.
struct SumStart {
  /// The first step, 0 if there is none.
  Value step = {};
  /// The sums to go on from, zero if there are none.
  ValueRange init = {};
};
/// Sums over `steps` steps of columns `row + i` of `lhs` times the tile's
/// columns of `rhs`, both packed by packSteps.
SmallVector<Value> sumOuterProducts(KernelBuilder &k,
                                    const MatmulTiling &tiling,
                                    const ProductTypes &types, Value steps,
                                    Value lhs, Value row, Value rhs,
                                    const RegisterTileColumns &tile,
                                    const SumStart &start = {});

/// One operand of outer products: `columns` columns of `from`, packed into `to`
/// so that sums over rows read memory in order.
struct SteppedOperand {
  enum Side { Left, Right } side;
  Value from;
  int64_t firstColumn, columns;
  Value to;
};
/// Memory for `steps` steps of elements like those of `from` in panels as wide
/// as the register tile has rows (of the left operand), or as a vector (of the
/// right one).
Value leftPanels(KernelLowering &lowering, const MatmulTiling &tiling,
                 Value from, int64_t columns, int64_t steps,
                 const ProductTypes &types);
Value rightPanels(KernelLowering &lowering, Value from, int64_t columns,
                  int64_t steps, const ProductTypes &types);
/// Rows that are packed together: how many, where in the operand each is, and
/// at which step of the panels they begin (0 if not given).
struct RowList {
  Value count;
  function_ref<Value(Value)> row;
  Value firstStep = {};
};
/// Packs the steps [first, last) of `rows`.
using PackRows =
    function_ref<void(const RowList &rows, Value first, Value last)>;
/// Launches the packing of an operand into panels of `steps` steps. `body`
/// packs what belongs in the steps [first, last) of them, a tile's share.
void launchSteps(
    KernelLowering &lowering, Operation *op, const SteppedOperand &operand,
    const ProductTypes &types, int64_t steps,
    function_ref<void(KernelBuilder &, Value first, Value last, PackRows pack)>
        body);

//===----------------------------------------------------------------------===//
// Dense products, for any op
//===----------------------------------------------------------------------===//

/// `result[firstResult + t, n] = sum_k input[firstInput + t, k] w(k, n)` for
/// `rows` rows. `weight` is panels. The rows of `input` and `result` may be
/// longer than `inner` and `columns`.
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
