//===-- CompiledExecutor.cpp - models run by compiled code ----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Target/CompiledExecutor.h"

#include "GivenProgram.h"
#include "ProgramCache.h"

using namespace polymoe;

int64_t polymoe::stepBytes(mlir::ModuleOp module, const Objective &objective,
                           const CompiledExecutorOptions &options, int64_t rows,
                           int64_t length, int64_t microBatches) {
  return ProgramCache(module, objective, options)
      .bytesOf({ProgramUse::Entry::Step, rows, length, false, microBatches});
}

Executor polymoe::makeCompiledExecutor(mlir::ModuleOp module,
                                       ParameterStore &store, ThreadPool &pool,
                                       const Objective &objective,
                                       const CompiledExecutorOptions &options) {
  std::unique_ptr<ProgramSource> source;
  if (options.given)
    source = std::make_unique<GivenProgram>(options, module, store, objective);
  else
    source = std::make_unique<ProgramCache>(module, objective, options);
  Executor made = makeProgramExecutor(std::move(source), store, pool);
  made.variant = mlir::moe::hostVariant(options.compiler.bf16Products);
  return made;
}
