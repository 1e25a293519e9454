//===-- HostTrainee.h - training in the host's memory -----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What every Trainee shares that works on the ParameterStore's own memory: the
// optimiser step around the gradients of its micro-batches.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_HOSTTRAINEE_H
#define MOE_RUNTIME_HOSTTRAINEE_H

#include "moe/Runtime/Executor.h"
#include "moe/Runtime/ThreadPool.h"

namespace polymoe {

/// The index of a micro-batch, and how many its optimiser step has.
struct MicroBatch {
  int64_t index = 0, count = 1;
};

class HostTrainee : public Trainee {
public:
  /// Store and context must outlive it.
  HostTrainee(ParameterStore &store, MoeContext &context)
      : store(store), context(context) {}

  StepResult step(std::span<const Batch> microBatches,
                  const LossWeights &weights, const Update &update) override;
  void copyToStore() override {}
  void copyFromStore() override { parametersChanged(); }

  /// Forward and backward of the training objective. Gradients of trainable
  /// parameters are added to those in the parameter store. At `which.index` 0
  /// the implementation zeroes the gradients first. Those of a step of one
  /// micro-batch may lie in memory that the next call of any part of the
  /// executor overwrites.
  virtual Losses accumulateGradients(const Batch &batch,
                                     const LossWeights &weights,
                                     MicroBatch which = {}) = 0;

protected:
  /// Called after trainable parameters changed.
  virtual void parametersChanged() {}

  ParameterStore &store;
  MoeContext &context;
};

} // namespace polymoe

#endif // MOE_RUNTIME_HOSTTRAINEE_H
