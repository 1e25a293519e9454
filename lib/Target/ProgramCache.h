//===-- ProgramCache.h - programs compiled at first use ---------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_PROGRAMCACHE_H
#define MOE_TARGET_PROGRAMCACHE_H

#include "moe/Target/CompiledExecutor.h"

namespace polymoe {

/// Compiles a program of a module for each use that it meets, and keeps it.
class ProgramCache : public ProgramSource {
public:
  ProgramCache(mlir::ModuleOp module, const Objective &objective,
               const CompiledExecutorOptions &options)
      : module(module), objective(objective), options(options) {}

  const Program &get(const ProgramUse &use) override;

  /// Bytes of the arena and of the packed weights of that program.
  int64_t bytesOf(const ProgramUse &use);

private:
  void buildPipeline(mlir::OpPassManager &pm, const ProgramUse &use) const;
  mlir::moe::CompilerOptions compilerOptions(const ProgramUse &use) const;

  mlir::ModuleOp module;
  Objective objective;
  CompiledExecutorOptions options;
  std::map<ProgramUse, std::unique_ptr<mlir::moe::CompiledProgram>> programs;
};

using MakeCode = llvm::function_ref<
    llvm::FailureOr<std::unique_ptr<mlir::moe::CompiledProgram>>()>;
/// Returns the result of `make`. Throws an Error with `what` and the compiler's
/// diagnostics if it fails or has no entry point.
std::unique_ptr<mlir::moe::CompiledProgram>
makeProgram(const std::string &what, mlir::MLIRContext *context, MakeCode make);

} // namespace polymoe

#endif // MOE_TARGET_PROGRAMCACHE_H
