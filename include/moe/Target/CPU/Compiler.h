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

/// What a step does with the gradients of parameters. Those that are written
/// are of one run alone and lie in its arena, in the place of activations that
/// the backward needs no more; those that are added outlive it.
enum class Gradients { Added, Written };

/// The best that the host can do. Asks the kernel for tiles where there are
/// some: code with tiles runs in processes only that have asked.
Bf16Products hostBf16Products();

struct CompilerOptions {
  /// Bytes of a vector register, 0 for the host's widest.
  int64_t vectorBytes = 0;
  Bf16Products bf16Products = hostBf16Products();
  /// Int8 is for programs without gradients: others fail to compile.
  FrozenWeights frozenWeights = FrozenWeights::AsIs;
  /// LLVM's optimisation level, 0 to 3.
  unsigned optimizationLevel = 2;
  PackedOnce packedOnce = PackedOnce::All;
  Gradients gradients = Gradients::Added;
};

/// What a compiler needs to translate modules; for `MLIRContext`'s registry.
void registerCompilerDialects(DialectRegistry &registry);

/// The instruction set that the host's code is made for, which the last bits of
/// results depend on: "avx512-amx", "avx512-bf16", "avx512", "avx2" or
/// "generic".
std::string hostVariant(Bf16Products products = hostBf16Products());

/// From the fused level to the LLVM dialect.
void buildCpuPipeline(OpPassManager &pm, const CompilerOptions &options);

/// Registers `--moe-cpu-pipeline`.
void registerTargetPipelines();

/// Machine code in memory, and what it says of itself.
class CompiledProgram {
public:
  ~CompiledProgram();

  /// Compiles `module`, which is at the fused level (and is consumed: it ends
  /// in the LLVM dialect). Errors are emitted as diagnostics of the module.
  static FailureOr<std::unique_ptr<CompiledProgram>>
  compile(ModuleOp module, const CompilerOptions &options = {});

  /// The same for what buildCpuPipeline left.
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
