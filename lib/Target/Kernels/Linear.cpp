//===-- Linear.cpp - dense matrix products --------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Matmul.h"

using namespace mlir;
using namespace mlir::moe;

/// Rows that are longer than longestRow (the gradient of logits) are taken in
/// slices of so many bytes, for so many columns of the result.
static constexpr int64_t sliceBytes = 16 << 10, slicedResults = 1024;

/// Where the columns of `tile` are among those of its split alone.
static TileColumns columnsOfSplit(KernelBuilder &k, const MatmulTiling &tiling,
                                  Value split, const TileColumns &tile) {
  Value before = k.mul(split, k.idx(tiling.groupsPerSplit));
  Value first = k.mul(k.sub(tile.group, before), k.idx(tiling.groupWidth));
  TileColumns columns{tile.group, {}};
  for (int64_t j = 0; j < tiling.vectors; ++j)
    columns.lanes.push_back({k.add(first, k.idx(j * k.lanes())), Value()});
  return columns;
}

void mlir::moe::launchProduct(KernelLowering &lowering, Operation *op,
                              const DenseProduct &p, Value bias) {
  const ProductTypes &types = p.types;
  MatmulTiling tiling(p.rows, p.inner, p.columns, types);
  // The sums of a slice wait in scratch memory for the next one, which keeps
  // their bits.
  int64_t elementBytes = types.operand.getIntOrFloatBitWidth() / 8;
  int64_t slice = sliceBytes / elementBytes;
  int64_t whole =
      p.inner * elementBytes > longestRow ? (p.inner - 1) / slice * slice : 0;
  if (whole)
    tiling.splitAfter(
        std::min(tiling.groupsPerSplit, slicedResults / tiling.groupWidth));
  SmallVector<Value> arguments = {p.input, p.weight, p.result,
                                  lowering.constant(p.firstInput),
                                  lowering.constant(p.firstResult)};
  if (bias)
    arguments.push_back(bias);
  lowering.launch(
      op,
      {.label = "matmul",
       .tiles = tiling.rowBlocks(p.rows) * tiling.splits,
       .arguments = arguments,
       .compute = types.compute,
       .key = {p.rows, p.inner, p.columns},
       .flops = productFlops(p.rows, p.inner, p.columns),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        // As a matrix, whose rows may be longer than what is read or written.
        auto rowsIn = [&](unsigned i) {
          auto type = cast<MemRefType>(k.argType(i));
          int64_t width = type.getShape().back();
          return k.buffer(i, {type.getNumElements() / width, width});
        };
        Value x = rowsIn(0), y = rowsIn(2);
        Value w = k.buffer(1);
        Value firstInput = k.integer(3), firstResult = k.integer(4);
        Value b = bias ? k.buffer(5, {p.columns}) : Value();
        Value splits = k.idx(tiling.splits);
        RowBlock block =
            denseRowBlock(k, k.div(k.tile(), splits), p.rows, tiling.blockRows);
        Value source = k.add(firstInput, block.first);
        Value target = k.add(firstResult, block.first);
        Value split = k.rem(k.tile(), splits);
        auto inSplit = [&](const TileColumns &tile) {
          return columnsOfSplit(k, tiling, split, tile);
        };
        Value earlier;
        auto multiplySlice =
            [&](Value firstColumn, int64_t width, bool partial,
                function_ref<void(Value, const TileColumns &, ValueRange)>
                    epilogue) {
              Value packed = packRows(
                  k, x, block, tiling.blockRows, width, types,
                  [&](Value i) { return k.add(source, i); }, firstColumn);
              forEachRegisterTile(
                  k, tiling, block, split,
                  [&](Value row, const TileColumns &tile) {
                    SmallVector<Value> init;
                    if (earlier)
                      init = loadSums(k, tiling, earlier, row, tiling.blockRows,
                                      inSplit(tile));
                    Value panel = k.mul(tile.group, k.idx(accumulators));
                    return timesPanels(
                        k, tiling, packed, row, width,
                        [&](int64_t j) {
                          return Panel{w, {k.add(panel, k.idx(j))}};
                        },
                        {.init = init,
                         .firstStep = k.div(firstColumn, k.idx(types.step)),
                         .partial = partial});
                  },
                  epilogue);
            };
        if (whole) {
          int64_t columns = tiling.groupsPerSplit * tiling.groupWidth;
          earlier = k.scratch({tiling.blockRows, columns}, k.compute());
          k.loop(k.idx(0), k.idx(tiling.blockRows), 1, [&](Value i) {
            k.columns(columns, [&](KernelBuilder::Lane lane) {
              k.store(k.splat(0.0), earlier, i, lane);
            });
          });
          k.loop(k.idx(0), k.idx(whole), slice, [&](Value firstColumn) {
            multiplySlice(
                firstColumn, slice, /*partial=*/true,
                [&](Value row, const TileColumns &tile, ValueRange sums) {
                  storeSums(k, sums, earlier, row, inSplit(tile));
                });
          });
        }
        multiplySlice(
            k.idx(whole), p.inner - whole, /*partial=*/false,
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              SmallVector<Value> values(sums);
              if (b)
                for (auto [value, lane] : llvm::zip_equal(values, tile.lanes))
                  value = k.addf(value, k.load(b, ValueRange(), lane));
              storeSums(k, values, y, k.add(target, row), tile);
            });
      });
}

void mlir::moe::launchOuterProducts(KernelLowering &lowering, Operation *op,
                                    const OuterProducts &p) {
  ProductTypes types(lowering.target(), elementOf(p.lhs), elementOf(p.rhs));
  MatmulTiling tiling(p.lhsWidth, p.rows, p.rhsWidth, types);
  int64_t steps = types.steps(p.rows);
  Value left = leftPanels(lowering, tiling, p.lhs, p.lhsWidth, steps, types);
  Value right = rightPanels(lowering, p.rhs, p.rhsWidth, steps, types);
  auto pack = [&](const SteppedOperand &operand, int64_t firstRow) {
    launchSteps(
        lowering, op, operand, types, steps, lowering.constant(firstRow),
        p.rows, [&](KernelBuilder &k, Value first, Value last, PackRows pack) {
          Value begin = k.integer(2);
          pack({k.idx(p.rows), [&](Value r) { return k.add(begin, r); }}, first,
               last);
        });
  };
  pack({SteppedOperand::Left, p.lhs, 0, p.lhsWidth, left}, 0);
  pack({SteppedOperand::Right, p.rhs, 0, p.rhsWidth, right}, p.firstRhs);
  lowering.launch(
      op,
      {.label = p.accumulate ? "outer_next" : "outer",
       .tiles = tiling.rowBlocks(p.lhsWidth) * tiling.splits,
       .arguments = {left, right, p.result},
       .compute = types.compute,
       .key = {p.rows},
       .flops = productFlops(p.lhsWidth, p.rows, p.rhsWidth),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        Value lhs = k.buffer(0), rhs = k.buffer(1), result = k.buffer(2);
        Value splits = k.idx(tiling.splits);
        RowBlock block = denseRowBlock(k, k.div(k.tile(), splits), p.lhsWidth,
                                       tiling.blockRows);
        forEachRegisterTile(
            k, tiling, block, k.rem(k.tile(), splits),
            [&](Value row, const TileColumns &tile) {
              Value first = k.add(block.first, row);
              if (p.accumulate)
                prefetchTile(k, tiling, result, first, tile);
              return sumOuterProducts(k, tiling, types, k.idx(steps), lhs,
                                      first, rhs, tile);
            },
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              storeSums(k, sums, result, k.add(block.first, row), tile,
                        p.accumulate);
            });
      });
}

/// `result[t, n] = sum_k input[t, k] weight[n, k] (+ bias[n])`.
static void lowerProjection(Operation *op, const ProductTypes &types,
                            Value input, Value weight, Value bias, Value result,
                            KernelLowering &lowering) {
  Value panels = packTransposed(lowering, op, lowering.buffer(weight), types);
  launchProduct(lowering, op,
                {.types = types,
                 .input = lowering.buffer(input),
                 .weight = panels,
                 .result = lowering.result(result),
                 .rows = rowsOf(input),
                 .inner = widthOf(input),
                 .columns = widthOf(result)},
                bias ? lowering.buffer(bias) : Value());
}

static LogicalResult lowerLinear(LinearOp op, KernelLowering &lowering) {
  ProductTypes types = typesOfWeights(lowering, op.getInput(), op.getWeight());
  lowerProjection(op, types, op.getInput(), op.getWeight(), op.getBias(),
                  op.getResult(), lowering);
  return success();
}

/// A projection whose result chooses between experts or languages: its weight
/// is too small to be worth a choice that differs.
static LogicalResult lowerChoice(Operation *op, Value input, Value weight,
                                 Value logits, KernelLowering &lowering) {
  ProductTypes types(lowering.target(), elementOf(input), elementOf(weight));
  lowerProjection(op, types, input, weight, Value(), logits, lowering);
  return success();
}

static LogicalResult lowerRouter(RouterOp op, KernelLowering &lowering) {
  return lowerChoice(op, op.getInput(), op.getWeight(), op.getLogits(),
                     lowering);
}

static LogicalResult lowerLanguageGate(LanguageGateOp op,
                                       KernelLowering &lowering) {
  return lowerChoice(op, op.getInput(), op.getWeight(), op.getLogits(),
                     lowering);
}

static LogicalResult lowerInputGrad(LinearInputGradOp op,
                                    KernelLowering &lowering) {
  ProductTypes types(lowering.target(), elementOf(op.getDy()),
                     elementOf(op.getWeight()));
  Value panels =
      packStraight(lowering, op, lowering.buffer(op.getWeight()), types);
  launchProduct(lowering, op,
                {.types = types,
                 .input = lowering.buffer(op.getDy()),
                 .weight = panels,
                 .result = lowering.result(op.getDx()),
                 .rows = rowsOf(op.getDy()),
                 .inner = widthOf(op.getDy()),
                 .columns = widthOf(op.getDx())});
  return success();
}

static LogicalResult lowerWeightGrad(LinearWeightGradOp op,
                                     KernelLowering &lowering) {
  Value sum = lowering.takeSum(op.getDweight());
  launchOuterProducts(lowering, op,
                      {.lhs = lowering.buffer(op.getDy()),
                       .rhs = lowering.buffer(op.getInput()),
                       .result = sum ? sum : lowering.result(op.getDweight()),
                       .rows = rowsOf(op.getDy()),
                       .lhsWidth = widthOf(op.getDy()),
                       .rhsWidth = widthOf(op.getInput()),
                       .accumulate = bool(sum)});
  return success();
}

void mlir::moe::addMatmulLowerings(LoweringTable &table) {
  table.add<LinearOp>(lowerLinear);
  table.add<RouterOp>(lowerRouter);
  table.add<LanguageGateOp>(lowerLanguageGate);
  table.add<LinearInputGradOp>(lowerInputGrad);
  table.add<LinearWeightGradOp>(lowerWeightGrad);
}
