//===-- RoutedMatmulGrad.cpp - grouped products, backward -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Grouping.h"
#include "Kernels/Routing.h"

using namespace mlir;
using namespace mlir::moe;

/// Zeroes the elements of `ofRoutes` whose route is missing: this work item's
/// share of them.
static void zeroMissing(KernelBuilder &k, const RoutesView &routes,
                        int64_t workItems, Value ofRoutes) {
  Value share = k.idx(llvm::divideCeilSigned(routes.numRows(), workItems));
  Value first = k.mul(k.workItem(), share);
  Value begin = k.max(first, routes.rowsInUse());
  k.loop(begin, k.min(k.add(first, share), k.idx(routes.numRows())), 1,
         [&](Value row) {
           k.storeScalar(k.scalar(0.0), ofRoutes, routes.route(row));
         });
}

static void lowerRoutedDownGrad(RoutedDownGradOp op, KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), op.getDy());
  int64_t width = widthOf(op.getDy());
  bool gated = op.getForm() == FfnForm::Gated;
  int64_t hidden = widthOf(op.getDz()) / (gated ? 2 : 1);
  Type element = elementOf(op.getDy());
  ProductTypes types(lowering.target(), element, elementOf(op.getWeights()[0]));
  ExpertActivation activations(lowering, op.getActivation(), op.getScalars());
  bool sumsRows = op.getDscores() || !op.getDscalars().empty();
  // The gradients of a score and of scalars sum over all hidden columns of
  // their row.
  MatmulTiling tiling = grouping.tiling(lowering, op.getWeights(), width,
                                        hidden, types, accumulators,
                                        /*keepColumns=*/sumsRows);

  bool biased = haveBiases(op.getWeights());
  auto kinds = byKind(lowering, op.getWeights(), biased ? 2 : 1);
  ExpertWeights weights(lowering, op, kinds[0], types,
                        RightOperand::Form::Straight, tiling.atUse);
  Value dzBuffer =
      lowering.resultInPlaceOf(op, op.getPreactivation(), op.getDz());
  Value biases = biased && op.getDscores() ? lowering.table(kinds[1]) : Value();

  KernelLowering::Launch launch = grouping.launch(op, tiling, types);
  lowering.launch(op, launch, [&](KernelBuilder &k) {
    using Lane = KernelBuilder::Lane;
    Value dy = k.matrix(lowering.buffer(op.getDy()));
    Value z = k.matrix(lowering.buffer(op.getPreactivation()));
    Value dz = k.matrix(dzBuffer);
    GroupedRows rows(k, grouping, lowering, op.getRoutes(), tiling);
    Value score = k.buffer(lowering.buffer(op.getScores()), {grouping.rows});
    Value hiddenScaled = k.matrix(lowering.result(op.getScaled()));
    Value dscore = k.buffer(lowering.result(op.getDscores()), {grouping.rows});
    // A vector of partial sums for each row of the block.
    Lane whole{k.idx(0), Value()};
    auto makePartial = [&] {
      Value sums = k.scratch({tiling.blockRows, k.lanes()}, k.compute());
      k.loop(tiling.blockRows, [&](Value i) { k.zeroRow(sums, i, k.lanes()); });
      return sums;
    };
    auto addTo = [&](Value sums, Value row, Value a, Value b) {
      k.store(k.fma(a, b, k.load(sums, row, whole)), sums, row, whole);
    };
    Value partial = dscore ? makePartial() : Value();
    SmallVector<Value> dscalars, partialsOfScalars;
    for (Value result : op.getDscalars()) {
      dscalars.push_back(k.matrix(lowering.result(result)));
      partialsOfScalars.push_back(makePartial());
    }
    Activation activation = activations.of(k, rows.block.expert);
    multiplyBlock(
        k,
        rows.times(dy, /*byToken=*/true, width, types,
                   OperandTerm{weights.of(k, rows.block.expert)}),
        [&](Value row, const RegisterTileColumns &tile, ValueRange sums) {
          Value target = rows.row(row);
          Value s = score ? k.broadcast(k.loadScalar(score, rows.route(target)))
                          : k.splat(1.0);
          for (auto [h, lane] : llvm::zip_equal(sums, tile.lanes)) {
            Lane upLane{k.add(lane.column, k.idx(hidden)), lane.mask};
            Value gate = k.load(z, target, lane);
            Value act = emitActivation(k, activation, gate);
            Value slope = emitActivationDerivative(k, activation, gate);
            Value scaledH = k.mulf(s, h);
            Value output = act, dact = scaledH;
            if (gated) {
              Value up = k.load(z, target, upLane);
              output = k.mulf(act, up);
              dact = k.mulf(scaledH, up);
              k.stream(k.mulf(dact, slope), dz, target, lane);
              k.stream(k.mulf(scaledH, act), dz, target, upLane);
            } else {
              k.store(k.mulf(dact, slope), dz, target, lane);
            }
            // The forward multiplied by the rounded output.
            output = k.roundTo(output, element);
            if (hiddenScaled)
              k.stream(k.mulf(s, output), hiddenScaled, target, lane);
            if (partial)
              addTo(partial, row, h, output);
            if (!dscalars.empty())
              for (auto [sums, derivative] :
                   llvm::zip_equal(partialsOfScalars,
                                   emitScalarDerivatives(k, activation, gate)))
                addTo(sums, row, dact, derivative);
          }
        },
        [&](Value row, const RegisterTileColumns &tile) {
          prefetchRegisterTile(k, tiling, z, rows.row(row), tile);
          if (gated)
            prefetchRegisterTile(k, tiling, z, rows.row(row), tile, hidden);
        });
    if (!dscalars.empty())
      k.loop(k.idx(0), rows.block.count, 1, [&](Value i) {
        for (auto [sums, dscalar] :
             llvm::zip_equal(partialsOfScalars, dscalars))
          k.storeScalar(k.sum(k.load(sums, i, whole)), dscalar,
                        {rows.row(i), k.idx(0)});
      });
    if (!dscore)
      return;
    zeroMissing(k, *rows.routes, launch.workItems, dscore);
    Value bias = biases ? k.tableEntry(biases, rows.block.expert,
                                       MemRefType::get({width}, element))
                        : Value();
    k.loop(k.idx(0), rows.block.count, 1, [&](Value i) {
      Value sum = k.load(partial, i, whole);
      Value row = rows.row(i);
      if (bias)
        sum = k.columns(width, sum, [&](Lane lane, Value acc) {
          return k.fma(k.load(dy, rows.token(row), lane),
                       k.load(bias, ValueRange(), lane), acc);
        });
      k.storeScalar(k.sum(sum), dscore, rows.route(row));
    });
  });
}

static void lowerRoutedInputGrad(RoutedInputGradOp op,
                                 KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), op.getDz());
  bool gated = op.getForm() == FfnForm::Gated;
  int64_t hidden = widthOf(op.getDz()) / (gated ? 2 : 1);
  int64_t width = widthOf(op.getResult());
  Type element = elementOf(op.getDz());
  ProductTypes types(lowering.target(), element, elementOf(op.getWeights()[0]));
  MatmulTiling tiling = grouping.tiling(
      lowering, op.getWeights(), gated ? 2 * hidden : hidden, width, types);
  // The weights of gate and up, or of up alone.
  SmallVector<ExpertWeights, 2> weights;
  for (const auto &kind : byKind(lowering, op.getWeights(), gated ? 2 : 1))
    weights.emplace_back(lowering, op, kind, types,
                         RightOperand::Form::Straight, tiling.atUse);

  lowering.launch(
      op, grouping.launch(op, tiling, types), [&](KernelBuilder &k) {
        Value dz = k.matrix(lowering.buffer(op.getDz()));
        Value dx = k.matrix(lowering.result(op.getResult()));
        GroupedRows rows(k, grouping, lowering, op.getRoutes(), tiling);
        SmallVector<OperandTerm, 2> terms;
        for (const ExpertWeights &weight : weights)
          terms.push_back({weight.of(k, rows.block.expert)});
        multiplyBlock(
            k, rows.times(dz, /*byToken=*/false, hidden, types, terms),
            [&](Value row, const RegisterTileColumns &tile, ValueRange sums) {
              storeSums(k, sums, dx, rows.row(row), tile);
            });
      });
}

void mlir::moe::addRoutedMatmulGradLowerings(LoweringTable &table) {
  table.add(lowerRoutedDownGrad, lowerRoutedInputGrad);
}
