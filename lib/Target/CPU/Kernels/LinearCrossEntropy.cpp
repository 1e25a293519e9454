//===-- LinearCrossEntropy.cpp - output projection and loss in chunks -----===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The logits of a chunk of tokens are made, replaced by their gradient, and
// multiplied into the gradients of input and weight before the next chunk. All
// logits at once would be the largest tensor of a training step.
//
//===----------------------------------------------------------------------===//

#include "Kernels/Activation.h"
#include "Kernels/Routing.h"
#include "Kernels/Rows.h"
#include "Matmul.h"

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

/// Elements after the last logit of a row, without which rows whose length is a
/// power of two would fall into one set of the L1 cache.
static constexpr int64_t rowPadding = 32;

/// Launches the losses (`terms`) of `rows` tokens from `first` on and the
/// gradient of their logits, which are capped in place where there is a soft
/// cap. `logits` and `dlogits` may be one buffer.
static void launchSoftmaxGrad(LinearCrossEntropyOp op, Value logits,
                              Value dlogits, Value terms, int64_t first,
                              int64_t rows, KernelLowering &lowering) {
  int64_t vocabulary =
      cast<RankedTensorType>(op.getWeight().getType()).getDimSize(0);
  double cap = op.getSoftcap() ? op.getSoftcap()->convertToDouble() : 0;
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
        k.ifThen(
            k.less(label, k.idx(0)),
            [&] {
              k.storeScalar(k.scalar(0.0), losses, token);
              k.zeroRow(dx, row, vocabulary);
            },
            [&] {
              auto slope = [&](Value capped) {
                return emitSoftCapDerivative(k, capped, cap);
              };
              if (cap > 0)
                k.columns(vocabulary, [&](Lane lane) {
                  Value logit = k.load(x, row, lane);
                  k.store(emitSoftCap(k, logit, cap), x, row, lane);
                });
              Value loss = crossEntropyGradient(
                  k, x, row, vocabulary, label, weight, dx,
                  cap > 0 ? function_ref<Value(Value)>(slope) : nullptr);
              k.storeScalar(k.mulf(weight, loss), losses, token);
            });
      });
}

static void lowerLinearCrossEntropy(LinearCrossEntropyOp op,
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
  // The gradient of logits has the type in which products read it: the type of
  // the model if products take bf16, as a tensor of logits would; else the type
  // of computation.
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

  sumTerms(lowering, op, losses, op.getLoss());
}

void mlir::moe::addLinearCrossEntropyLowering(LoweringTable &table) {
  table.add(lowerLinearCrossEntropy);
}
