//===-- Executors.cpp - what runs a model, by name ------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Model.h"

#include "moe/Runtime/Error.h"
#include "moe/Torch/TorchExecutor.h"

#include <dlfcn.h>

namespace polymoe {

/// LibTorch is opened for those who ask for it only. The library stays open:
/// code of executors comes from it.
static Executor makeTorch(const MachineOptions &options, mlir::ModuleOp module,
                          ParameterStore &store, ThreadPool &pool,
                          const Objective &objective) {
  void *library = dlopen(torchLibrary, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    fail("--executor=torch: expected a build with LibTorch, but ", dlerror());
  auto make = reinterpret_cast<TorchEntry>(dlsym(library, torchEntry));
  if (!make)
    fail("--executor=torch: ", dlerror());
  Executor made;
  make(module, &store, &pool, &objective, options.threads, &made);
  return made;
}

CompiledExecutorOptions compiledOptions(const MachineOptions &options) {
  CompiledExecutorOptions compiled;
  compiled.memoryBudget = options.memoryBudget;
  compiled.compiler.bf16Products = options.bf16Products;
  compiled.compiler.frozenWeights = options.frozenWeights;
  return compiled;
}

Executor makeExecutor(const MachineOptions &options, Model &file,
                      mlir::ModuleOp module, ParameterStore &store,
                      ThreadPool &pool, const Objective &objective) {
  const bool asIs = options.frozenWeights == mlir::moe::FrozenWeights::AsIs;
  if (!asIs && (options.executor != "compiled" || file.program()))
    fail("--frozen-weights: expected a module of the model level and "
         "--executor=compiled to choose for, but ",
         file.program() ? file.file().string() + " is compiled"
                        : "got --executor=" + options.executor);
  if (options.routes == "group" && file.program())
    fail("--routes=group: expected a module of the model level to change the "
         "routes of, but ",
         file.file(), " is compiled");
  if (options.executor == "torch")
    return makeTorch(options, module, store, pool, objective);
  CompiledExecutorOptions compiled = compiledOptions(options);
  // Validation must not hold a second copy of what trains.
  if (!store.trainables().empty())
    compiled.compiler.packedOnce = mlir::moe::PackedOnce::Frozen;
  compiled.given = file.program();
  compiled.givenFile = file.file().string();
  return makeCompiledExecutor(module, store, pool, objective, compiled);
}

} // namespace polymoe
