//===-- Linear.cpp - dense matrix products --------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "BlockProduct.h"

using namespace mlir;
using namespace mlir::moe;

void mlir::moe::launchProduct(KernelLowering &lowering, Operation *op,
                              const DenseProduct &p, Value bias) {
  const ProductTypes &types = p.types;
  MatmulTiling tiling(p.rows, p.inner, p.columns, types);
  tiling.sliceLongRows();
  lowering.launch(
      op,
      {.label = "matmul",
       .workItems = tiling.rowBlocks(p.rows) * tiling.splits,
       .compute = types.compute,
       .flops = productFlops(p.rows, p.inner, p.columns)},
      [&](KernelBuilder &k) {
        Value x = k.matrix(p.input), w = k.buffer(p.weight);
        Value y = k.matrix(p.result);
        Value firstInput = k.number(lowering.constant(p.firstInput));
        Value firstResult = k.number(lowering.constant(p.firstResult));
        Value b = k.buffer(bias, {p.columns});
        Value splits = k.idx(tiling.splits);
        RowBlock block = denseRowBlock(k, k.div(k.workItem(), splits), p.rows,
                                       tiling.blockRows);
        Value source = k.add(firstInput, block.first);
        Value target = k.add(firstResult, block.first);
        multiplyBlock(
            k,
            {.types = types,
             .tiling = tiling,
             .block = block,
             .split = k.rem(k.workItem(), splits),
             .rows = x,
             .source = [&](Value i) { return k.add(source, i); },
             .inner = p.inner,
             .terms = {{{RightOperand::Form::Panels, w}}}},
            [&](Value row, const RegisterTileColumns &tile, ValueRange sums) {
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
    launchSteps(lowering, op, operand, types, steps,
                [&](KernelBuilder &k, Value first, Value last, PackRows pack) {
                  Value begin = k.number(lowering.constant(firstRow));
                  pack(
                      {k.idx(p.rows), [&](Value r) { return k.add(begin, r); }},
                      first, last);
                });
  };
  pack({SteppedOperand::Left, p.lhs, 0, p.lhsWidth, left}, 0);
  pack({SteppedOperand::Right, p.rhs, 0, p.rhsWidth, right}, p.firstRhs);
  lowering.launch(
      op,
      {.label = p.accumulate ? "outer_next" : "outer",
       .workItems = tiling.rowBlocks(p.lhsWidth) * tiling.splits,
       .compute = types.compute,
       .flops = productFlops(p.lhsWidth, p.rows, p.rhsWidth)},
      [&](KernelBuilder &k) {
        Value lhs = k.buffer(left);
        Value rhs = k.buffer(right), result = k.buffer(p.result);
        Value splits = k.idx(tiling.splits);
        RowBlock block = denseRowBlock(k, k.div(k.workItem(), splits),
                                       p.lhsWidth, tiling.blockRows);
        forEachRegisterTile(
            k, tiling, block, k.rem(k.workItem(), splits),
            [&](Value row, const RegisterTileColumns &tile) {
              Value first = k.add(block.first, row);
              if (p.accumulate)
                prefetchRegisterTile(k, tiling, result, first, tile);
              return sumOuterProducts(k, tiling, types, k.idx(steps), lhs,
                                      first, rhs, tile);
            },
            [&](Value row, const RegisterTileColumns &tile, ValueRange sums) {
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

static void lowerLinear(LinearOp op, KernelLowering &lowering) {
  ProductTypes types = typesOfWeights(lowering, op.getInput(), op.getWeight());
  lowerProjection(op, types, op.getInput(), op.getWeight(), op.getBias(),
                  op.getResult(), lowering);
}

/// A projection whose result chooses between experts or languages. Its weight
/// is never quantised: that would save little and might change a choice.
template <typename OpT>
static void lowerChoice(OpT op, KernelLowering &lowering) {
  ProductTypes types(lowering.target(), elementOf(op.getInput()),
                     elementOf(op.getWeight()));
  lowerProjection(op, types, op.getInput(), op.getWeight(), Value(),
                  op.getLogits(), lowering);
}

static void lowerInputGrad(LinearInputGradOp op, KernelLowering &lowering) {
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
}

static void lowerWeightGrad(LinearWeightGradOp op, KernelLowering &lowering) {
  Value sum = lowering.takeSum(op.getDweight());
  launchOuterProducts(lowering, op,
                      {.lhs = lowering.buffer(op.getDy()),
                       .rhs = lowering.buffer(op.getInput()),
                       .result = sum ? sum : lowering.result(op.getDweight()),
                       .rows = rowsOf(op.getDy()),
                       .lhsWidth = widthOf(op.getDy()),
                       .rhsWidth = widthOf(op.getInput()),
                       .accumulate = bool(sum)});
}

void mlir::moe::addMatmulLowerings(LoweringTable &table) {
  table.add(lowerLinear, lowerChoice<RouterOp>, lowerChoice<LanguageGateOp>,
            lowerInputGrad, lowerWeightGrad);
}
