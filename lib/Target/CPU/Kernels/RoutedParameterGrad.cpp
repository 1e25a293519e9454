//===-- RoutedParameterGrad.cpp - gradients of experts' parameters --------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The gradients of all experts that train are made together, from their rows
// only. Rows are taken in slices, in their order, which bounds the memory for
// packed operands. Each expert's sums continue from where the previous slice
// left them, so a sum is one chain of multiply-adds, however rows are sliced.
//
//===----------------------------------------------------------------------===//

#include "Grouping.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

/// Whether an operand has a row for each token, not for each route.
static bool inTokenOrder(Value operand) {
  return cast<RankedTensorType>(operand.getType()).getRank() == 3;
}

/// The row of the operand that belongs to row `r` in the order of experts.
static Value operandRow(const RowOwners &owners, bool tokenOrder, Value r) {
  return tokenOrder ? owners.token(r) : r;
}

/// How the rows of the experts that train are cut into slices.
struct Slices {
  Slices(const Grouping &grouping, ArrayRef<int64_t> experts,
         const ProductTypes &types, int64_t rowBytes);

  /// The rows [lo, hi) of one expert that are in one slice.
  struct Segment {
    Value lo, hi;
    /// Whether an earlier slice has rows of the expert.
    Value goesOn;
    /// Whether this slice writes the expert's gradient: it has rows of the
    /// expert, or it is the first slice and the expert has no rows at all, so
    /// that its gradient is zero.
    Value isMine;
  };
  /// The segment of the i-th expert that trains, in the slice from `firstRow`
  /// on.
  Segment segment(KernelBuilder &k, const RowOwners &owners, Value firstRow,
                  Value i) const;
  /// The inner steps of a segment.
  Value stepsOf(KernelBuilder &k, const Segment &segment) const {
    return types.steps(k, k.sub(segment.hi, segment.lo));
  }
  /// Where the inner steps of the i-th expert begin among those of the slice.
  Value firstStep(KernelBuilder &k, const RowOwners &owners, Value firstRow,
                  Value i) const;
  /// The number among all experts of the i-th one that trains.
  Value expert(KernelBuilder &k, Value i) const;

  const Grouping &grouping;
  ArrayRef<int64_t> experts;
  const ProductTypes &types;
  int64_t rows;  ///< rows of a slice
  int64_t steps; ///< inner steps of a slice, at most
};

Slices::Slices(const Grouping &grouping, ArrayRef<int64_t> experts,
               const ProductTypes &types, int64_t rowBytes)
    : grouping(grouping), experts(experts), types(types) {
  // The packed operands of a slice about fit the last-level cache. Each slice
  // has enough rows to be worth reading and writing the gradients once more.
  int64_t most = std::max(types.target.lastLevelBytes / rowBytes,
                          int64_t(types.target.fewestRowsOfGradient));
  rows = llvm::divideCeilSigned(grouping.rows,
                                llvm::divideCeilSigned(grouping.rows, most));
  // Each expert's last inner step may be incomplete.
  auto count = static_cast<int64_t>(experts.size());
  steps = types.steps(rows) + count * types.stepsOfAmxTile;
}

Value Slices::expert(KernelBuilder &k, Value i) const {
  // Adds the experts that are left out before the i-th.
  Value expert = k.add(i, k.idx(experts[0]));
  for (size_t j = 1; j < experts.size(); ++j)
    if (int64_t skipped = experts[j] - experts[j - 1] - 1) {
      Value isBefore = k.less(i, k.idx(static_cast<int64_t>(j)));
      Value next = k.add(expert, k.idx(skipped));
      expert = k.select(isBefore, expert, next);
    }
  return expert;
}

Slices::Segment Slices::segment(KernelBuilder &k, const RowOwners &owners,
                                Value firstRow, Value i) const {
  auto [begin, end] = owners.rowsOf(expert(k, i));
  // Slices do not cut inner steps: an expert's rows pair up from its first on.
  int64_t together = types.step * types.stepsOfAmxTile;
  auto cut = [&, begin = begin, end = end](Value row) {
    Value before = k.max(k.sub(row, begin), k.idx(0));
    Value whole =
        k.mul(k.div(k.add(before, k.idx(together - 1)), k.idx(together)),
              k.idx(together));
    return k.min(k.add(begin, whole), end);
  };
  Value lo = cut(firstRow), hi = cut(k.add(firstRow, k.idx(rows)));
  Value goesOn = k.less(begin, lo);
  Value isEmpty =
      arith::CmpIOp::create(k, arith::CmpIPredicate::eq, begin, end);
  Value isFirst = k.less(firstRow, k.idx(1));
  Value isMine = arith::OrIOp::create(
      k, k.less(lo, hi), arith::AndIOp::create(k, isEmpty, isFirst));
  return {lo, hi, goesOn, isMine};
}

Value Slices::firstStep(KernelBuilder &k, const RowOwners &owners,
                        Value firstRow, Value i) const {
  return k.loop(k.idx(0), i, 1, k.idx(0), [&](Value j, Value before) {
    Value own = stepsOf(k, segment(k, owners, firstRow, j));
    return k.add(before, own);
  });
}

/// An expert's sums after the slice before if it `goesOn` from there, else 0.
static SmallVector<Value> sumsSoFar(KernelBuilder &k,
                                    const MatmulTiling &tiling, Value goesOn,
                                    function_ref<SmallVector<Value>()> load) {
  SmallVector<Value> zeros = zeroSums(k, tiling);
  auto branch = scf::IfOp::create(k, ValueRange(zeros).getTypes(), goesOn,
                                  /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(k);
  k.setInsertionPointToStart(branch.thenBlock());
  scf::YieldOp::create(k, load());
  k.setInsertionPointToStart(branch.elseBlock());
  scf::YieldOp::create(k, zeros);
  return SmallVector<Value>(branch.getResults());
}

/// Launches the packing of the rows of a slice of an operand.
static void packSlice(KernelLowering &lowering, RoutedWeightGradOp op,
                      const Slices &slices, const SteppedOperand &operand,
                      bool tokenOrder, Value first) {
  const Grouping &grouping = slices.grouping;
  launchSteps(
      lowering, op, operand, slices.types, slices.steps,
      [&](KernelBuilder &k, Value mine, Value end, PackRows pack) {
        Value firstRow = k.number(first);
        RowOwners owners(k, grouping, lowering, op.getRoutes());
        auto count = static_cast<int64_t>(slices.experts.size());
        // A work item packs its share of all experts' inner steps.
        k.loop(k.idx(0), k.idx(count), 1, k.idx(0), [&](Value i, Value steps) {
          Slices::Segment segment = slices.segment(k, owners, firstRow, i);
          Value own = slices.stepsOf(k, segment);
          Value first = k.max(k.sub(mine, steps), k.idx(0));
          Value last = k.min(k.sub(end, steps), own);
          k.ifThen(k.less(first, last), [&] {
            auto row = [&](Value r) {
              return operandRow(owners, tokenOrder, k.add(segment.lo, r));
            };
            pack({k.sub(segment.hi, segment.lo), row, steps}, first, last);
          });
          return k.add(steps, own);
        });
      });
}

/// The buffers of the gradients, and whether the op adds to them: it does if it
/// can for all.
static std::pair<SmallVector<Value>, bool>
gradientsOf(RoutedWeightGradOp op, KernelLowering &lowering) {
  bool addsUp = llvm::all_of(op.getDweights(), [&](Value dweight) {
    return lowering.offersSum(dweight);
  });
  SmallVector<Value> buffers;
  for (Value dweight : op.getDweights())
    buffers.push_back(addsUp ? lowering.takeSum(dweight)
                             : lowering.result(dweight));
  return {buffers, addsUp};
}

static void lowerRoutedWeightGrad(RoutedWeightGradOp op,
                                  KernelLowering &lowering) {
  if (op.getExperts().empty())
    return;
  Grouping grouping(op.getRoutes(), op.getLhs());
  auto weight = cast<RankedTensorType>(op.getDweights().front().getType());
  int64_t m = weight.getDimSize(0), n = weight.getDimSize(1);
  Type element = elementOf(op.getRhs());
  ProductTypes types(lowering.target(), elementOf(op.getLhs()), element);
  int64_t rowBytes = (m + n) * element.getIntOrFloatBitWidth() / 8;
  Slices slices(grouping, op.getExperts(), types, rowBytes);
  auto count = static_cast<int64_t>(op.getExperts().size());
  // The tiling assumes that all experts have as many rows.
  int64_t share = llvm::divideCeilSigned(grouping.rows, grouping.experts);
  MatmulTiling tiling(m, share, n, types);

  Value lhs = lowering.buffer(op.getLhs()), rhs = lowering.buffer(op.getRhs());
  Value left = leftPanels(lowering, tiling, lhs, m, slices.steps, types);
  Value right = rightPanels(lowering, rhs, n, slices.steps, types);
  auto [gradients, addsUp] = gradientsOf(op, lowering);
  Value table = lowering.table(gradients);
  auto gradientType = cast<MemRefType>(gradients.front().getType());
  for (int64_t first = 0; first < grouping.rows; first += slices.rows) {
    Value firstOfSlice = lowering.constant(first);
    packSlice(lowering, op, slices,
              {SteppedOperand::Left, lhs, static_cast<int64_t>(op.getOffset()),
               m, left},
              inTokenOrder(op.getLhs()), firstOfSlice);
    packSlice(lowering, op, slices, {SteppedOperand::Right, rhs, 0, n, right},
              inTokenOrder(op.getRhs()), firstOfSlice);

    int64_t itemsOfExpert = tiling.rowBlocks(m) * tiling.splits;
    double part =
        static_cast<double>(slices.rows) / static_cast<double>(grouping.rows);
    lowering.launch(
        op,
        {.workItems = count * itemsOfExpert,
         .compute = types.compute,
         .flops = part * flopsOf(op)},
        [&](KernelBuilder &k) {
          Value lhs = k.buffer(left);
          Value rhs = k.buffer(right);
          Value expert = k.div(k.workItem(), k.idx(itemsOfExpert));
          Value itemOfExpert = k.rem(k.workItem(), k.idx(itemsOfExpert));
          Value dw = k.tableEntry(table, expert, gradientType);
          RowOwners owners(k, grouping, lowering, op.getRoutes());
          Value firstRow = k.number(firstOfSlice);
          Slices::Segment segment = slices.segment(k, owners, firstRow, expert);
          Value steps = slices.stepsOf(k, segment);
          Value splits = k.idx(tiling.splits);
          RowBlock block = denseRowBlock(k, k.div(itemOfExpert, splits), m,
                                         tiling.blockRows);
          k.ifThen(segment.isMine, [&] {
            Value firstStep = slices.firstStep(k, owners, firstRow, expert);
            forEachRegisterTile(
                k, tiling, block, k.rem(itemOfExpert, splits),
                [&](Value row, const RegisterTileColumns &tile) {
                  Value first = k.add(block.first, row);
                  auto load = [&] {
                    return loadSums(k, tiling, dw, first, m, tile);
                  };
                  SmallVector<Value> init;
                  if (addsUp)
                    init = load();
                  else if (slices.rows < grouping.rows)
                    init = sumsSoFar(k, tiling, segment.goesOn, load);
                  return sumOuterProducts(k, tiling, types, steps, lhs, first,
                                          rhs, tile, {firstStep, init});
                },
                [&](Value row, const RegisterTileColumns &tile,
                    ValueRange sums) {
                  // The optimiser reads the gradients much later.
                  Value target = k.add(block.first, row);
                  for (auto [sum, lane] : llvm::zip_equal(sums, tile.lanes))
                    k.stream(sum, dw, target, lane);
                });
          });
        });
  }
}

static void lowerRoutedBiasGrad(RoutedBiasGradOp op, KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), op.getDy());
  int64_t width = widthOf(op.getDy());
  bool tokenOrder = inTokenOrder(op.getDy());
  for (auto [expert, dbias] :
       llvm::zip_equal(op.getExperts(), op.getDbiases())) {
    lowering.launch(
        op, {.workItems = 1, .compute = elementOf(dbias)},
        [&](KernelBuilder &k) {
          Value dy = k.matrix(lowering.buffer(op.getDy()));
          Value db = k.buffer(lowering.result(dbias));
          RowOwners owners(k, grouping, lowering, op.getRoutes());
          Value e = k.number(lowering.constant(expert));
          Value scores =
              k.buffer(lowering.buffer(op.getScores()), {grouping.rows});
          auto [lo, hi] = owners.rowsOf(e);
          k.columns(width, [&, lo = lo, hi = hi](KernelBuilder::Lane lane) {
            Value sum =
                k.loop(lo, hi, 1, k.splat(0.0), [&](Value r, Value acc) {
                  Value row = operandRow(owners, tokenOrder, r);
                  Value value = k.load(dy, row, lane);
                  if (!scores)
                    return k.addf(acc, value);
                  Value score =
                      k.broadcast(k.loadScalar(scores, owners.route(r)));
                  return k.fma(score, value, acc);
                });
            k.store(sum, db, ValueRange(), lane);
          });
        });
  }
}

void mlir::moe::addRoutedParameterGradLowerings(LoweringTable &table) {
  table.add(lowerRoutedWeightGrad, lowerRoutedBiasGrad);
}
