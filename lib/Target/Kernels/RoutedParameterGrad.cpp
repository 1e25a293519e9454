//===-- RoutedParameterGrad.cpp - gradients of experts' parameters --------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The gradients of all experts that train are made together, from the rows of
// those only. Rows are taken in slices, in the order of the routes: memory for
// packed operands does not grow with them, and every expert's sum goes on where
// it was after the slice before, one chain whatever the slices.
//
//===----------------------------------------------------------------------===//

#include "Grouping.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

/// Rows of an operand: its tokens, read through the routes, or as they lie.
static bool inTokenOrder(Value operand) {
  return cast<RankedTensorType>(operand.getType()).getRank() == 3;
}

/// The rows [lo, hi) of one expert.
static std::pair<Value, Value> expertRows(KernelBuilder &k,
                                          const Grouping &grouping,
                                          Value routes, Value expert) {
  if (!grouping.routed)
    return {k.idx(0), k.idx(grouping.rows)};
  Value position = k.add(expert, k.idx(2 * grouping.rows));
  return {k.loadIndex(routes, position),
          k.loadIndex(routes, k.add(position, k.idx(1)))};
}

/// The row of an operand that routed row `r` reads.
static Value operandRow(KernelBuilder &k, const Grouping &grouping,
                        Value routes, bool tokenOrder, Value r) {
  if (!grouping.routed || !tokenOrder)
    return r;
  Value slot = k.loadIndex(routes, r);
  return grouping.topK == 1 ? slot : k.div(slot, k.idx(grouping.topK));
}

/// Of the experts that train, the slice of rows that are multiplied together.
struct Slices {
  Slices(const Grouping &grouping, ArrayRef<int64_t> experts,
         const ProductTypes &types, int64_t rowBytes);

  /// Rows of one expert in one slice.
  struct Segment {
    Value lo, hi;
    /// Whether rows of the expert were in the slice before.
    Value goesOn;
    /// Whether there is anything to do: rows, or an expert without any whose
    /// gradient this slice makes zero.
    Value isMine;
  };
  /// Of expert `i` of those that train in the slice from `firstRow` on.
  Segment segment(KernelBuilder &k, Value routes, Value firstRow,
                  Value i) const;
  /// Its steps.
  Value stepsOf(KernelBuilder &k, const Segment &segment) const {
    return types.steps(k, k.sub(segment.hi, segment.lo));
  }
  /// Where the steps of expert `i` begin among those of the slice.
  Value firstStep(KernelBuilder &k, Value routes, Value firstRow,
                  Value i) const;
  /// A number of routes' experts, of those that train.
  Value expert(KernelBuilder &k, Value i) const;

  const Grouping &grouping;
  ArrayRef<int64_t> experts;
  const ProductTypes &types;
  int64_t rows;  ///< of a slice
  int64_t steps; ///< of a slice at most
};

Slices::Slices(const Grouping &grouping, ArrayRef<int64_t> experts,
               const ProductTypes &types, int64_t rowBytes)
    : grouping(grouping), experts(experts), types(types) {
  // About what a last cache holds, and enough rows for what a slice costs: a
  // gradient that is read and written once more.
  constexpr int64_t bytes = 16 << 20, fewest = 2048;
  int64_t most = std::max(bytes / rowBytes, fewest);
  rows = llvm::divideCeilSigned(grouping.rows,
                                llvm::divideCeilSigned(grouping.rows, most));
  // An expert's last step may be incomplete.
  auto count = static_cast<int64_t>(experts.size());
  steps = types.steps(rows) + count * types.stepsAtOnce;
}

Value Slices::expert(KernelBuilder &k, Value i) const {
  // Numbers between which none is left out take one addition.
  Value expert = k.add(i, k.idx(experts[0]));
  for (size_t j = 1; j < experts.size(); ++j)
    if (int64_t skipped = experts[j] - experts[j - 1] - 1) {
      Value isBefore = k.less(i, k.idx(static_cast<int64_t>(j)));
      Value next = k.add(expert, k.idx(skipped));
      expert = arith::SelectOp::create(k, isBefore, expert, next);
    }
  return expert;
}

Slices::Segment Slices::segment(KernelBuilder &k, Value routes, Value firstRow,
                                Value i) const {
  auto [begin, end] = expertRows(k, grouping, routes, expert(k, i));
  // A step is whole in one slice: rows pair up by their place in the expert.
  int64_t together = types.step * types.stepsAtOnce;
  auto cut = [&, begin = begin, end = end](Value row) {
    Value before = arith::MaxSIOp::create(k, k.sub(row, begin), k.idx(0));
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

Value Slices::firstStep(KernelBuilder &k, Value routes, Value firstRow,
                        Value i) const {
  return k.loop(k.idx(0), i, 1, {k.idx(0)}, [&](Value j, ValueRange before) {
    Value own = stepsOf(k, segment(k, routes, firstRow, j));
    return SmallVector<Value>{k.add(before[0], own)};
  })[0];
}

/// The sums that an expert had after the slice before, if it `goesOn`, else 0.
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

/// Launches the packing of an operand's rows of a slice.
static void packSlice(KernelLowering &lowering, RoutedWeightGradOp op,
                      const Slices &slices, const SteppedOperand &operand,
                      bool tokenOrder, ArrayRef<Value> rowArguments) {
  const Grouping &grouping = slices.grouping;
  SmallVector<int64_t> key = grouping.key({tokenOrder, slices.rows});
  llvm::append_range(key, slices.experts);
  launchSteps(lowering, op, operand, slices.types, slices.steps, rowArguments,
              key, [&](KernelBuilder &k, Value mine, Value end, PackRows pack) {
                Value firstRow = k.integer(2);
                Value routes = grouping.routed ? k.buffer(3) : Value();
                auto count = static_cast<int64_t>(slices.experts.size());
                // A tile packs its share of the steps, whosever they are.
                k.loop(k.idx(0), k.idx(count), 1, {k.idx(0)},
                       [&](Value i, ValueRange steps) {
                         Slices::Segment segment =
                             slices.segment(k, routes, firstRow, i);
                         Value own = slices.stepsOf(k, segment);
                         Value first = arith::MaxSIOp::create(
                             k, k.sub(mine, steps[0]), k.idx(0));
                         Value last = k.min(k.sub(end, steps[0]), own);
                         k.ifThen(k.less(first, last), [&] {
                           auto row = [&](Value r) {
                             return operandRow(k, grouping, routes, tokenOrder,
                                               k.add(segment.lo, r));
                           };
                           pack({k.sub(segment.hi, segment.lo), row, steps[0]},
                                first, last);
                         });
                         return SmallVector<Value>{k.add(steps[0], own)};
                       });
              });
}

/// The memory of the gradients: those that are to be added to, if all are.
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

static LogicalResult lowerRoutedWeightGrad(RoutedWeightGradOp op,
                                           KernelLowering &lowering) {
  if (op.getExperts().empty())
    return success();
  Grouping grouping(op.getRoutes(), lowering.tokens());
  auto weight = cast<RankedTensorType>(op.getDweights().front().getType());
  int64_t m = weight.getDimSize(0), n = weight.getDimSize(1);
  Type element = elementOf(op.getRhs());
  ProductTypes types(lowering.target(), elementOf(op.getLhs()), element);
  int64_t rowBytes = (m + n) * element.getIntOrFloatBitWidth() / 8;
  Slices slices(grouping, op.getExperts(), types, rowBytes);
  auto count = static_cast<int64_t>(op.getExperts().size());
  // As if experts had equal shares of the rows.
  int64_t share = llvm::divideCeilSigned(grouping.rows, grouping.experts);
  MatmulTiling tiling(m, share, n, types);

  Value lhs = lowering.buffer(op.getLhs()), rhs = lowering.buffer(op.getRhs());
  Value left = leftPanels(lowering, tiling, lhs, m, slices.steps, types);
  Value right = rightPanels(lowering, rhs, n, slices.steps, types);
  auto [gradients, addsUp] = gradientsOf(op, lowering);
  Value table = lowering.table(gradients);
  auto gradientType = cast<MemRefType>(gradients.front().getType());
  for (int64_t first = 0; first < grouping.rows; first += slices.rows) {
    SmallVector<Value> rowArguments{lowering.constant(first)};
    if (grouping.routed)
      rowArguments.push_back(lowering.buffer(op.getRoutes()));
    packSlice(lowering, op, slices,
              {SteppedOperand::Left, lhs, static_cast<int64_t>(op.getOffset()),
               m, left},
              inTokenOrder(op.getLhs()), rowArguments);
    packSlice(lowering, op, slices, {SteppedOperand::Right, rhs, 0, n, right},
              inTokenOrder(op.getRhs()), rowArguments);

    SmallVector<Value> arguments = {left, right, table};
    llvm::append_range(arguments, rowArguments);
    SmallVector<int64_t> key = grouping.key({m, n, addsUp, slices.rows});
    llvm::append_range(key, op.getExperts());
    int64_t tilesOfExpert = tiling.rowBlocks(m) * tiling.splits;
    double rows = static_cast<double>(slices.rows * count) /
                  static_cast<double>(grouping.experts);
    lowering.launch(
        op,
        {.label = "",
         .tiles = count * tilesOfExpert,
         .arguments = arguments,
         .compute = types.compute,
         .key = key,
         .flops = rows * productFlops(1, m, n),
         .attributes = lowering.builder().getDictionaryAttr({})},
        [&](KernelBuilder &k) {
          Value left = k.buffer(0), right = k.buffer(1);
          Value expert = k.div(k.tile(), k.idx(tilesOfExpert));
          Value tile = k.rem(k.tile(), k.idx(tilesOfExpert));
          Value dw = k.tableEntry(2, expert, gradientType);
          Value routes = grouping.routed ? k.buffer(4) : Value();
          Slices::Segment segment =
              slices.segment(k, routes, k.integer(3), expert);
          Value steps = slices.stepsOf(k, segment);
          Value splits = k.idx(tiling.splits);
          RowBlock block =
              denseRowBlock(k, k.div(tile, splits), m, tiling.blockRows);
          k.ifThen(segment.isMine, [&] {
            Value firstStep = slices.firstStep(k, routes, k.integer(3), expert);
            forEachRegisterTile(
                k, tiling, block, k.rem(tile, splits),
                [&](Value row, const TileColumns &tile) {
                  Value first = k.add(block.first, row);
                  auto load = [&] {
                    return loadSums(k, tiling, dw, first, m, tile);
                  };
                  SmallVector<Value> init;
                  if (addsUp)
                    init = load();
                  else if (slices.rows < grouping.rows)
                    init = sumsSoFar(k, tiling, segment.goesOn, load);
                  return sumOuterProducts(k, tiling, types, steps, left, first,
                                          right, tile, {firstStep, init});
                },
                [&](Value row, const TileColumns &tile, ValueRange sums) {
                  // The optimiser reads them when all are made.
                  Value target = k.add(block.first, row);
                  for (auto [sum, lane] : llvm::zip_equal(sums, tile.lanes))
                    k.stream(sum, dw, target, lane);
                });
          });
        });
  }
  return success();
}

static LogicalResult lowerRoutedBiasGrad(RoutedBiasGradOp op,
                                         KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), lowering.tokens());
  int64_t width = widthOf(op.getDy());
  bool tokenOrder = inTokenOrder(op.getDy());
  for (auto [expert, dbias] :
       llvm::zip_equal(op.getExperts(), op.getDbiases())) {
    SmallVector<Value> arguments = {lowering.buffer(op.getDy()),
                                    lowering.result(dbias)};
    if (grouping.routed) {
      arguments.push_back(lowering.buffer(op.getRoutes()));
      arguments.push_back(lowering.constant(expert));
    }
    if (op.getScores())
      arguments.push_back(lowering.buffer(op.getScores()));
    lowering.launch(
        op,
        {.label = "",
         .tiles = 1,
         .arguments = arguments,
         .compute = elementOf(dbias),
         .key = grouping.key({tokenOrder}),
         .attributes = lowering.builder().getDictionaryAttr({})},
        [&](KernelBuilder &k) {
          Value dy = k.buffer(
              0, {tokenOrder ? grouping.tokens : grouping.rows, width});
          Value db = k.buffer(1);
          Value routes = grouping.routed ? k.buffer(2) : Value();
          Value e = grouping.routed ? k.integer(3) : Value();
          Value scores =
              op.getScores() ? k.buffer(4, {grouping.rows}) : Value();
          auto [lo, hi] = expertRows(k, grouping, routes, e);
          k.columns(width, [&, lo = lo, hi = hi](KernelBuilder::Lane lane) {
            Value sum =
                k.loop(lo, hi, 1, k.splat(0.0), [&](Value r, ValueRange acc) {
                  Value row = operandRow(k, grouping, routes, tokenOrder, r);
                  Value value = k.load(dy, row, lane);
                  if (!scores)
                    return SmallVector<Value>{k.addf(acc[0], value)};
                  Value score =
                      k.broadcast(k.loadScalar(scores, k.loadIndex(routes, r)));
                  return SmallVector<Value>{k.fma(score, value, acc[0])};
                })[0];
            k.store(sum, db, ValueRange(), lane);
          });
        });
  }
  return success();
}

void mlir::moe::addRoutedParameterGradLowerings(LoweringTable &table) {
  table.add<RoutedWeightGradOp>(lowerRoutedWeightGrad);
  table.add<RoutedBiasGradOp>(lowerRoutedBiasGrad);
}
