//===-- FusedOps.cpp - verifiers of kernels as ops
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

/// Checks the weights of the first half of an FFN: matrices [F,D], and where
/// `bias` says so a vector [F] after each.
static LogicalResult verifyUpWeights(Operation *op, ValueRange weights,
                                     int64_t each, bool bias, int64_t experts,
                                     int64_t hidden, int64_t width,
                                     Type element) {
  if (failed(verifyNumWeights(op, weights, each, experts)))
    return failure();
  for (auto [i, weight] : llvm::enumerate(weights)) {
    SmallVector<int64_t> shape = {hidden, width};
    if (bias && i % 2 == 1)
      shape = {hidden};
    if (failed(verifyWeight(op, weight, shape, element)))
      return failure();
  }
  return success();
}

/// Checks the weights of the second half of an FFN: a matrix [D,F], in the
/// plain form a vector [D] after it, for each expert.
static LogicalResult verifyDownWeights(Operation *op, ValueRange weights,
                                       FfnForm form, int64_t experts,
                                       int64_t hidden, int64_t width,
                                       Type element) {
  if (failed(verifyNumWeights(op, weights, form == FfnForm::Gated ? 1 : 2,
                              experts)))
    return failure();
  for (auto [i, weight] : llvm::enumerate(weights)) {
    SmallVector<int64_t> shape = {width, hidden};
    if (form == FfnForm::Plain && i % 2 == 1)
      shape = {width};
    if (failed(verifyWeight(op, weight, shape, element)))
      return failure();
  }
  return success();
}

/// Checks what comes out of a grouped matmul into `width`: rows of experts
/// under routes, tokens without.
static LogicalResult verifyRowsOrTokens(Operation *op, Value result,
                                        Value routes, int64_t rows,
                                        int64_t width) {
  if (routes)
    return verifyShape(op, "a result", result, {rows, width});
  if (typeOf(result).getRank() != 3)
    return op->emitOpError() << "expected a result [B,S,D], since there are no "
                                "routes, but got "
                             << result.getType();
  if (failed(verifyDim(op, "tokens", rows, numTokens(result))))
    return failure();
  return verifyDim(op, "a result width", width, lastDim(result));
}

LogicalResult RoutedUpOp::verify() {
  int64_t hidden = lastDim(getHidden());
  int64_t rows = numRows(getRoutes(), numTokens(getInput()));
  if (failed(verifyUpWeights(
          *this, getWeights(), /*each=*/2, getForm() == FfnForm::Plain,
          numExperts(getRoutes()), hidden, lastDim(getInput()),
          typeOf(getInput()).getElementType())) ||
      failed(verifyShape(*this, "a result", getHidden(), {rows, hidden})))
    return failure();
  if (getPreactivation())
    return verifyShape(*this, "a pre-activation", getPreactivation(),
                       {rows, preactivationWidth(getForm(), hidden)});
  return success();
}

LogicalResult RoutedDownOp::verify() {
  int64_t width = lastDim(getResult());
  if (failed(verifyDownWeights(*this, getWeights(), getForm(),
                               numExperts(getRoutes()), lastDim(getHidden()),
                               width, typeOf(getHidden()).getElementType())))
    return failure();
  return verifyRowsOrTokens(*this, getResult(), getRoutes(),
                            typeOf(getHidden()).getDimSize(0), width);
}

LogicalResult CombineOp::verify() {
  int64_t rows = numRows(getRoutes(), numTokens(getResult()));
  if (failed(verifySameElement(*this, getRows(), getResult())) ||
      failed(
          verifyShape(*this, "rows", getRows(), {rows, lastDim(getResult())})))
    return failure();
  if (!getScores())
    return success();
  if (failed(verifyLeading(*this, getResult(), getScores())))
    return failure();
  return verifyDim(*this, "scores", getRoutes().getType().getTopK(),
                   lastDim(getScores()));
}

LogicalResult RoutedDownGradOp::verify() {
  if (!getScores() != !getRoutes())
    return emitOpError() << "expected scores and routes together";
  if (getDscores() && !getScores())
    return emitOpError() << "expected scores, since their gradient is wanted";
  int64_t wide = lastDim(getPreactivation());
  int64_t hidden = getForm() == FfnForm::Gated ? wide / 2 : wide;
  int64_t rows = numRows(getRoutes(), numTokens(getDy()));
  if (failed(verifyDownWeights(
          *this, getWeights(), getForm(), numExperts(getRoutes()), hidden,
          lastDim(getDy()), typeOf(getDy()).getElementType())) ||
      failed(verifyShape(*this, "a pre-activation", getPreactivation(),
                         {rows, preactivationWidth(getForm(), hidden)})) ||
      failed(verifySameType(*this, "a gradient of the pre-activation",
                            getPreactivation(), getDz())))
    return failure();
  if (getScaled() &&
      failed(verifyShape(*this, "scaled rows", getScaled(), {rows, hidden})))
    return failure();
  if (getDscores())
    return verifySameType(*this, "a gradient of the scores", getScores(),
                          getDscores());
  return success();
}

LogicalResult RoutedInputGradOp::verify() {
  int64_t wide = lastDim(getDz());
  bool gated = getForm() == FfnForm::Gated;
  int64_t hidden = gated ? wide / 2 : wide;
  int64_t width = lastDim(getResult());
  if (failed(verifyUpWeights(*this, getWeights(), /*each=*/gated ? 2 : 1,
                             /*bias=*/false, numExperts(getRoutes()), hidden,
                             width, typeOf(getDz()).getElementType())) ||
      failed(verifyDim(*this, "a pre-activation width",
                       preactivationWidth(getForm(), hidden), wide)))
    return failure();
  return verifyRowsOrTokens(*this, getResult(), getRoutes(),
                            typeOf(getDz()).getDimSize(0), width);
}

/// Checks that there is a result for each of `experts`, and that there are
/// such experts.
static LogicalResult verifyExperts(Operation *op, ArrayRef<int64_t> experts,
                                   Value routes) {
  if (experts.size() != op->getNumResults())
    return op->emitOpError()
           << "expected a result for each of " << experts.size()
           << " experts, but got " << op->getNumResults();
  for (int64_t expert : experts)
    if (expert < 0 || expert >= numExperts(routes))
      return op->emitOpError() << "expected experts in [0, "
                               << numExperts(routes) << "), but got " << expert;
  return success();
}

/// Checks that an operand is [B,S,width] or [R,width].
static LogicalResult verifyTokensOrRows(Operation *op, Value value) {
  int64_t rank = typeOf(value).getRank();
  if (rank == 2 || rank == 3)
    return success();
  return op->emitOpError() << "expected tokens [B,S,width] or rows [R,width], "
                              "but got "
                           << value.getType();
}

LogicalResult RoutedWeightGradOp::verify() {
  if (failed(verifyExperts(*this, getExperts(), getRoutes())) ||
      failed(verifyTokensOrRows(*this, getLhs())) ||
      failed(verifyTokensOrRows(*this, getRhs())))
    return failure();
  int64_t offset = getOffset();
  for (Value dweight : getDweights()) {
    int64_t rows = typeOf(dweight).getDimSize(0);
    if (offset < 0 || offset + rows > lastDim(getLhs()))
      return emitOpError() << "expected columns within [0, "
                           << lastDim(getLhs()) << "), but got [" << offset
                           << ", " << offset + rows << ")";
    if (failed(verifyDim(*this, "a result width", lastDim(getRhs()),
                         lastDim(dweight))))
      return failure();
  }
  return success();
}

LogicalResult RoutedBiasGradOp::verify() {
  if (failed(verifyExperts(*this, getExperts(), getRoutes())) ||
      failed(verifyTokensOrRows(*this, getDy())))
    return failure();
  for (Value dbias : getDbiases())
    if (failed(verifyDim(*this, "a result", lastDim(getDy()), lastDim(dbias))))
      return failure();
  return success();
}

LogicalResult LinearCrossEntropyOp::verify() {
  if (failed(verifyDim(*this, "an input width", lastDim(getWeight()),
                       lastDim(getInput()))) ||
      failed(verifyLeading(*this, getInput(), getLabels())))
    return failure();
  if (getDx() && failed(verifySameType(*this, "a gradient of the input",
                                       getInput(), getDx())))
    return failure();
  if (getDweight() &&
      failed(verifyShape(*this, "a gradient of the weight", getDweight(),
                         typeOf(getWeight()).getShape())))
    return failure();
  if (static_cast<int64_t>(getChunk()) < 1)
    return emitOpError() << "expected a chunk of at least 1, but got "
                         << static_cast<int64_t>(getChunk());
  return success();
}
