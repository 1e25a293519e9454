//===-- ProbeOps.cpp - verifiers of what profiles measure
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult DirectionSumOp::verify() {
  if (failed(verifyLeading(*this, getInput(), getLabels())))
    return failure();
  return verifyShape(*this, "a sum", getResult(),
                     {typeOf(getInput()).getDimSize(0), lastDim(getInput())});
}

LogicalResult ExpertLoadOp::verify() {
  if (failed(verifyRoutes(*this, getRoutes(), getLabels())))
    return failure();
  return verifyShape(
      *this, "a load", getResult(),
      {typeOf(getLabels()).getDimSize(0), getRoutes().getType().getExperts()});
}
