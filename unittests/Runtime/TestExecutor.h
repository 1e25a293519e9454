//===-- TestExecutor.h - models small enough to check by hand ---*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_RUNTIME_TESTEXECUTOR_H
#define MOE_UNITTESTS_RUNTIME_TESTEXECUTOR_H

#include "moe/Runtime/Executor.h"
#include "moe/Runtime/Parameters.h"

#include <algorithm>
#include <cmath>

namespace polymoe {

/// One number per token, in BF16, and one for all, in F32; the loss of a label
/// is half the square of what their sum is away from label / 100.
class QuadraticModel : public Executor {
public:
  explicit QuadraticModel(ParameterStore &store) : store(store) {}

  static std::vector<ParameterSpec> parameters(int64_t vocabulary) {
    return {{"table",
             DType::BF16,
             {vocabulary},
             true,
             InitOrigin{InitOrigin::Kind::Normal, 0.5, 1}},
            {"bias", DType::F32, {1}, true, InitOrigin{}},
            {"frozen", DType::F32, {3}, false, InitOrigin{}}};
  }

  void beginStep(int64_t) override { store.zeroGradients(); }
  Losses accumulateGradients(const Batch &batch,
                             const LossWeights &weights) override {
    ++microBatches;
    if (onMicroBatch)
      onMicroBatch();
    double loss = 0;
    auto *tableGradient = static_cast<float *>(store.gradient("table"));
    auto *biasGradient = static_cast<float *>(store.gradient("bias"));
    for (size_t i = 0; i < batch.tokens.size(); ++i) {
      if (batch.labels[i] < 0)
        continue;
      const double off = residual(batch.tokens[i], batch.labels[i]);
      loss += 0.5 * weights.token * off * off;
      tableGradient[batch.tokens[i]] += float(weights.token * off);
      biasGradient[0] += float(weights.token * off);
    }
    if (poison)
      loss = NAN;
    return {{"loss", loss}, {"next_token", loss}};
  }

  void score(const Batch &batch, std::span<float> logprobs,
             std::span<float>) override {
    for (size_t i = 0; i < batch.labels.size(); ++i)
      logprobs[i] =
          batch.labels[i] < 0
              ? 0.0f
              : -float(std::pow(residual(batch.tokens[i], batch.labels[i]), 2));
  }
  void parametersChanged() override { ++changes; }
  void beginSequences(int64_t, int64_t) override {}
  void extendSequences(std::span<const int32_t>, int64_t,
                       std::span<float>) override {}

  int64_t microBatches = 0, changes = 0;
  bool poison = false;
  std::function<void()> onMicroBatch;

private:
  double residual(int32_t token, int32_t label) const {
    float value;
    convert(DType::BF16,
            static_cast<const uint16_t *>(store.value("table")) + token,
            DType::F32, &value, 1);
    return double(value) + *static_cast<const float *>(store.value("bias")) -
           label / 100.0;
  }
  ParameterStore &store;
};

/// Predicts token (sum of all so far, times position) mod V most, so every
/// token before counts.
class SumModel : public Executor {
public:
  explicit SumModel(int64_t vocabulary) : vocabulary(vocabulary) {}

  void beginStep(int64_t) override {}
  Losses accumulateGradients(const Batch &, const LossWeights &) override {
    return {};
  }
  /// Every token has probability 1/4.
  void score(const Batch &batch, std::span<float> logprobs,
             std::span<float> logits) override {
    for (size_t i = 0; i < logprobs.size(); ++i)
      logprobs[i] = batch.labels[i] < 0 ? 0 : std::log(0.25f);
    if (logits.empty())
      return;
    for (int64_t row = 0; row < batch.rows; ++row) {
      sum = position = 0;
      for (int64_t i = row * batch.length; i < (row + 1) * batch.length; ++i)
        feed(batch.tokens[size_t(i)],
             logits.subspan(size_t(i * vocabulary), size_t(vocabulary)));
    }
  }
  void parametersChanged() override {}
  void beginSequences(int64_t, int64_t newCapacity) override {
    sum = position = 0;
    capacity = newCapacity;
  }
  void extendSequences(std::span<const int32_t> tokens, int64_t count,
                       std::span<float> logits) override {
    for (int64_t i = 0; i < count; ++i)
      feed(tokens[size_t(i)], logits);
    overran |= position > capacity;
  }

  int64_t capacity = 0;
  bool overran = false;

private:
  void feed(int32_t token, std::span<float> logits) {
    sum += token;
    ++position;
    const int64_t best = sum * position % vocabulary;
    for (int64_t v = 0; v < vocabulary; ++v)
      logits[size_t(v)] =
          -0.5f *
          float(std::min(std::abs(v - best), vocabulary - std::abs(v - best)));
  }
  int64_t vocabulary, sum = 0, position = 0;
};

} // namespace polymoe

#endif // MOE_UNITTESTS_RUNTIME_TESTEXECUTOR_H
