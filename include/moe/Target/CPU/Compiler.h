//===-- Compiler.h - modules to machine code --------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_CPU_COMPILER_H
#define MOE_TARGET_CPU_COMPILER_H

#include "moe/Runtime/Program.h"
#include "moe/Target/CPU/TargetDescription.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/Pass/PassManager.h"

#include <memory>

namespace mlir {
class ExecutionEngine;
} // namespace mlir

namespace mlir::moe {

/// What a step does with the gradients of parameters.
enum class Gradients {
  Added,   ///< adds them to buffers that outlive the step
  Written, ///< writes them into its arena, over activations that are done with
};

/// The fastest kind that the host supports. On a host with AMX, this requests
/// from Linux the permission without which a process may not use AMX.
Bf16Products hostBf16Products();

struct CompilerOptions {
  /// Bytes of a vector register, 0 for the host's widest.
  int64_t vectorBytes = 0;
  Bf16Products bf16Products = hostBf16Products();
  /// With Int8, a program with gradients fails to compile.
  FrozenWeights frozenWeights = FrozenWeights::AsIs;
  /// LLVM's optimisation level, 0 to 3.
  unsigned optimizationLevel = 2;
  PackedOnce packedOnce = PackedOnce::All;
  Gradients gradients = Gradients::Added;
};

/// Registers the dialects and interfaces that compilation needs.
void registerCompilerDialects(DialectRegistry &registry);

/// The instruction set of code that is compiled for the host: "avx512-amx",
/// "avx512-bf16", "avx512", "avx2" or "generic". The last bits of results
/// depend on it.
std::string hostVariant(Bf16Products products = hostBf16Products());

/// Turns a module at the fused level into launches on buffers in one arena:
/// the first part of buildCpuPipeline.
void buildCpuPlanPipeline(OpPassManager &pm, const CompilerOptions &options);
/// Lowers a module from the fused level to the LLVM dialect.
void buildCpuPipeline(OpPassManager &pm, const CompilerOptions &options);

/// Registers `--moe-cpu-pipeline`.
void registerTargetPipelines();

/// Machine code in memory, with its entry points and the costs of its kernels.
class CompiledProgram {
public:
  ~CompiledProgram();

  /// Compiles `module`, which is at the fused level, and leaves it in the LLVM
  /// dialect. Errors are emitted as diagnostics of the module.
  static FailureOr<std::unique_ptr<CompiledProgram>>
  compile(ModuleOp module, const CompilerOptions &options = {});

  /// The same for a module that buildCpuPipeline has lowered already.
  static FailureOr<std::unique_ptr<CompiledProgram>>
  load(ModuleOp module, const CompilerOptions &options = {});

  const polymoe::Program &program() const { return description; }

private:
  CompiledProgram();

  std::unique_ptr<ExecutionEngine> engine;
  polymoe::Program description;
};

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_COMPILER_H
