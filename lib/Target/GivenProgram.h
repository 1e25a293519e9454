//===-- GivenProgram.h - a program that moe-opt compiled --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_GIVENPROGRAM_H
#define MOE_TARGET_GIVENPROGRAM_H

#include "moe/Runtime/Parameters.h"
#include "moe/Target/CompiledExecutor.h"

namespace polymoe {

/// A program that moe-opt compiled before, for one use. It may not fit the
/// model and the options of this run, so everything that it depends on is
/// checked; each check throws an Error that names the file.
class GivenProgram : public ProgramSource {
public:
  /// Checks that options.given was compiled for this machine, this version of
  /// the ABI and the types of the store's parameters. `model` is the module at
  /// the model level that it was compiled from.
  GivenProgram(const CompiledExecutorOptions &options, mlir::ModuleOp model,
               const ParameterStore &store, const Objective &objective);

  void require(const ProgramUse &use) override;
  const Program &get(const ProgramUse &use) override {
    require(use);
    return code->program();
  }

private:
  void checkTarget(mlir::moe::Bf16Products products) const;
  void checkParameters() const;
  void checkGradients(int64_t microBatches) const;
  void checkObjective() const;

  mlir::ModuleOp module;
  std::string file;
  const ParameterStore &store;
  Objective objective;
  std::unique_ptr<mlir::moe::CompiledProgram> code;
};

} // namespace polymoe

#endif // MOE_TARGET_GIVENPROGRAM_H
