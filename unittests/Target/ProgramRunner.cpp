//===-- ProgramRunner.cpp - a compiled program and its memory -------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ProgramRunner.h"

#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"

#include <algorithm>
#include <stdexcept>

using namespace polymoe;
using namespace polymoe::test;

static std::unique_ptr<mlir::moe::CompiledProgram>
compile(const std::string &ir, const mlir::moe::CompilerOptions &options,
        llvm::function_ref<void(mlir::ModuleOp)> change) {
  mlir::DialectRegistry registry;
  mlir::moe::registerCompilerDialects(registry);
  mlir::MLIRContext context(registry);
  auto module = mlir::parseSourceString<mlir::ModuleOp>(ir, &context);
  if (!module)
    throw std::runtime_error("the IR does not parse");
  mlir::PassManager pm(&context);
  mlir::moe::buildCpuPipeline(pm, options);
  if (failed(pm.run(*module)))
    throw std::runtime_error("the IR does not compile");
  change(*module);
  auto compiled = mlir::moe::CompiledProgram::load(*module, options);
  if (failed(compiled))
    throw std::runtime_error("the IR does not compile");
  return std::move(*compiled);
}

ProgramRunner::ProgramRunner(const std::string &ir,
                             const mlir::moe::CompilerOptions &options,
                             int threads,
                             llvm::function_ref<void(mlir::ModuleOp)> change)
    : compiled(compile(ir, options, change)), pool(threads) {
  storage.reserve(bindings().size());
  for (const Binding &binding : bindings())
    storage.emplace_back(elements(binding) * sizeOf(binding.dtype));
}

int64_t ProgramRunner::elements(const Binding &binding) {
  int64_t count = 1;
  for (int64_t extent : binding.shape)
    count *= extent;
  return count;
}

void ProgramRunner::call(const EntryPoint &called, Profile *profile) {
  std::vector<void *> arguments;
  for (const Binding &binding : called.bindings) {
    auto known = std::find_if(
        bindings().begin(), bindings().end(), [&](const Binding &other) {
          return other.kind == binding.kind && other.name == binding.name;
        });
    arguments.push_back(data(known - bindings().begin()));
  }
  MoeContext context{&pool, profile};
  called.function(&context, arguments.data());
}

void ProgramRunner::prepare() {
  const std::vector<EntryPoint> &entries = compiled->program().entries;
  for (size_t i = 1; i < entries.size(); ++i)
    call(entries[i], nullptr);
}
