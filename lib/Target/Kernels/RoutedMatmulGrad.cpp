//===-- RoutedMatmulGrad.cpp - grouped products, backward -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Activation.h"
#include "Grouping.h"
#include "Routing.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace mlir::moe;

/// Clears what lies in the slots that have no row, this tile's share of them.
static void zeroMissing(KernelBuilder &k, const Grouping &grouping,
                        Value routes, int64_t tiles, Value slots) {
  Value share = k.idx(llvm::divideCeilSigned(grouping.rows, tiles));
  Value first = k.mul(k.tile(), share);
  Value begin = arith::MaxSIOp::create(k, first, rowsInUse(k, routes));
  k.loop(begin, k.min(k.add(first, share), k.idx(grouping.rows)), 1,
         [&](Value row) {
           k.storeScalar(k.scalar(0.0), slots, k.loadIndex(routes, row));
         });
}

static LogicalResult lowerRoutedDownGrad(RoutedDownGradOp op,
                                         KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), rowsOf(op.getDy()));
  int64_t width = widthOf(op.getDy());
  bool gated = op.getForm() == FfnForm::Gated;
  int64_t hidden = widthOf(op.getDz()) / (gated ? 2 : 1);
  Type element = elementOf(op.getDy());
  ProductTypes types(lowering.target(), element, elementOf(op.getWeights()[0]));
  ActivationKind activation = op.getActivation();
  // The gradient of a score is a sum over all hidden columns of its row.
  MatmulTiling tiling = grouping.tiling(lowering, op.getWeights(), width,
                                        hidden, types, accumulators,
                                        /*keepColumns=*/bool(op.getDscores()));

  auto kinds = byKind(lowering, op.getWeights(), gated ? 1 : 2);
  ExpertWeights weights(lowering, op, kinds[0], types,
                        RightOperand::Form::Straight, tiling.atUse);
  SmallVector<Value> arguments = {
      lowering.buffer(op.getDy()), lowering.buffer(op.getPreactivation()),
      weights.table,
      lowering.resultInPlaceOf(op, op.getPreactivation(), op.getDz())};
  addRoutes(lowering, op.getRoutes(), arguments);
  auto optional = [&](Value buffer) {
    arguments.push_back(buffer);
    return arguments.size() - 1;
  };
  unsigned scores = 0, scaled = 0, dscores = 0, biases = 0;
  if (op.getScores())
    scores = optional(lowering.buffer(op.getScores()));
  if (op.getScaled())
    scaled = optional(lowering.result(op.getScaled()));
  if (op.getDscores())
    dscores = optional(lowering.result(op.getDscores()));
  if (!gated && op.getDscores())
    biases = optional(lowering.table(kinds[1]));

  int64_t tiles = grouping.blocks(tiling) * tiling.splits;
  lowering.launch(
      op,
      {.label = "",
       .tiles = tiles,
       .arguments = arguments,
       .compute = types.compute,
       .key = grouping.key({width, hidden, gated, int64_t(activation), scores,
                            scaled, dscores, tiling.atUse}),
       .flops = productFlops(grouping.rows, width, hidden),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        using Lane = KernelBuilder::Lane;
        Value dy = k.buffer(0, {grouping.tokens, width});
        int64_t zWidth = gated ? 2 * hidden : hidden;
        Value z = k.buffer(1, {grouping.rows, zWidth});
        Value dz = k.buffer(3, {grouping.rows, zWidth});
        GroupedRows rows(k, grouping, 4, tiling);
        auto flat = [&](unsigned i) { return k.buffer(i, {grouping.rows}); };
        Value score = scores ? flat(scores) : Value();
        Value dscore = dscores ? flat(dscores) : Value();
        Value hiddenScaled =
            scaled ? k.buffer(scaled, {grouping.rows, hidden}) : Value();
        // One vector of partial sums of dscore for each row of the block.
        Value partial;
        if (dscore) {
          partial = k.scratch({tiling.blockRows, k.lanes()}, k.compute());
          k.loop(k.idx(0), k.idx(tiling.blockRows), 1, [&](Value i) {
            k.store(k.splat(0.0), partial, i, {k.idx(0), Value()});
          });
        }
        multiplyBlock(
            k,
            rows.times(dy, /*byToken=*/true, width, types,
                       Term{weights.of(k, 2, rows.block.expert)}),
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              Value target = rows.row(row);
              Value s =
                  score ? k.broadcast(k.loadScalar(score, rows.slot(target)))
                        : k.splat(1.0);
              for (auto [h, lane] : llvm::zip_equal(sums, tile.lanes)) {
                Lane upLane{k.add(lane.column, k.idx(hidden)), lane.mask};
                Value gate = k.load(z, target, lane);
                Value act = emitActivation(k, activation, gate);
                Value slope = emitActivationDerivative(k, activation, gate);
                Value scaledH = k.mulf(s, h);
                Value output = act;
                if (gated) {
                  Value up = k.load(z, target, upLane);
                  output = k.mulf(act, up);
                  k.stream(k.mulf(k.mulf(scaledH, up), slope), dz, target,
                           lane);
                  k.stream(k.mulf(scaledH, act), dz, target, upLane);
                } else {
                  k.store(k.mulf(scaledH, slope), dz, target, lane);
                }
                // What the forward multiplied by: rounded.
                output = k.roundTo(output, element);
                if (hiddenScaled)
                  k.stream(k.mulf(s, output), hiddenScaled, target, lane);
                if (partial) {
                  Lane whole{k.idx(0), Value()};
                  Value sum = k.fma(h, output, k.load(partial, row, whole));
                  k.store(sum, partial, row, whole);
                }
              }
            },
            [&](Value row, const TileColumns &tile) {
              prefetchTile(k, tiling, z, rows.row(row), tile);
              if (gated)
                prefetchTile(k, tiling, z, rows.row(row), tile, hidden);
            });
        if (!dscore)
          return;
        zeroMissing(k, grouping, rows.routes, tiles, dscore);
        Value bias = biases ? k.tableEntry(biases, rows.block.expert,
                                           MemRefType::get({width}, element))
                            : Value();
        k.loop(k.idx(0), rows.block.count, 1, [&](Value i) {
          Value sum = k.load(partial, i, {k.idx(0), Value()});
          Value row = rows.row(i);
          if (bias)
            sum = k.columns(width, sum, [&](Lane lane, ValueRange acc) {
              return SmallVector<Value>{k.fma(k.load(dy, rows.token(row), lane),
                                              k.load(bias, ValueRange(), lane),
                                              acc[0])};
            })[0];
          k.storeScalar(k.sum(sum), dscore, rows.slot(row));
        });
      });
  return success();
}

static LogicalResult lowerRoutedInputGrad(RoutedInputGradOp op,
                                          KernelLowering &lowering) {
  int64_t topK = op.getRoutes() ? op.getRoutes().getType().getTopK() : 1;
  Grouping grouping(op.getRoutes(), rowsOf(op.getDz()) / topK);
  bool gated = op.getForm() == FfnForm::Gated;
  int64_t hidden = widthOf(op.getDz()) / (gated ? 2 : 1);
  int64_t width = widthOf(op.getResult());
  Type element = elementOf(op.getDz());
  ProductTypes types(lowering.target(), element, elementOf(op.getWeights()[0]));
  MatmulTiling tiling = grouping.tiling(
      lowering, op.getWeights(), gated ? 2 * hidden : hidden, width, types);
  // Gate and up, or up alone.
  SmallVector<ExpertWeights, 2> weights;
  for (const auto &kind : byKind(lowering, op.getWeights(), gated ? 2 : 1))
    weights.emplace_back(lowering, op, kind, types,
                         RightOperand::Form::Straight, tiling.atUse);
  SmallVector<Value> arguments = {lowering.buffer(op.getDz()),
                                  lowering.result(op.getResult()),
                                  weights[0].table};
  addRoutes(lowering, op.getRoutes(), arguments);
  unsigned up = arguments.size();
  if (gated)
    arguments.push_back(weights[1].table);

  lowering.launch(
      op,
      {.label = "",
       .tiles = grouping.blocks(tiling) * tiling.splits,
       .arguments = arguments,
       .compute = types.compute,
       .key = grouping.key({width, hidden, gated, tiling.atUse}),
       .flops = productFlops(grouping.rows, gated ? 2 * hidden : hidden, width),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        int64_t zWidth = gated ? 2 * hidden : hidden;
        Value dz = k.buffer(0, {grouping.rows, zWidth});
        Value dx = k.buffer(1, {grouping.rows, width});
        GroupedRows rows(k, grouping, 3, tiling);
        SmallVector<Term, 2> terms;
        for (auto [i, weight] : llvm::enumerate(weights))
          terms.push_back({weight.of(k, i == 0 ? 2 : up, rows.block.expert)});
        multiplyBlock(k,
                      rows.times(dz, /*byToken=*/false, hidden, types, terms),
                      [&](Value row, const TileColumns &tile, ValueRange sums) {
                        storeSums(k, sums, dx, rows.row(row), tile);
                      });
      });
  return success();
}

void mlir::moe::addRoutedMatmulGradLowerings(LoweringTable &table) {
  table.add<RoutedDownGradOp>(lowerRoutedDownGrad);
  table.add<RoutedInputGradOp>(lowerRoutedInputGrad);
}
