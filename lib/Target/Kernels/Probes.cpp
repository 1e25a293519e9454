//===-- Probes.cpp - what profiles measure --------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RoutesView.h"
#include "Rows.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

static void lowerDirectionSum(DirectionSumOp op, KernelLowering &lowering) {
  int64_t rows = rowsOf(op.getLabels()), length = widthOf(op.getLabels());
  int64_t width = widthOf(op.getInput());
  lowering.launch(
      op, {.workItems = rows, .compute = computeTypeOf(op.getInput())},
      [&](KernelBuilder &k) {
        Value x = k.buffer(lowering.buffer(op.getInput()));
        Value labels = k.buffer(lowering.buffer(op.getLabels()));
        Value y = k.buffer(lowering.result(op.getResult()));
        Value row = k.workItem();
        k.zeroRow(y, row, width);
        auto addDirection = [&](Value token) {
          Value squares = sumColumns(k, width, [&](Lane lane) {
            Value element = k.load(x, {row, token}, lane);
            return k.mulf(element, element);
          });
          Value norm = math::SqrtOp::create(k, squares);
          auto isNotZero = arith::CmpFOp::create(k, arith::CmpFPredicate::UNE,
                                                 norm, k.scalar(0.0));
          k.ifThen(isNotZero, [&] {
            Value divisor = k.broadcast(norm);
            k.columns(width, [&](Lane lane) {
              Value direction = k.divf(k.load(x, {row, token}, lane), divisor);
              k.store(k.addf(k.load(y, row, lane), direction), y, row, lane);
            });
          });
        };
        k.loop(length, [&](Value token) {
          Value label = k.loadIndex(labels, {row, token});
          k.ifThen(
              k.less(label, k.idx(0)), [] {}, [&] { addDirection(token); });
        });
      });
}

static void lowerExpertLoad(ExpertLoadOp op, KernelLowering &lowering) {
  RoutesType type = op.getRoutes().getType();
  int64_t rows = rowsOf(op.getLabels()), length = widthOf(op.getLabels());
  lowering.launch(
      op,
      {.workItems = type.getExperts(),
       .compute = computeTypeOf(op.getResult())},
      [&](KernelBuilder &k) {
        RoutesView routes(k, lowering.buffer(op.getRoutes()), type);
        Value labels = k.buffer(lowering.buffer(op.getLabels()));
        Value y = k.buffer(lowering.result(op.getResult()));
        Value expert = k.workItem();
        k.loop(rows, [&](Value row) {
          k.storeScalar(k.scalar(0.0), y, {row, expert});
        });
        auto [begin, end] = routes.rowsOf(expert);
        k.loop(begin, end, 1, [&](Value routed) {
          Value token = routes.token(routed);
          Value row = k.div(token, k.idx(length));
          Value label = k.loadIndex(labels, {row, k.rem(token, k.idx(length))});
          Value one =
              k.select(k.less(label, k.idx(0)), k.scalar(0.0), k.scalar(1.0));
          Value sum = k.addf(k.loadScalar(y, {row, expert}), one);
          k.storeScalar(sum, y, {row, expert});
        });
      });
}

void mlir::moe::addProbeLowerings(LoweringTable &table) {
  table.add(lowerDirectionSum, lowerExpertLoad);
}
