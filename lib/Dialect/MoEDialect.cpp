//===-- MoEDialect.cpp - the moe dialect, its types and attributes
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace mlir::moe;

#include "moe/Dialect/MoEDialect.cpp.inc"
#include "moe/Dialect/MoEEnums.cpp.inc"
#include "moe/Dialect/MoEInterfaces.cpp.inc"
#define GET_TYPEDEF_CLASSES
#include "moe/Dialect/MoETypes.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "moe/Dialect/MoEAttrs.cpp.inc"
#define GET_OP_CLASSES
#include "moe/Dialect/MoEOps.cpp.inc"

void MoEDialect::initialize() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "moe/Dialect/MoETypes.cpp.inc"
      >();
  addAttributes<
#define GET_ATTRDEF_LIST
#include "moe/Dialect/MoEAttrs.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "moe/Dialect/MoEOps.cpp.inc"
      >();
}

Type mlir::moe::preciseType(Type elementType) {
  if (elementType.isF64())
    return elementType;
  return Float32Type::get(elementType.getContext());
}

RankedTensorType mlir::moe::parameterGradientType(RankedTensorType type) {
  return RankedTensorType::get(type.getShape(),
                               preciseType(type.getElementType()));
}

Type RoutesType::parse(AsmParser &parser) {
  SmallVector<int64_t, 2> sizes;
  int64_t topK = 0;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() ||
      parser.parseDimensionList(sizes, /*allowDynamic=*/true,
                                /*withTrailingX=*/false) ||
      parser.parseComma() || parser.parseInteger(topK) || parser.parseGreater())
    return {};
  if (sizes.size() != 2 || ShapedType::isDynamic(sizes[1])) {
    parser.emitError(loc) << "expected routes of tokens x experts, of which "
                             "only the tokens may be unknown";
    return {};
  }
  return parser.getChecked<RoutesType>(loc, parser.getContext(), sizes[0],
                                       sizes[1], topK);
}

void RoutesType::print(AsmPrinter &printer) const {
  printer << '<';
  printer.printDimensionList({getTokens(), getExperts()});
  printer << ", " << getTopK() << '>';
}

LogicalResult RoutesType::verify(function_ref<InFlightDiagnostic()> emitError,
                                 int64_t tokens, int64_t experts,
                                 int64_t topK) {
  if (tokens < 1 && !ShapedType::isDynamic(tokens))
    return emitError() << "expected routes of at least one token, but got "
                       << tokens;
  if (topK < 1 || topK > experts)
    return emitError() << "expected between 1 and " << experts
                       << " experts a token, but got " << topK;
  return success();
}

int64_t RoutesType::getRows() const {
  return hasStaticShape() ? getTokens() * getTopK() : ShapedType::kDynamic;
}

LogicalResult
CheckpointAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                       StringAttr file, StringAttr key,
                       DenseI64ArrayAttr rows) {
  if (key.empty())
    return emitError() << "expected a tensor's key, but got an empty string";
  if (!rows)
    return success();
  ArrayRef<int64_t> r = rows.asArrayRef();
  if (r.size() != 3 || r[0] < 0 || r[1] <= 0 || r[2] < r[1] ||
      r[0] + r[1] > r[2])
    return emitError() << "expected rows = [offset, block, stride] with 0 <= "
                          "offset, 0 < block, offset + block <= stride";
  return success();
}
