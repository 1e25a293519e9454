//===-- CompiledExecutor.h - models run by compiled code --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_COMPILEDEXECUTOR_H
#define MOE_TARGET_COMPILEDEXECUTOR_H

#include "moe/Runtime/Executor.h"
#include "moe/Runtime/Objective.h"
#include "moe/Target/CPU/Compiler.h"

#include <string>

namespace polymoe {

struct CompiledExecutorOptions {
  mlir::moe::CompilerOptions compiler;
  /// MiB for saved activations, 0 for no limit.
  int64_t memoryBudget = 0;
  /// Rows of logits held at a time in training.
  int64_t chunk = 256;
  /// A module that buildCpuPipeline has lowered, to run in place of compiling
  /// one, and the file to name in errors. The module outlives the executor.
  mlir::ModuleOp given;
  std::string givenFile;
};

/// An executor that compiles a program for each shape when it first meets it,
/// and keeps it. `module` is at the model level. Module, store and pool must
/// outlive the executor, which reads the store's memory in place.
Executor makeCompiledExecutor(mlir::ModuleOp module, ParameterStore &store,
                              ThreadPool &pool, const Objective &objective,
                              const CompiledExecutorOptions &options = {});

/// Bytes of memory that a training step of such micro-batches takes beside the
/// parameters' own: its arena, and weights that are packed once. Plans the
/// program without compiling it. Throws Error.
int64_t stepBytes(mlir::ModuleOp module, const Objective &objective,
                  const CompiledExecutorOptions &options, int64_t rows,
                  int64_t length, int64_t microBatches);

} // namespace polymoe

#endif // MOE_TARGET_COMPILEDEXECUTOR_H
