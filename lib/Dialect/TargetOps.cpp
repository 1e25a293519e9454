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

LogicalResult DispatchOp::verifySymbolUses(SymbolTableCollection &tables) {
  auto kernel =
      tables.lookupNearestSymbolFrom<FunctionOpInterface>(*this, getKernelAttr());
  if (!kernel || !kernel->hasAttr("moe.kernel"))
    return emitOpError() << "expected a kernel, but there is none called "
                         << getKernelAttr();
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
