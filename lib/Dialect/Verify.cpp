//===-- Verify.cpp - what verifiers of several families share
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult mlir::moe::verifyDim(Operation *op, StringRef what,
                                   int64_t expected, int64_t actual) {
  if (expected == actual || ShapedType::isDynamic(expected) ||
      ShapedType::isDynamic(actual))
    return success();
  return op->emitOpError() << "expected " << what << " of " << expected
                           << ", but got " << actual;
}

LogicalResult mlir::moe::verifyLeading(Operation *op, Value expected,
                                       Value actual) {
  for (int i : {0, 1})
    if (failed(verifyDim(op, i == 0 ? "a batch" : "a row length",
                         typeOf(expected).getDimSize(i),
                         typeOf(actual).getDimSize(i))))
      return failure();
  return success();
}

LogicalResult mlir::moe::verifySameType(Operation *op, StringRef what,
                                        Value expected, Value actual) {
  if (expected.getType() == actual.getType())
    return success();
  return op->emitOpError() << "expected " << what << " of type "
                           << expected.getType() << ", but got "
                           << actual.getType();
}

LogicalResult mlir::moe::verifySameElement(Operation *op, Value expected,
                                           Value actual) {
  if (typeOf(expected).getElementType() == typeOf(actual).getElementType())
    return success();
  return op->emitOpError() << "expected element type "
                           << typeOf(expected).getElementType() << ", but got "
                           << typeOf(actual).getElementType();
}

LogicalResult mlir::moe::verifyShape(Operation *op, StringRef what, Value value,
                                     ArrayRef<int64_t> expected) {
  ArrayRef<int64_t> actual = typeOf(value).getShape();
  bool same = actual.size() == expected.size();
  for (auto [e, a] : llvm::zip(expected, actual))
    same &= e == a || ShapedType::isDynamic(e) || ShapedType::isDynamic(a);
  if (same)
    return success();
  auto shape = [&](ArrayRef<int64_t> dims) {
    return RankedTensorType::get(dims, typeOf(value).getElementType());
  };
  return op->emitOpError() << "expected " << what << " of type "
                           << shape(expected) << ", but got " << typeOf(value);
}

LogicalResult mlir::moe::verifyMultiple(Operation *op, int64_t factor,
                                        int64_t width) {
  if (factor > 0 && width % factor == 0)
    return success();
  return op->emitOpError() << "expected a width that is a multiple of "
                           << factor << ", but got " << width;
}

FailureOr<int64_t> mlir::moe::verifyHeads(Operation *op, int64_t queryWidth,
                                          int64_t heads, int64_t kvHeads) {
  if (heads <= 0 || kvHeads <= 0 || heads % kvHeads != 0)
    return op->emitOpError()
           << "expected heads to be a multiple of kv_heads, but got " << heads
           << " and " << kvHeads;
  if (queryWidth % heads != 0)
    return op->emitOpError() << "expected a query width that is a multiple of "
                             << heads << " heads, but got " << queryWidth;
  return queryWidth / heads * kvHeads;
}

LogicalResult mlir::moe::verifyWeights(Operation *op, ValueRange weights,
                                       ArrayRef<SmallVector<int64_t>> shapes,
                                       int64_t experts, Type element) {
  if (weights.size() != shapes.size() * experts)
    return op->emitOpError()
           << "expected " << shapes.size() * experts << " weights ("
           << shapes.size() << " for each expert), but got " << weights.size();
  for (auto [i, weight] : llvm::enumerate(weights))
    if (failed(verifyType(op, "a weight", weight, shapes[i % shapes.size()],
                          element)))
      return failure();
  return success();
}

LogicalResult mlir::moe::verifyType(Operation *op, StringRef what, Value value,
                                    ArrayRef<int64_t> shape, Type element) {
  auto expected = RankedTensorType::get(shape, element);
  if (value.getType() == expected)
    return success();
  return op->emitOpError() << "expected " << what << " of type " << expected
                           << ", but got " << value.getType();
}

bool mlir::moe::haveBiases(ValueRange weights) {
  return weights.size() > 1 && typeOf(weights[1]).getRank() == 1;
}

int64_t mlir::moe::numTokens(Value value) {
  RankedTensorType type = typeOf(value);
  if (type.isDynamicDim(0) || type.isDynamicDim(1))
    return ShapedType::kDynamic;
  return type.getDimSize(0) * type.getDimSize(1);
}

LogicalResult mlir::moe::verifyRoutes(Operation *op, Value routes,
                                      Value tokens) {
  if (!routes)
    return success();
  return verifyDim(op, "routed tokens", numTokens(tokens),
                   cast<RoutesType>(routes.getType()).getTokens());
}

LogicalResult mlir::moe::verifyLogits(Operation *op, Value logits,
                                      TypedValue<RoutesType> routes) {
  if (failed(verifyDim(op, "logits for each expert",
                       routes.getType().getExperts(), lastDim(logits))))
    return failure();
  return verifyRoutes(op, routes, logits);
}

int64_t mlir::moe::numRows(Value routes, Value tokens) {
  return routes ? cast<RoutesType>(routes.getType()).getRows()
                : numTokens(tokens);
}

int64_t mlir::moe::numExperts(Value routes) {
  return routes ? cast<RoutesType>(routes.getType()).getExperts() : 1;
}
