//===-- GradientOps.cpp - verifiers of what differentiation adds
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult EmbeddingGradOp::verify() {
  if (failed(verifyLeading(*this, getTokens(), getDy())))
    return failure();
  return verifyDim(*this, "a width", lastDim(getDy()), lastDim(getDtable()));
}

LogicalResult RmsNormGradOp::verify() {
  return verifyMultiple(*this, lastDim(getWeight()), lastDim(getInput()));
}

LogicalResult RmsNormWeightGradOp::verify() {
  return verifyMultiple(*this, lastDim(getDweight()), lastDim(getInput()));
}

LogicalResult LayerNormGradOp::verify() {
  return verifyDim(*this, "a weight", lastDim(getInput()),
                   lastDim(getWeight()));
}

LogicalResult LayerNormWeightGradOp::verify() {
  return verifyDim(*this, "a result", lastDim(getInput()),
                   lastDim(getDweight()));
}

LogicalResult LinearInputGradOp::verify() {
  if (failed(verifyLeading(*this, getDy(), getDx())))
    return failure();
  return verifyShape(*this, "a weight", getWeight(),
                     {lastDim(getDy()), lastDim(getDx())});
}

LogicalResult LinearWeightGradOp::verify() {
  if (failed(verifyLeading(*this, getDy(), getInput())))
    return failure();
  return verifyShape(*this, "a result", getDweight(),
                     {lastDim(getDy()), lastDim(getInput())});
}

LogicalResult TakeRowsOp::verify() {
  int64_t first = getFirst(), rows = typeOf(getResult()).getDimSize(0);
  int64_t all = typeOf(getDy()).getDimSize(0);
  if (failed(verifyType(*this, "a result", getResult(),
                        {rows, lastDim(getDy())},
                        typeOf(getDy()).getElementType())))
    return failure();
  if (first < 0 || first + rows > all)
    return emitOpError() << "expected rows in [0, " << all << "], but got "
                         << first << " to " << first + rows;
  return success();
}

LogicalResult ColumnSumOp::verify() {
  return verifyDim(*this, "a result", lastDim(getDy()), lastDim(getResult()));
}

LogicalResult AttentionGradOp::verify() {
  int64_t heads = getHeads();
  FailureOr<int64_t> width =
      verifyHeads(*this, lastDim(getQuery()), heads, getKvHeads());
  if (failed(width))
    return failure();
  int64_t rows = typeOf(getQuery()).getDimSize(0);
  int64_t length = typeOf(getQuery()).getDimSize(1);
  if (failed(verifyShape(*this, "keys", getKey(), {rows, length, *width})))
    return failure();
  return verifyShape(*this, "a log-sum-exp", getLse(), {rows, heads, length});
}

LogicalResult ExpertsGradOp::verify() {
  if (getWanted().size() != getWeights().size())
    return emitOpError() << "expected a wanted flag for each of "
                         << getWeights().size() << " weights, but got "
                         << getWanted().size();
  if (static_cast<size_t>(llvm::count(getWanted(), true)) !=
      getDweights().size())
    return emitOpError() << "expected a gradient for each wanted weight, but "
                            "got "
                         << getDweights().size();
  if (!getScores() != !getRoutes())
    return emitOpError() << "expected scores and routes together";
  if (getDscores() && !getScores())
    return emitOpError() << "expected scores, since their gradient is wanted";
  if (failed(verifyRoutes(*this, getRoutes(), getInput())))
    return failure();
  if (getDx())
    return verifySameType(*this, "a gradient of the input", getInput(),
                          getDx());
  return success();
}

LogicalResult RouteGradOp::verify() {
  if (failed(verifyLeading(*this, getLogits(), getDscores())) ||
      failed(verifyLogits(*this, getLogits(), getRoutes())) ||
      failed(verifyDim(*this, "scores", getRoutes().getType().getTopK(),
                       lastDim(getDscores()))))
    return failure();
  if (!getGate())
    return success();
  if (failed(verifyLeading(*this, getLogits(), getGate())))
    return failure();
  return verifyDim(*this, "classes", 2, lastDim(getGate()));
}

LogicalResult ClassifierLossGradOp::verify() {
  if (failed(verifyLeading(*this, getLogits(), getOld())))
    return failure();
  return verifyDim(*this, "classes", 2, lastDim(getLogits()));
}

LogicalResult CrossEntropyGradOp::verify() {
  return verifyLeading(*this, getLogits(), getLabels());
}

LogicalResult BalanceLossGradOp::verify() {
  return verifyLogits(*this, getLogits(), getRoutes());
}

LogicalResult LanguagePriorLossGradOp::verify() {
  return verifyLeading(*this, getLogits(), getOld());
}
