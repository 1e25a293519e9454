//===-- HostTrainee.cpp - training in the host's memory -------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/HostTrainee.h"
#include "moe/Runtime/Parameters.h"

using namespace polymoe;

StepResult HostTrainee::step(std::span<const Batch> microBatches,
                             const LossWeights &weights, const Update &update) {
  StepResult result;
  MicroBatch which{0, int64_t(microBatches.size())};
  for (; which.index < which.count; ++which.index) {
    for (const auto &[name, value] :
         accumulateGradients(microBatches[size_t(which.index)], weights, which))
      result.losses[name] += value;
    if (onMicroBatch)
      onMicroBatch(which.index + 1);
  }
  result.gradientNorm = gradientNorm(store, context);
  updateByAdamW(store, context, update,
                clipFactor(result.gradientNorm, update.clip));
  store.refreshComputeCopies();
  parametersChanged();
  return result;
}
