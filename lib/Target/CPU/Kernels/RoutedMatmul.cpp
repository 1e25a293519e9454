//===-- RoutedMatmul.cpp - grouped products, forward ----------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Grouping.h"

using namespace mlir;
using namespace mlir::moe;

static void lowerRoutedUp(RoutedUpOp op, KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), op.getInput());
  int64_t inner = widthOf(op.getInput()), hidden = widthOf(op.getHidden());
  Type element = elementOf(op.getInput());
  ProductTypes types = typesOfWeights(lowering, op.getInput(), op.getWeights());
  bool gated = op.getForm() == FfnForm::Gated;
  bool biased = haveBiases(op.getWeights());
  ExpertActivation activations(lowering, op.getActivation(), op.getScalars());
  // A column of a gated FFN has two sums, for gate and up.
  MatmulTiling tiling =
      grouping.tiling(lowering, op.getWeights(), inner, hidden, types,
                      gated ? 1 : accumulators);

  auto kinds = byKind(lowering, op.getWeights(), gated || biased ? 2 : 1);
  auto weights = [&](ArrayRef<Value> kind) {
    return ExpertWeights(lowering, op, kind, types,
                         RightOperand::Form::Transposed, tiling.atUse);
  };
  ExpertWeights first = weights(kinds[0]);
  std::optional<ExpertWeights> second;
  if (gated)
    second = weights(kinds[1]);
  Value biases = biased ? lowering.table(kinds[1]) : Value();

  lowering.launch(
      op, grouping.launch(op, tiling, types), [&](KernelBuilder &k) {
        Value x = k.matrix(lowering.buffer(op.getInput()));
        Value y = k.matrix(lowering.result(op.getHidden()));
        Value z = k.matrix(lowering.result(op.getPreactivation()));
        GroupedRows rows(k, grouping, lowering, op.getRoutes(), tiling);
        Value expert = rows.block.expert;
        Activation activation = activations.of(k, expert);
        OperandTerm operands{first.of(k, expert)};
        Value bias;
        if (gated)
          operands.push_back(second->of(k, expert));
        else if (biased)
          bias =
              k.tableEntry(biases, expert, MemRefType::get({hidden}, element));
        multiplyBlock(
            k, rows.times(x, /*byToken=*/true, inner, types, operands),
            [&](Value row, const RegisterTileColumns &tile, ValueRange sums) {
              Value target = rows.row(row);
              if (gated) {
                KernelBuilder::Lane lane = tile.lanes[0];
                // Both are rounded first, since the backward reads them so.
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
                Value value =
                    bias ? k.addf(sum, k.load(bias, ValueRange(), lane)) : sum;
                value = k.roundTo(value, element);
                k.store(emitActivation(k, activation, value), y, target, lane);
                if (z)
                  k.store(value, z, target, lane);
              }
            });
      });
}

static void lowerRoutedDown(RoutedDownOp op, KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), op.getHidden());
  int64_t hidden = widthOf(op.getHidden()), width = widthOf(op.getResult());
  Type element = elementOf(op.getHidden());
  ProductTypes types =
      typesOfWeights(lowering, op.getHidden(), op.getWeights());
  bool biased = haveBiases(op.getWeights());
  MatmulTiling tiling =
      grouping.tiling(lowering, op.getWeights(), hidden, width, types);

  auto kinds = byKind(lowering, op.getWeights(), biased ? 2 : 1);
  ExpertWeights weights(lowering, op, kinds[0], types,
                        RightOperand::Form::Transposed, tiling.atUse);
  Value biases = biased ? lowering.table(kinds[1]) : Value();

  lowering.launch(
      op, grouping.launch(op, tiling, types), [&](KernelBuilder &k) {
        Value h = k.matrix(lowering.buffer(op.getHidden()));
        Value y = k.matrix(lowering.result(op.getResult()));
        GroupedRows rows(k, grouping, lowering, op.getRoutes(), tiling);
        Value bias = biased ? k.tableEntry(biases, rows.block.expert,
                                           MemRefType::get({width}, element))
                            : Value();
        multiplyBlock(
            k,
            rows.times(h, /*byToken=*/false, hidden, types,
                       OperandTerm{weights.of(k, rows.block.expert)}),
            [&](Value row, const RegisterTileColumns &tile, ValueRange sums) {
              SmallVector<Value> values(sums);
              if (bias)
                for (auto [value, lane] : llvm::zip_equal(values, tile.lanes))
                  value = k.addf(value, k.load(bias, ValueRange(), lane));
              storeSums(k, values, y, rows.row(row), tile);
            });
      });
}

void mlir::moe::addRoutedMatmulLowerings(LoweringTable &table) {
  table.add(lowerRoutedUp, lowerRoutedDown);
}
