//===-- FusedOps.cpp - verifiers of kernels as ops
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

/// The shapes of an expert's weights in the second half of an FFN: a matrix
/// [D,F], in the plain form perhaps a vector [D] after it.
static SmallVector<SmallVector<int64_t>>
downShapes(FfnForm form, ValueRange weights, int64_t hidden, int64_t width) {
  if (form == FfnForm::Plain && haveBiases(weights))
    return {{width, hidden}, {width}};
  return {{width, hidden}};
}

static Type elementOf(Value value) { return typeOf(value).getElementType(); }

/// The element type of sums over elements of `value`.
static Type preciseElementOf(Value value) {
  return preciseType(elementOf(value));
}

/// Checks the result of a grouped matmul that reads `rows`: it is rows with
/// routes, tokens without.
static LogicalResult verifyRowsOrTokens(Operation *op, Value result,
                                        Value routes, Value rows) {
  int64_t numRows = typeOf(rows).getDimSize(0);
  Type element = elementOf(rows);
  if (routes) {
    int64_t routed = cast<RoutesType>(routes.getType()).getRows();
    if (failed(verifyDim(op, "rows", routed, numRows)))
      return failure();
    return verifyType(op, "a result", result, {routed, lastDim(result)},
                      element);
  }
  if (typeOf(result).getRank() != 3)
    return op->emitOpError() << "expected a result [B,S,D], since there are no "
                                "routes, but got "
                             << result.getType();
  if (failed(verifyDim(op, "tokens", numRows, numTokens(result))))
    return failure();
  ArrayRef<int64_t> shape = typeOf(result).getShape();
  return verifyType(op, "a result", result, shape, element);
}

/// Checks that `scores` are [B,S,K] with the B and S of `tokens`.
static LogicalResult verifyScores(Operation *op, Value scores, Value tokens,
                                  TypedValue<RoutesType> routes, Type element) {
  ArrayRef<int64_t> shape = typeOf(tokens).getShape();
  return verifyType(op, "scores", scores,
                    {shape[0], shape[1], routes.getType().getTopK()}, element);
}

/// Checks the scalars of the experts' activation.
static LogicalResult verifyScalars(Operation *op, ValueRange scalars,
                                   ActivationKind activation, Value routes,
                                   Type element) {
  SmallVector<SmallVector<int64_t>> shapes(numScalars(activation), {1});
  return verifyWeights(op, scalars, shapes, numExperts(routes), element);
}

LogicalResult RoutedUpOp::verify() {
  Type element = elementOf(getInput());
  int64_t hidden = lastDim(getHidden());
  int64_t rows = numRows(getRoutes(), getInput());
  SmallVector<SmallVector<int64_t>> shapes{{hidden, lastDim(getInput())}};
  if (getForm() == FfnForm::Gated)
    shapes.push_back(shapes.front());
  else if (haveBiases(getWeights()))
    shapes.push_back({hidden});
  if (failed(verifyRoutes(*this, getRoutes(), getInput())) ||
      failed(verifyWeights(*this, getWeights(), shapes, numExperts(getRoutes()),
                           element)) ||
      failed(verifyScalars(*this, getScalars(), getActivation(), getRoutes(),
                           element)) ||
      failed(
          verifyType(*this, "a result", getHidden(), {rows, hidden}, element)))
    return failure();
  if (getPreactivation())
    return verifyType(*this, "a pre-activation", getPreactivation(),
                      {rows, preactivationWidth(getForm(), hidden)}, element);
  return success();
}

LogicalResult RoutedDownOp::verify() {
  if (failed(
          verifyWeights(*this, getWeights(),
                        downShapes(getForm(), getWeights(),
                                   lastDim(getHidden()), lastDim(getResult())),
                        numExperts(getRoutes()), elementOf(getHidden()))))
    return failure();
  return verifyRowsOrTokens(*this, getResult(), getRoutes(), getHidden());
}

LogicalResult CombineOp::verify() {
  int64_t rows = numRows(getRoutes(), getResult());
  if (failed(verifyRoutes(*this, getRoutes(), getResult())) ||
      failed(
          verifyShape(*this, "rows", getRows(), {rows, lastDim(getResult())})))
    return failure();
  if (getScores())
    return verifyScores(*this, getScores(), getResult(), getRoutes(),
                        preciseElementOf(getResult()));
  return success();
}

LogicalResult RoutedDownGradOp::verify() {
  if (!getScores() != !getRoutes())
    return emitOpError() << "expected scores and routes together";
  if (getDscores() && !getScores())
    return emitOpError() << "expected scores, since their gradient is wanted";
  Type element = elementOf(getDy());
  int64_t wide = lastDim(getPreactivation());
  int64_t hidden = getForm() == FfnForm::Gated ? wide / 2 : wide;
  int64_t rows = numRows(getRoutes(), getDy());
  if (failed(verifyRoutes(*this, getRoutes(), getDy())) ||
      failed(verifyWeights(
          *this, getWeights(),
          downShapes(getForm(), getWeights(), hidden, lastDim(getDy())),
          numExperts(getRoutes()), element)) ||
      failed(verifyScalars(*this, getScalars(), getActivation(), getRoutes(),
                           element)) ||
      failed(verifyShape(*this, "a pre-activation", getPreactivation(),
                         {rows, preactivationWidth(getForm(), hidden)})))
    return failure();
  if (getScaled() && failed(verifyType(*this, "scaled rows", getScaled(),
                                       {rows, hidden}, element)))
    return failure();
  int64_t scalars = numScalars(getActivation()), found = getDscalars().size();
  if (found != 0 && found != scalars)
    return emitOpError() << "expected " << scalars
                         << " gradients of scalars or none, but got " << found;
  for (Value dscalar : getDscalars())
    if (failed(verifyType(*this, "a gradient of a scalar", dscalar, {rows, 1},
                          preciseType(element))))
      return failure();
  if (getScores() && failed(verifyScores(*this, getScores(), getDy(),
                                         getRoutes(), preciseType(element))))
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
  SmallVector<SmallVector<int64_t>> shapes(gated ? 2 : 1,
                                           {hidden, lastDim(getResult())});
  if (failed(verifyWeights(*this, getWeights(), shapes, numExperts(getRoutes()),
                           elementOf(getDz()))) ||
      failed(verifyDim(*this, "a pre-activation width",
                       preactivationWidth(getForm(), hidden), wide)))
    return failure();
  return verifyRowsOrTokens(*this, getResult(), getRoutes(), getDz());
}

/// Checks that there is a result for each of `experts`, and that `experts` are
/// experts of `routes`.
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
  if (!llvm::is_sorted(experts, std::less_equal<int64_t>()))
    return op->emitOpError()
           << "expected experts in ascending order, but got " << experts;
  return success();
}

/// Checks that operands are [B,S,width] or [R,width], with the R of `routes`
/// where there are some.
static LogicalResult verifyTokensOrRows(Operation *op, ValueRange operands,
                                        TypedValue<RoutesType> routes) {
  std::optional<int64_t> rows;
  if (routes)
    rows = routes.getType().getRows();
  for (Value value : operands) {
    int64_t rank = typeOf(value).getRank();
    if (rank != 2 && rank != 3)
      return op->emitOpError() << "expected tokens [B,S,width] or rows "
                                  "[R,width], but got "
                               << value.getType();
    int64_t own = rank == 2 ? typeOf(value).getDimSize(0)
                            : numTokens(value) *
                                  (routes ? routes.getType().getTopK() : 1);
    if (failed(verifyDim(op, "rows", rows.value_or(own), own)))
      return failure();
    rows = own;
  }
  return success();
}

LogicalResult RoutedWeightGradOp::verify() {
  if (failed(verifyExperts(*this, getExperts(), getRoutes())) ||
      failed(verifyTokensOrRows(*this, {getLhs(), getRhs()}, getRoutes())))
    return failure();
  if (getDweights().empty())
    return success();
  int64_t rows = typeOf(getDweights().front()).getDimSize(0);
  int64_t offset = getOffset();
  if (offset < 0 || offset > lastDim(getLhs()) - rows)
    return emitOpError() << "expected " << rows << " columns within [0, "
                         << lastDim(getLhs()) << "), but got those from "
                         << offset << " on";
  for (Value dweight : getDweights())
    if (failed(verifyType(*this, "a result", dweight, {rows, lastDim(getRhs())},
                          preciseElementOf(getLhs()))))
      return failure();
  return success();
}

LogicalResult RoutedBiasGradOp::verify() {
  if (failed(verifyExperts(*this, getExperts(), getRoutes())) ||
      failed(verifyTokensOrRows(*this, getDy(), getRoutes())))
    return failure();
  for (Value dbias : getDbiases())
    if (failed(verifyType(*this, "a result", dbias, {lastDim(getDy())},
                          preciseElementOf(getDy()))))
      return failure();
  if (!getScores())
    return success();
  if (!getRoutes())
    return emitOpError() << "expected routes, since there are scores";
  if (failed(verifyRoutes(*this, getRoutes(), getScores())))
    return failure();
  return verifyScores(*this, getScores(), getScores(), getRoutes(),
                      preciseElementOf(getDy()));
}

LogicalResult LinearCrossEntropyOp::verify() {
  Type precise = preciseElementOf(getInput());
  if (failed(verifyDim(*this, "an input width", lastDim(getWeight()),
                       lastDim(getInput()))) ||
      failed(verifyLeading(*this, getInput(), getLabels())) ||
      failed(verifyType(*this, "a loss", getLoss(), {}, precise)))
    return failure();
  if (getDx() && failed(verifySameType(*this, "a gradient of the input",
                                       getInput(), getDx())))
    return failure();
  if (getDweight() &&
      failed(verifyType(*this, "a gradient of the weight", getDweight(),
                        typeOf(getWeight()).getShape(), precise)))
    return failure();
  return success();
}
