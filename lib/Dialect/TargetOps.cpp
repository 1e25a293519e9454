//===-- TargetOps.cpp - programs of kernel launches -----------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"

#include "mlir/Interfaces/FunctionImplementation.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult PointerTableOp::verify() {
  for (Value buffer : getBuffers())
    if (!cast<MemRefType>(buffer.getType()).hasStaticShape())
      return emitOpError() << "expected buffers of static shape, but got "
                           << buffer.getType();
  return success();
}

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

ParseResult KernelOp::parse(OpAsmParser &parser, OperationState &result) {
  StringAttr name;
  SmallVector<OpAsmParser::Argument> arguments;
  Region *body = result.addRegion();
  if (parser.parseSymbolName(name, getSymNameAttrName(result.name),
                             result.attributes) ||
      parser.parseArgumentList(arguments, OpAsmParser::Delimiter::Paren,
                               /*allowType=*/true) ||
      parser.parseOptionalAttrDictWithKeyword(result.attributes) ||
      parser.parseRegion(*body, arguments))
    return failure();
  return success();
}

void KernelOp::print(OpAsmPrinter &printer) {
  printer << ' ';
  printer.printSymbolName(getSymName());
  printer << '(';
  llvm::interleaveComma(
      getBody().getArguments(), printer,
      [&](BlockArgument argument) { printer.printRegionArgument(argument); });
  printer << ')';
  printer.printOptionalAttrDictWithKeyword((*this)->getAttrs(),
                                           {getSymNameAttrName()});
  printer << ' ';
  printer.printRegion(getBody(), /*printEntryBlockArgs=*/false);
}

/// What a launch may pass to a kernel.
static bool isLaunchArgument(Type type) {
  if (auto buffer = dyn_cast<MemRefType>(type))
    return buffer.hasStaticShape() && buffer.getLayout().isIdentity() &&
           !buffer.getMemorySpace();
  return isa<TableType, IndexType>(type);
}

LogicalResult KernelOp::verifyRegions() {
  auto arguments = getBody().getArguments();
  if (arguments.empty() || !arguments[0].getType().isIndex())
    return emitOpError() << "expected the number of the work item, an index, "
                            "as the first argument";
  for (BlockArgument argument : getLaunchArguments())
    if (!isLaunchArgument(argument.getType()))
      return emitOpError()
             << "expected a memref of static shape, a table or an index, but "
                "got "
             << argument.getType();
  return success();
}

LogicalResult DispatchOp::verifySymbolUses(SymbolTableCollection &tables) {
  auto kernel =
      tables.lookupNearestSymbolFrom<KernelOp>(*this, getKernelAttr());
  if (!kernel)
    return emitOpError() << "expected a kernel, but there is none called "
                         << getKernelAttr();
  SmallVector<Type> taken = llvm::map_to_vector(
      kernel.getLaunchArguments(),
      [](BlockArgument argument) { return argument.getType(); });
  if (getArguments().getTypes() != taken) {
    InFlightDiagnostic diag =
        emitOpError() << "expected what the kernel takes, (" << taken
                      << "), but got (" << getArguments().getTypes() << ")";
    diag.attachNote(kernel.getLoc()) << "the kernel is here";
    return diag;
  }
  if (getDerives() && (taken.empty() || !llvm::all_of(taken, [](Type type) {
                         return isa<MemRefType>(type);
                       })))
    return emitOpError() << "expected memrefs to derive from and into, but got "
                            "("
                         << taken << ")";
  return success();
}
