//===-- Rows.cpp - work on rows: norms, embedding, rotary, sums -----------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Target/KernelLowering.h"

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

static LogicalResult lowerAdd(AddOp op, KernelLowering &lowering) {
  auto type = cast<RankedTensorType>(op.getType());
  int64_t count = type.getNumElements();
  // The shape does not matter, only the number of elements.
  constexpr int64_t width = 4096;
  int64_t rows = llvm::divideCeilSigned(count, width);
  lowering.launch(
      op,
      {.label = "",
       .tiles = llvm::divideCeilSigned(rows, 4),
       .arguments = {lowering.buffer(op.getLhs()), lowering.buffer(op.getRhs()),
                     lowering.result(op.getResult())},
       .compute = computeTypeOf(op.getResult())},
      [&](KernelBuilder &k) {
        Value a = k.buffer(0, {count}), b = k.buffer(1, {count});
        Value y = k.buffer(2, {count});
        auto addLane = [&](Lane lane) {
          k.store(k.addf(k.load(a, {}, lane), k.load(b, {}, lane)), y, {},
                  lane);
        };
        k.rowsOfTile(count / width, 4, [&](Value row) {
          Value first = k.mul(row, k.idx(width));
          k.columns(width, [&](Lane lane) {
            addLane({k.add(first, lane.column), Value()});
          });
        });
        if (int64_t rest = count % width)
          k.ifThen(k.less(k.idx(llvm::divideCeilSigned(rows, 4) - 2), k.tile()),
                   [&] {
                     Value first = k.idx(count - rest);
                     k.columns(rest, [&](Lane lane) {
                       addLane({k.add(first, lane.column), lane.mask});
                     });
                   });
      });
  return success();
}

static LogicalResult lowerRmsNorm(RmsNormOp op, KernelLowering &lowering) {
  // A group is a row of its own: QK-norm is a norm of narrower rows.
  int64_t width = widthOf(op.getWeight());
  int64_t rows = rowsOf(op.getInput()) * widthOf(op.getInput()) / width;
  int64_t perTile = rowsPerTile(rows, width);
  Type element = elementOf(op.getInput());
  double epsilon = op.getEpsilon().convertToDouble();
  double offset = op.getOffset().convertToDouble();
  lowering.launch(op,
                  {.label = "",
                   .tiles = llvm::divideCeilSigned(rows, perTile),
                   .arguments = {lowering.buffer(op.getInput()),
                                 lowering.buffer(op.getWeight()),
                                 lowering.result(op.getResult())},
                   .compute = computeTypeOf(op.getInput())},
                  [&](KernelBuilder &k) {
                    Value x = k.buffer(0, {rows, width}), w = k.buffer(1);
                    Value y = k.buffer(2, {rows, width});
                    k.rowsOfTile(rows, perTile, [&](Value row) {
                      Value scale = k.inverseRms(x, row, width, epsilon);
                      k.columns(width, [&](Lane lane) {
                        Value normed =
                            k.mulf(k.load(x, row, lane), k.broadcast(scale));
                        Value weight = k.load(w, {}, lane);
                        if (offset == 0)
                          normed = k.roundTo(normed, element);
                        else
                          weight = k.addf(weight, k.splat(offset));
                        k.store(k.mulf(normed, weight), y, row, lane);
                      });
                    });
                  });
  return success();
}

void mlir::moe::addRowLowerings(LoweringTable &table) {
  table.add<AddOp>(lowerAdd);
  table.add<RmsNormOp>(lowerRmsNorm);
}
