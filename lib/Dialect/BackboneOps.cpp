//===-- BackboneOps.cpp - verifiers of the decoder's ops
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult EmbeddingOp::verify() {
  if (failed(verifyLeading(*this, getTokens(), getResult())) ||
      failed(verifySameElement(*this, getTable(), getResult())))
    return failure();
  return verifyDim(*this, "a width", lastDim(getTable()), lastDim(getResult()));
}

LogicalResult RmsNormOp::verify() {
  return verifyMultiple(*this, lastDim(getWeight()), lastDim(getInput()));
}

LogicalResult LayerNormOp::verify() {
  if (getBias() &&
      failed(verifySameType(*this, "a bias", getWeight(), getBias())))
    return failure();
  return verifyDim(*this, "a weight", lastDim(getInput()),
                   lastDim(getWeight()));
}

OpFoldResult ScaleOp::fold(FoldAdaptor) {
  return getFactor().isExactlyValue(1.0) ? getInput() : OpFoldResult();
}

LogicalResult ConcatRowsOp::verify() {
  if (getInputs().empty())
    return emitOpError() << "expected at least one input";
  RankedTensorType type = typeOf(getResult());
  int64_t rows = 0;
  for (Value input : getInputs()) {
    if (failed(verifyType(*this, "an input", input,
                          {typeOf(input).getDimSize(0), type.getDimSize(1)},
                          type.getElementType())))
      return failure();
    rows += typeOf(input).getDimSize(0);
  }
  return verifyDim(*this, "rows", rows, type.getDimSize(0));
}

LogicalResult LinearOp::verify() {
  if (failed(verifyLeading(*this, getInput(), getResult())) ||
      failed(verifyDim(*this, "an input width",
                       typeOf(getWeight()).getDimSize(1),
                       lastDim(getInput()))) ||
      failed(verifyDim(*this, "a result width",
                       typeOf(getWeight()).getDimSize(0),
                       lastDim(getResult()))))
    return failure();
  if (!getBias())
    return success();
  if (failed(verifySameElement(*this, getInput(), getBias())))
    return failure();
  return verifyDim(*this, "a bias", lastDim(getResult()), lastDim(getBias()));
}

LogicalResult RotaryTableOp::verifyLength(int64_t length) {
  if (!getMaxLength() || length <= static_cast<int64_t>(*getMaxLength()))
    return success();
  return emitOpError() << "expected sequences of at most " << *getMaxLength()
                       << " tokens, for which its frequencies are, but got "
                       << length
                       << "; moe-translate --import-hf --context=N makes a "
                          "model for longer ones";
}

LogicalResult RotaryTableOp::verify() {
  for (Value table : getResults())
    if (failed(verifyLeading(*this, getPositions(), table)) ||
        failed(verifyDim(*this, "a table width", getFrequencies().size(),
                         lastDim(table))))
      return failure();
  int64_t length = typeOf(getPositions()).getDimSize(1);
  return ShapedType::isDynamic(length) ? success() : verifyLength(length);
}

LogicalResult RotaryOp::verify() {
  if (failed(verifyLeading(*this, getInput(), getCos())))
    return failure();
  if (headWidth() < rotatedWidth())
    return emitOpError() << "expected heads of at least " << rotatedWidth()
                         << " elements, which rotate, but got " << headWidth();
  return verifyMultiple(*this, headWidth(), lastDim(getInput()));
}

LogicalResult AttentionOp::verify() {
  int64_t heads = getHeads(), kvHeads = getKvHeads();
  FailureOr<int64_t> width =
      verifyHeads(*this, lastDim(getQuery()), heads, kvHeads);
  if (failed(width))
    return failure();
  int64_t rows = typeOf(getQuery()).getDimSize(0);
  int64_t length = typeOf(getQuery()).getDimSize(1);
  int64_t slots = typeOf(getKey()).getDimSize(1);
  if (failed(verifySameElement(*this, getQuery(), getKey())) ||
      failed(verifyShape(*this, "keys", getKey(), {rows, slots, *width})) ||
      failed(verifyShape(*this, "slots", getSlots(), {rows, length})))
    return failure();
  if (getSegments() &&
      (failed(verifyShape(*this, "segments", getSegments(), {rows, length})) ||
       failed(verifyDim(*this,
                        "as many keys as queries, since there are segments,",
                        length, slots))))
    return failure();
  if (getLse())
    return verifyShape(*this, "a log-sum-exp", getLse(), {rows, heads, length});
  return success();
}

LogicalResult CacheUpdateOp::verify() {
  ArrayRef<int64_t> cache = typeOf(getCache()).getShape();
  int64_t tokens = typeOf(getRows()).getDimSize(1);
  if (failed(verifyShape(*this, "rows", getRows(),
                         {cache[0], tokens, cache[2]})) ||
      failed(verifyShape(*this, "slots", getSlots(), {cache[0], tokens})))
    return failure();
  if (!getCache().hasOneUse())
    return emitOpError() << "expected to be the only user of the cache";
  return success();
}

LogicalResult LastTokenOp::verify() {
  ArrayRef<int64_t> input = typeOf(getInput()).getShape();
  if (failed(
          verifyShape(*this, "a result", getResult(), {input[0], 1, input[2]})))
    return failure();
  // The one token must not be a dynamic dimension.
  return verifyDim(*this, "a row length", 1,
                   typeOf(getResult()).isDynamicDim(1)
                       ? 0
                       : typeOf(getResult()).getDimSize(1));
}

/// Checks the weights of `experts` FFNs against `input` and the results.
static LogicalResult verifyFfns(Operation *op, Value input, ValueRange weights,
                                FfnForm form, ActivationKind activation,
                                int64_t experts, Value preactivation,
                                int64_t rows) {
  int64_t width = lastDim(input);
  int64_t hidden = weights.empty() ? 0 : typeOf(weights[0]).getDimSize(0);
  SmallVector<SmallVector<int64_t>> shapes;
  if (form == FfnForm::Gated)
    shapes = {{hidden, width}, {hidden, width}, {width, hidden}};
  else if (haveBiases(weights))
    shapes = {{hidden, width}, {hidden}, {width, hidden}, {width}};
  else
    shapes = {{hidden, width}, {width, hidden}};
  shapes.append(numScalars(activation), {1});
  if (failed(verifyWeights(op, weights, shapes, experts,
                           typeOf(input).getElementType())))
    return failure();
  if (preactivation)
    return verifyShape(op, "a pre-activation", preactivation,
                       {rows, preactivationWidth(form, hidden)});
  return success();
}

LogicalResult FfnOp::verify() {
  return verifyFfns(*this, getInput(), getWeights(), getForm(), getActivation(),
                    /*experts=*/1, getPreactivation(), numTokens(getInput()));
}

LogicalResult ExpertsOp::verify() {
  if (failed(verifyLeading(*this, getInput(), getScores())) ||
      failed(verifyDim(*this, "scores", getRoutes().getType().getTopK(),
                       lastDim(getScores()))) ||
      failed(verifyRoutes(*this, getRoutes(), getInput())))
    return failure();
  return verifyFfns(*this, getInput(), getWeights(), getForm(), getActivation(),
                    getRoutes().getType().getExperts(), getPreactivation(),
                    numRows(getRoutes(), getInput()));
}

LogicalResult RouterOp::verify() {
  if (failed(verifyLeading(*this, getInput(), getLogits())) ||
      failed(verifyDim(*this, "an input width",
                       typeOf(getWeight()).getDimSize(1), lastDim(getInput()))))
    return failure();
  return verifyDim(*this, "a result width", typeOf(getWeight()).getDimSize(0),
                   lastDim(getLogits()));
}
