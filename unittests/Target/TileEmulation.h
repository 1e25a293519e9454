//===-- TileEmulation.h - AMX for machines without it -----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_TARGET_TILEEMULATION_H
#define MOE_UNITTESTS_TARGET_TILEEMULATION_H

#include "mlir/IR/BuiltinOps.h"

namespace polymoe::test {

/// Makes calls of plain loops of AMX's instructions in `module`, which
/// buildCpuPipeline left. It runs in this process only then.
void emulateTiles(mlir::ModuleOp module);

} // namespace polymoe::test

#endif // MOE_UNITTESTS_TARGET_TILEEMULATION_H
