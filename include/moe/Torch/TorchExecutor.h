//===-- TorchExecutor.h - models run by LibTorch ----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// This executor interprets a model-level module with ATen and PyTorch's
// autograd. It shares no kernel and no derivative with the compiler, so tests
// compare compiled results with its results.
//
// It is a shared library, which moe-run opens only when a user asks for it, so
// that nobody else waits for LibTorch or needs it installed.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TORCH_TORCHEXECUTOR_H
#define MOE_TORCH_TORCHEXECUTOR_H

#include "moe/Runtime/HostTrainee.h"
#include "moe/Runtime/Objective.h"
#include "moe/Runtime/Parameters.h"

#include "mlir/IR/BuiltinOps.h"

namespace polymoe {

/// `module` is at the model level: `@forward` with what it calls. Module, store
/// and pool must outlive the executor, which reads the store's memory in place.
/// `threads` = 0 leaves PyTorch's choice. Its generator has no cache: every
/// call runs the whole prefix, which is what a reference should do. Throws
/// Error.
Executor makeTorchExecutor(mlir::ModuleOp module, ParameterStore &store,
                           ThreadPool &pool, const Objective &objective,
                           int threads = 0);

/// The names of the shared library and of the function that it exports.
#ifdef __APPLE__
inline constexpr const char *torchLibrary = "libMoETorch.dylib";
#else
inline constexpr const char *torchLibrary = "libMoETorch.so";
#endif
inline constexpr const char *torchEntry = "moeMakeTorchExecutor";
using TorchEntry = void (*)(mlir::Operation *module, ParameterStore *store,
                            ThreadPool *pool, const Objective *objective,
                            int threads, Executor *made);

} // namespace polymoe

#endif // MOE_TORCH_TORCHEXECUTOR_H
