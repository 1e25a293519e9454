//===-- TargetOps.cpp - verifiers of programs of kernel launches
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult PointerTableOp::verify() {
  for (Value buffer : getBuffers())
    if (!cast<MemRefType>(buffer.getType()).hasStaticShape())
      return emitOpError() << "expected buffers of static shape, but got "
                           << buffer.getType();
  return success();
}

LogicalResult DispatchOp::verifySymbolUses(SymbolTableCollection &tables) {
  auto kernel = tables.lookupNearestSymbolFrom<FunctionOpInterface>(
      *this, getKernelAttr());
  if (!kernel || !kernel->hasAttr(MoEDialect::KernelAttrHelper::getNameStr()))
    return emitOpError() << "expected a kernel, but there is none called "
                         << getKernelAttr();
  ArrayRef<Type> inputs = kernel.getArgumentTypes();
  if (inputs.size() != 2 || !inputs[0].isInteger(64) ||
      !isa<LLVM::LLVMPointerType>(inputs[1])) {
    InFlightDiagnostic diag =
        emitOpError() << "expected a kernel that takes a tile and a pointer, "
                         "(i64, !llvm.ptr), but got ("
                      << inputs << ")";
    diag.attachNote(kernel.getLoc()) << "the kernel is here";
    return diag;
  }
  if (getDerives() &&
      (getArguments().empty() ||
       !llvm::all_of(getArguments().getTypes(), llvm::IsaPred<MemRefType>)))
    return emitOpError() << "expected memrefs to derive from and into, but got "
                            "("
                         << getArguments().getTypes() << ")";
  for (Value argument : getArguments()) {
    auto memref = dyn_cast<MemRefType>(argument.getType());
    if (memref && memref.hasStaticShape())
      continue;
    if (isa<TableType>(argument.getType()) || argument.getType().isInteger(64))
      continue;
    return emitOpError()
           << "expected a memref of static shape, a table or an i64, but got "
           << argument.getType();
  }
  return success();
}
