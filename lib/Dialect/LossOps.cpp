//===-- LossOps.cpp - verifiers of losses
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult CrossEntropyOp::verify() {
  return verifyLeading(*this, getLogits(), getLabels());
}

LogicalResult TokenLogprobsOp::verify() {
  if (failed(verifyLeading(*this, getLogits(), getResult())))
    return failure();
  return verifyLeading(*this, getLogits(), getLabels());
}

LogicalResult BalanceLossOp::verify() {
  return verifyLogits(*this, getLogits(), getRoutes());
}

LogicalResult LanguagePriorLossOp::verify() {
  return verifyLeading(*this, getLogits(), getOld());
}

LogicalResult ClassifierLossOp::verify() {
  if (failed(verifyLeading(*this, getLogits(), getOld())))
    return failure();
  return verifyDim(*this, "classes", 2, lastDim(getLogits()));
}

LogicalResult WeightedSumOp::verify() {
  if (getTerms().empty())
    return emitOpError() << "expected at least one term";
  if (getTerms().size() != getCoefficients().size())
    return emitOpError() << "expected " << getTerms().size()
                         << " coefficients, but got "
                         << getCoefficients().size();
  return success();
}

OpFoldResult WeightedSumOp::fold(FoldAdaptor) {
  if (getTerms().size() == 1 && getCoefficients().front() == 1.0 &&
      getTerms().front().getType() == getType())
    return getTerms().front();
  return {};
}
