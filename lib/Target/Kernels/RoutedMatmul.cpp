//===-- RoutedMatmul.cpp - grouped products, forward ----------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Activation.h"
#include "Grouping.h"

using namespace mlir;
using namespace mlir::moe;

static LogicalResult lowerRoutedUp(RoutedUpOp op, KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), rowsOf(op.getInput()));
  int64_t inner = widthOf(op.getInput()), hidden = widthOf(op.getHidden());
  Type element = elementOf(op.getInput());
  ProductTypes types = typesOfWeights(lowering, op.getInput(), op.getWeights());
  bool gated = op.getForm() == FfnForm::Gated;
  ActivationKind activation = op.getActivation();
  // Gated: each column has a sum for the gate and one for the value.
  MatmulTiling tiling =
      grouping.tiling(lowering, op.getWeights(), inner, hidden, types,
                      gated ? 1 : accumulators);

  auto kinds = byKind(lowering, op.getWeights(), 2);
  auto weights = [&](ArrayRef<Value> kind) {
    return ExpertWeights(lowering, op, kind, types,
                         RightOperand::Form::Transposed, tiling.atUse);
  };
  ExpertWeights first = weights(kinds[0]);
  std::optional<ExpertWeights> second;
  if (gated)
    second = weights(kinds[1]);
  SmallVector<Value> arguments = {
      lowering.buffer(op.getInput()), lowering.result(op.getHidden()),
      first.table, gated ? second->table : lowering.table(kinds[1])};
  addRoutes(lowering, op.getRoutes(), arguments);
  unsigned preactivation = arguments.size();
  if (op.getPreactivation())
    arguments.push_back(lowering.result(op.getPreactivation()));

  lowering.launch(
      op,
      {.label = "",
       .tiles = grouping.blocks(tiling) * tiling.splits,
       .arguments = arguments,
       .compute = types.compute,
       .key = grouping.key({inner, hidden, gated, int64_t(activation),
                            types.quantised(), tiling.atUse}),
       .flops = productFlops(grouping.rows, inner, gated ? 2 * hidden : hidden),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        Value x = k.buffer(0, {grouping.tokens, inner});
        Value y = k.buffer(1, {grouping.rows, hidden});
        Value z = op.getPreactivation()
                      ? k.buffer(preactivation,
                                 {grouping.rows, gated ? 2 * hidden : hidden})
                      : Value();
        GroupedRows rows(k, grouping, 4, tiling);
        Value expert = rows.block.expert;
        Term operands{first.of(k, 2, expert)};
        Value bias;
        if (gated)
          operands.push_back(second->of(k, 3, expert));
        else
          bias = k.tableEntry(3, expert, MemRefType::get({hidden}, element));
        multiplyBlock(
            k, rows.times(x, /*byToken=*/true, inner, types, operands),
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              Value target = rows.row(row);
              if (gated) {
                KernelBuilder::Lane lane = tile.lanes[0];
                // Rounded first, so that the backward sees what was used.
                Value gate = k.roundTo(sums[0], element);
                Value up = k.roundTo(sums[1], element);
                k.store(k.mulf(emitActivation(k, activation, gate), up), y,
                        target, lane);
                if (!z)
                  return;
                k.stream(gate, z, target, lane);
                k.stream(up, z, target,
                         {k.add(lane.column, k.idx(hidden)), lane.mask});
                return;
              }
              for (auto [sum, lane] : llvm::zip_equal(sums, tile.lanes)) {
                Value value = k.roundTo(
                    k.addf(sum, k.load(bias, ValueRange(), lane)), element);
                k.store(emitActivation(k, activation, value), y, target, lane);
                if (z)
                  k.store(value, z, target, lane);
              }
            });
      });
  return success();
}

static LogicalResult lowerRoutedDown(RoutedDownOp op,
                                     KernelLowering &lowering) {
  int64_t topK = op.getRoutes() ? op.getRoutes().getType().getTopK() : 1;
  Grouping grouping(op.getRoutes(), rowsOf(op.getHidden()) / topK);
  int64_t hidden = widthOf(op.getHidden()), width = widthOf(op.getResult());
  Type element = elementOf(op.getHidden());
  ProductTypes types =
      typesOfWeights(lowering, op.getHidden(), op.getWeights());
  bool biased = op.getForm() == FfnForm::Plain;
  MatmulTiling tiling =
      grouping.tiling(lowering, op.getWeights(), hidden, width, types);

  auto kinds = byKind(lowering, op.getWeights(), biased ? 2 : 1);
  ExpertWeights weights(lowering, op, kinds[0], types,
                        RightOperand::Form::Transposed, tiling.atUse);
  SmallVector<Value> arguments = {lowering.buffer(op.getHidden()),
                                  lowering.result(op.getResult()),
                                  weights.table};
  addRoutes(lowering, op.getRoutes(), arguments);
  unsigned biases = arguments.size();
  if (biased)
    arguments.push_back(lowering.table(kinds[1]));

  lowering.launch(
      op,
      {.label = "",
       .tiles = grouping.blocks(tiling) * tiling.splits,
       .arguments = arguments,
       .compute = types.compute,
       .key = grouping.key(
           {hidden, width, biased, types.quantised(), tiling.atUse}),
       .flops = productFlops(grouping.rows, hidden, width),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        Value h = k.buffer(0, {grouping.rows, hidden});
        Value y = k.buffer(1, {grouping.rows, width});
        GroupedRows rows(k, grouping, 3, tiling);
        Value bias = biased ? k.tableEntry(biases, rows.block.expert,
                                           MemRefType::get({width}, element))
                            : Value();
        multiplyBlock(
            k,
            rows.times(h, /*byToken=*/false, hidden, types,
                       Term{weights.of(k, 2, rows.block.expert)}),
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              SmallVector<Value> values(sums);
              if (bias)
                for (auto [value, lane] : llvm::zip_equal(values, tile.lanes))
                  value = k.addf(value, k.load(bias, ValueRange(), lane));
              storeSums(k, values, y, rows.row(row), tile);
            });
      });
  return success();
}

void mlir::moe::addRoutedMatmulLowerings(LoweringTable &table) {
  table.add<RoutedUpOp>(lowerRoutedUp);
  table.add<RoutedDownOp>(lowerRoutedDown);
}
