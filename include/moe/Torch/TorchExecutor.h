//===-- TorchExecutor.h - models run by LibTorch ----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The second opinion: interprets a model-level module with ATen and PyTorch's
// autograd. It shares no kernel and no derivative with the compiler, and every
// compiled result is compared with it.
//
// It lives in a shared library of its own, which moe-run opens only when asked
// for it, so that nobody else waits for LibTorch or needs it installed.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TORCH_TORCHEXECUTOR_H
#define MOE_TORCH_TORCHEXECUTOR_H

#include "moe/Runtime/Executor.h"
#include "moe/Runtime/Objective.h"
#include "moe/Runtime/Parameters.h"

#include "mlir/IR/BuiltinOps.h"

#include <memory>

namespace polymoe {

class TorchExecutor : public Executor {
public:
  /// `module` is at the model level: `@forward` with what it calls. Module and
  /// store must outlive the executor, which reads the store's memory in place.
  /// `threads` = 0 leaves PyTorch's choice. Throws Error.
  TorchExecutor(mlir::ModuleOp module, ParameterStore &store,
                const Objective &objective, int threads = 0);
  ~TorchExecutor() override;

  void beginStep(int64_t microBatches) override;
  Losses accumulateGradients(const Batch &batch,
                             const LossWeights &weights) override;
  void score(const Batch &batch, std::span<float> logprobs,
             std::span<float> logits) override;
  void parametersChanged() override {}

  /// Being the reference it has no cache: every call runs the whole prefix.
  void beginSequences(int64_t rows, int64_t capacity) override;
  void extendSequences(std::span<const int32_t> tokens, int64_t count,
                       std::span<float> logits) override;

private:
  struct Impl;
  std::unique_ptr<Impl> impl;
};

/// The name of the shared library and of its one entry.
#ifdef __APPLE__
inline constexpr const char *torchLibrary = "libMoETorch.dylib";
#else
inline constexpr const char *torchLibrary = "libMoETorch.so";
#endif
inline constexpr const char *torchEntry = "moeMakeTorchExecutor";
using TorchEntry = Executor *(*)(mlir::Operation * module,
                                 ParameterStore *store,
                                 const Objective *objective, int threads);

} // namespace polymoe

#endif // MOE_TORCH_TORCHEXECUTOR_H
