//===-- LinearCrossEntropy.cpp - output projection and loss in chunks -----===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Logits of a chunk of tokens are made, turned into their own gradient in
// place, and multiplied back before the next chunk is begun. All logits at
// once would be the largest tensor of a training step.
//
//===----------------------------------------------------------------------===//

#include "Kernels/Routing.h"
#include "Kernels/Rows.h"
#include "Matmul.h"

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

/// Elements beyond the last logit of a row. Where rows are a power of two long,
/// those of a register tile would share one set of the cache.
static constexpr int64_t rowPadding = 32;

/// Losses of `rows` tokens from `first` on, and the gradient of their logits,
/// which may take the place of the logits.
static void launchSoftmaxGrad(LinearCrossEntropyOp op, Value logits,
                              Value dlogits, Value terms, int64_t first,
                              int64_t rows, KernelLowering &lowering) {
  int64_t vocabulary =
      cast<RankedTensorType>(op.getWeight().getType()).getDimSize(0);
  lowering.launch(
      op,
      {.label = "softmax",
       .workItems = rows,
       .compute = cast<MemRefType>(logits.getType()).getElementType()},
      [&](KernelBuilder &k) {
        Value x = k.buffer(logits);
        Value dx = k.buffer(dlogits);
        Value labels =
            k.buffer(lowering.buffer(op.getLabels()), {rowsOf(op.getInput())});
        Value weight = k.loadScalar(
            k.buffer(lowering.buffer(op.getLossWeight()), {1}), k.idx(0));
        Value losses = k.buffer(terms);
        Value row = k.workItem();
        Value token = k.add(k.number(lowering.constant(first)), row);
        Value label = k.loadIndex(labels, token);
        ifElse(
            k, k.less(label, k.idx(0)),
            [&] {
              k.storeScalar(k.scalar(0.0), losses, token);
              k.columns(vocabulary, [&](Lane lane) {
                k.store(k.splat(0.0), dx, row, lane);
              });
            },
            [&] {
              Value loss = crossEntropyGradient(k, x, row, vocabulary, label,
                                                weight, dx);
              k.storeScalar(k.mulf(weight, loss), losses, token);
            });
      });
}

static LogicalResult lowerLinearCrossEntropy(LinearCrossEntropyOp op,
                                             KernelLowering &lowering) {
  int64_t tokens = rowsOf(op.getInput()), inner = widthOf(op.getInput());
  auto weightType = cast<RankedTensorType>(op.getWeight().getType());
  int64_t vocabulary = weightType.getDimSize(0);
  ProductTypes types(lowering.target(), elementOf(op.getInput()),
                     elementOf(op.getWeight()));
  Type compute = types.compute;
  Value input = lowering.buffer(op.getInput());
  Value weight = lowering.buffer(op.getWeight());
  Value panels = packTransposed(lowering, op, weight, types);
  // The gradient of logits is multiplied in the type of the model where it can
  // be, as if there were a tensor of logits; else it stays precise.
  Type gradient = types.operand;
  ProductTypes backward(lowering.target(), gradient, elementOf(op.getWeight()));
  Value straight =
      op.getDx() ? packStraight(lowering, op, weight, backward) : Value();
  Value losses = lowering.temporary({tokens}, compute);

  for (int64_t first = 0; first < tokens; first += op.getChunk()) {
    int64_t rows = std::min<int64_t>(op.getChunk(), tokens - first);
    SmallVector<int64_t> padded{rows, vocabulary + rowPadding};
    Value logits = lowering.temporary(padded, compute);
    launchProduct(lowering, op,
                  {.types = types,
                   .input = input,
                   .weight = panels,
                   .result = logits,
                   .rows = rows,
                   .inner = inner,
                   .columns = vocabulary,
                   .firstInput = first});
    Value dlogits = gradient == compute || !(op.getDx() || op.getDweight())
                        ? logits
                        : lowering.temporary(padded, gradient);
    launchSoftmaxGrad(op, logits, dlogits, losses, first, rows, lowering);
    if (op.getDx())
      launchProduct(lowering, op,
                    {.types = backward,
                     .input = dlogits,
                     .weight = straight,
                     .result = lowering.result(op.getDx()),
                     .rows = rows,
                     .inner = vocabulary,
                     .columns = inner,
                     .firstResult = first});
    if (op.getDweight())
      launchOuterProducts(lowering, op,
                          {.lhs = dlogits,
                           .rhs = input,
                           .result = lowering.result(op.getDweight()),
                           .rows = rows,
                           .lhsWidth = vocabulary,
                           .rhsWidth = inner,
                           .firstRhs = first,
                           .accumulate = first > 0});
  }

  lowering.launch(op,
                  {.label = "sum",
                   .workItems = 1,
                   // Many small terms: in f64, as every loss is summed.
                   .compute = Float64Type::get(op.getContext())},
                  [&](KernelBuilder &k) {
                    Value from = k.buffer(losses);
                    Value to = k.buffer(lowering.result(op.getLoss()), {1});
                    Value sum = sumColumns(k, tokens, [&](Lane lane) {
                      return k.load(from, ValueRange(), lane);
                    });
                    k.storeScalar(sum, to, k.idx(0));
                  });
  return success();
}

void mlir::moe::addLinearCrossEntropyLowering(LoweringTable &table) {
  table.add<LinearCrossEntropyOp>(lowerLinearCrossEntropy);
}
