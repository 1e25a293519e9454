//===-- BackboneOps.cpp - verifiers of the decoder's ops
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}

int64_t lastDim(Value value) { return typeOf(value).getShape().back(); }

/// Checks that two dimensions agree, where both are known.
LogicalResult agree(Operation *op, StringRef what, int64_t expected,
                    int64_t actual) {
  if (expected == actual || ShapedType::isDynamic(expected) ||
      ShapedType::isDynamic(actual))
    return success();
  return op->emitOpError() << "expected " << what << " of " << expected
                           << ", but got " << actual;
}

LogicalResult sameType(Operation *op, Value expected, Value actual) {
  if (expected.getType() == actual.getType())
    return success();
  return op->emitOpError() << "expected a result of the input's type, "
                           << expected.getType() << ", but got "
                           << actual.getType();
}

LogicalResult sameElement(Operation *op, Value expected, Value actual) {
  if (typeOf(expected).getElementType() == typeOf(actual).getElementType())
    return success();
  return op->emitOpError() << "expected element type "
                           << typeOf(expected).getElementType() << ", but got "
                           << typeOf(actual).getElementType();
}

LogicalResult positive(Operation *op, StringRef name, APFloat value) {
  if (value.isNegative() || value.isZero() || value.isNaN())
    return op->emitOpError() << "expected a positive " << name;
  return success();
}

/// Checks rows and tokens of a row, the leading two dimensions.
LogicalResult agreeLeading(Operation *op, Value expected, Value actual) {
  for (int i : {0, 1})
    if (failed(agree(op, i == 0 ? "a batch" : "a row length",
                     typeOf(expected).getDimSize(i),
                     typeOf(actual).getDimSize(i))))
      return failure();
  return success();
}

} // namespace

LogicalResult EmbeddingOp::verify() {
  if (failed(agreeLeading(*this, getTokens(), getResult())) ||
      failed(sameElement(*this, getTable(), getResult())))
    return failure();
  return agree(*this, "a width", lastDim(getTable()), lastDim(getResult()));
}

LogicalResult RmsNormOp::verify() {
  if (failed(sameType(*this, getInput(), getResult())) ||
      failed(positive(*this, "epsilon", getEpsilon())))
    return failure();
  if (lastDim(getInput()) % lastDim(getWeight()) != 0)
    return emitOpError() << "expected a width that is a multiple of "
                         << lastDim(getWeight()) << ", but got "
                         << lastDim(getInput());
  return success();
}

LogicalResult LayerNormOp::verify() {
  if (failed(sameType(*this, getInput(), getResult())) ||
      failed(positive(*this, "epsilon", getEpsilon())) ||
      failed(
          agree(*this, "a weight", lastDim(getInput()), lastDim(getWeight()))))
    return failure();
  return agree(*this, "a bias", lastDim(getInput()), lastDim(getBias()));
}

LogicalResult LinearOp::verify() {
  if (failed(agreeLeading(*this, getInput(), getResult())) ||
      failed(sameElement(*this, getInput(), getResult())) ||
      failed(agree(*this, "an input width", typeOf(getWeight()).getDimSize(1),
                   lastDim(getInput()))) ||
      failed(agree(*this, "a result width", typeOf(getWeight()).getDimSize(0),
                   lastDim(getResult()))))
    return failure();
  if (getBias())
    return agree(*this, "a bias", lastDim(getResult()), lastDim(getBias()));
  return success();
}

LogicalResult RotaryTableOp::verify() {
  for (Value table : getResults())
    if (failed(agreeLeading(*this, getPositions(), table)) ||
        failed(agree(*this, "a table width", getFrequencies().size(),
                     lastDim(table))))
      return failure();
  return success();
}

LogicalResult RotaryOp::verify() {
  if (failed(sameType(*this, getInput(), getResult())))
    return failure();
  if (lastDim(getInput()) % (2 * lastDim(getCos())) != 0)
    return emitOpError() << "expected a width that is a multiple of "
                         << 2 * lastDim(getCos()) << ", but got "
                         << lastDim(getInput());
  return agree(*this, "a table of sines", lastDim(getCos()), lastDim(getSin()));
}

LogicalResult AttentionOp::verify() {
  int64_t heads = getHeads(), kvHeads = getKvHeads();
  if (heads <= 0 || kvHeads <= 0 || heads % kvHeads != 0)
    return emitOpError() << "expected heads to be a multiple of kv_heads, but "
                            "got "
                         << heads << " and " << kvHeads;
  if (lastDim(getQuery()) % heads != 0)
    return emitOpError() << "expected a query width that is a multiple of "
                         << heads << " heads, but got " << lastDim(getQuery());
  int64_t width = lastDim(getQuery()) / heads * kvHeads;
  if (failed(sameType(*this, getQuery(), getResult())) ||
      failed(agree(*this, "a key width", width, lastDim(getKey()))) ||
      failed(agree(*this, "a value width", width, lastDim(getValue()))))
    return failure();
  if (getSegments() &&
      failed(agree(*this, "as many keys as queries, since there are segments,",
                   typeOf(getQuery()).getDimSize(1),
                   typeOf(getKey()).getDimSize(1))))
    return failure();
  if (getWindow() && *getWindow() <= 0)
    return emitOpError() << "expected a positive window, but got "
                         << *getWindow();
  return success();
}

LogicalResult CacheUpdateOp::verify() {
  if (failed(sameType(*this, getCache(), getResult())) ||
      failed(sameElement(*this, getCache(), getRows())) ||
      failed(agree(*this, "a batch", typeOf(getCache()).getDimSize(0),
                   typeOf(getRows()).getDimSize(0))) ||
      failed(agree(*this, "a width", lastDim(getCache()), lastDim(getRows()))))
    return failure();
  if (!getCache().hasOneUse())
    return emitOpError() << "expected to be the only user of the cache";
  return success();
}

LogicalResult LastTokenOp::verify() {
  if (failed(sameElement(*this, getInput(), getResult())) ||
      failed(agree(*this, "a batch", typeOf(getInput()).getDimSize(0),
                   typeOf(getResult()).getDimSize(0))) ||
      failed(
          agree(*this, "a width", lastDim(getInput()), lastDim(getResult()))))
    return failure();
  int64_t tokens = typeOf(getResult()).getDimSize(1);
  if (tokens != 1)
    return emitOpError() << "expected a row length of 1, but got "
                         << (ShapedType::isDynamic(tokens)
                                 ? std::string("?")
                                 : std::to_string(tokens));
  return success();
}

/// Checks the weights of one FFN of this form.
static LogicalResult verifyFfn(Operation *op, ValueRange weights, FfnForm form,
                               int64_t width, int64_t hidden, Type element) {
  SmallVector<SmallVector<int64_t>> shapes;
  if (form == FfnForm::Gated)
    shapes = {{hidden, width}, {hidden, width}, {width, hidden}};
  else
    shapes = {{hidden, width}, {hidden}, {width, hidden}, {width}};
  for (auto [weight, shape] : llvm::zip_equal(weights, shapes)) {
    auto expected = RankedTensorType::get(shape, element);
    if (weight.getType() != expected)
      return op->emitOpError() << "expected a weight of type " << expected
                               << ", but got " << weight.getType();
  }
  return success();
}

/// Checks the weights of `experts` FFNs, and what they make of `input`.
static LogicalResult verifyFfns(Operation *op, Value input, ValueRange weights,
                                FfnForm form, int64_t experts) {
  int64_t each = weightsPerExpert(form);
  if (static_cast<int64_t>(weights.size()) != each * experts)
    return op->emitOpError()
           << "expected " << each * experts << " weights (" << each
           << " for each expert), but got " << weights.size();
  int64_t hidden = typeOf(weights.front()).getDimSize(0);
  for (int64_t e = 0; e < experts; ++e)
    if (failed(verifyFfn(op, weights.slice(e * each, each), form,
                         lastDim(input), hidden,
                         typeOf(input).getElementType())))
      return failure();
  return success();
}

LogicalResult FfnOp::verify() {
  if (failed(sameType(*this, getInput(), getResult())))
    return failure();
  return verifyFfns(*this, getInput(), getWeights(), getForm(), 1);
}

LogicalResult ExpertsOp::verify() {
  if (failed(sameType(*this, getInput(), getResult())) ||
      failed(agree(*this, "scores", getRoutes().getType().getTopK(),
                   lastDim(getScores()))))
    return failure();
  return verifyFfns(*this, getInput(), getWeights(), getForm(),
                    getRoutes().getType().getExperts());
}

LogicalResult RouterOp::verify() {
  if (failed(agreeLeading(*this, getInput(), getLogits())) ||
      failed(agree(*this, "an input width", typeOf(getWeight()).getDimSize(1),
                   lastDim(getInput()))))
    return failure();
  return agree(*this, "a result width", typeOf(getWeight()).getDimSize(0),
               lastDim(getLogits()));
}
