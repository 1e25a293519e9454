//===-- GivenProgram.h - programs that moe-opt compiled ---------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What must hold for a program that is given compiled, since it is not made for
// what is asked of it now. Every check throws an Error that names the file.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_GIVENPROGRAM_H
#define MOE_TARGET_GIVENPROGRAM_H

#include "moe/Runtime/Objective.h"
#include "moe/Runtime/Parameters.h"
#include "moe/Target/Compiler.h"

#include "mlir/IR/BuiltinOps.h"

namespace polymoe {

/// What a program must be: which entry point, for which batches.
struct ProgramUse {
  const char *entry;
  int64_t rows, length;
  bool logits = false;
};

/// It is for this machine, multiplying bf16 by `products`, and this version of
/// the ABI.
void checkTarget(mlir::ModuleOp module, mlir::moe::Bf16Products products,
                 const std::string &file);

/// Parameters are of the types that it was compiled for.
void checkParameters(const Program &program, const ParameterStore &store,
                     const std::string &file);

/// It is an entry point for such batches.
void checkUse(const EntryPoint &entry, const ProgramUse &use,
              const std::string &file);

/// What a step does with gradients, if it can have so many micro-batches.
mlir::moe::Gradients gradientsOf(const EntryPoint &entry, int64_t microBatches,
                                 const std::string &file);

/// A step trains what trains, towards this objective.
void checkTraining(mlir::ModuleOp module, const EntryPoint &entry,
                   const ParameterStore &store, const Objective &objective,
                   const std::string &file);

} // namespace polymoe

#endif // MOE_TARGET_GIVENPROGRAM_H
