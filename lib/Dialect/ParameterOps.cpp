//===-- ParameterOps.cpp - verifiers of parameters
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult ParameterOp::verify() {
  auto type = cast<RankedTensorType>(getType());
  if (!type.hasStaticShape())
    return emitOpError() << "expected a static shape, but got " << type;
  return success();
}

LogicalResult ParameterOp::verifySymbolUses(SymbolTableCollection &tables) {
  auto copy = dyn_cast<CopyAttr>(getOrigin());
  if (!copy)
    return success();
  auto source =
      tables.lookupNearestSymbolFrom<ParameterOp>(*this, copy.getSource());
  if (!source)
    return emitOpError() << "expected the origin to name a parameter, but "
                            "there is no "
                         << copy.getSource();
  if (source.getType() != getType()) {
    InFlightDiagnostic diag = emitOpError()
                              << "expected the type of its origin, "
                              << source.getType() << ", but got " << getType();
    diag.attachNote(source.getLoc()) << "the origin is here";
    return diag;
  }
  return success();
}

/// Finds the parameter called `name` and checks that it has the shape of
/// `type` (and, if `sameElement`, its element type).
static FailureOr<ParameterOp> lookupParameter(Operation *op,
                                              SymbolTableCollection &tables,
                                              FlatSymbolRefAttr name, Type type,
                                              bool sameElement) {
  auto parameter = tables.lookupNearestSymbolFrom<ParameterOp>(op, name);
  if (!parameter)
    return op->emitOpError()
           << "expected a moe.parameter, but there is no " << name;
  auto expected = cast<RankedTensorType>(parameter.getType());
  auto actual = cast<RankedTensorType>(type);
  if (expected.getShape() != actual.getShape() ||
      (sameElement && expected != actual)) {
    InFlightDiagnostic diag = op->emitOpError()
                              << "expected the type of " << name << ", "
                              << expected << ", but got " << actual;
    diag.attachNote(parameter.getLoc()) << "the parameter is here";
    return diag;
  }
  return parameter;
}

LogicalResult GetParameterOp::verifySymbolUses(SymbolTableCollection &tables) {
  return lookupParameter(*this, tables, getNameAttr(), getType(),
                         /*sameElement=*/true);
}

LogicalResult
AccumulateGradientOp::verifySymbolUses(SymbolTableCollection &tables) {
  FailureOr<ParameterOp> parameter =
      lookupParameter(*this, tables, getNameAttr(), getValue().getType(),
                      /*sameElement=*/false);
  if (failed(parameter))
    return failure();
  auto type = cast<RankedTensorType>(parameter->getType());
  if (Type precise = preciseType(type.getElementType());
      precise != getValue().getType().getElementType())
    return emitOpError() << "expected a gradient in " << precise << ", but got "
                         << getValue().getType();
  if (!parameter->getTrainable())
    return emitOpError() << "expected a trainable parameter, but "
                         << getNameAttr() << " is frozen";
  return success();
}
