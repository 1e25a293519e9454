//===-- TestExecutor.h - models small enough to check by hand ---*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_RUNTIME_TESTEXECUTOR_H
#define MOE_UNITTESTS_RUNTIME_TESTEXECUTOR_H

#include "moe/Runtime/HostTrainee.h"
#include "moe/Runtime/Parameters.h"

#include <algorithm>
#include <cmath>

namespace polymoe {

/// One number per token, in BF16, and one for all, in F32; the loss of a label
/// is half the square of what their sum is away from label / 100.
class QuadraticModel : public HostTrainee {
public:
  using HostTrainee::HostTrainee;

  static std::vector<ParameterSpec> parameters(int64_t vocabulary) {
    return {{"table",
             DType::BF16,
             {vocabulary},
             true,
             InitOrigin{InitOrigin::Kind::Normal, 0.5, 1}},
            {"bias", DType::F32, {1}, true, InitOrigin{}},
            {"frozen", DType::F32, {3}, false, InitOrigin{}}};
  }

  Losses accumulateGradients(const Batch &batch, const LossWeights &weights,
                             MicroBatch which) override {
    if (which.index == 0)
      store.zeroGradients();
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

  int64_t microBatches = 0;
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
};

/// The same in memory of its own, as on a device: the store that a checkpoint
/// is made of sees it when it is copied there.
class DeviceModel : public Trainee {
public:
  DeviceModel(ParameterStore &host, ThreadPool &pool)
      : host(host), own(host.specs(), ".", pool), context{&pool},
        model(own, context) {}

  StepResult step(std::span<const Batch> microBatches,
                  const LossWeights &weights, const Update &update) override {
    return model.step(microBatches, weights, update);
  }
  void copyToStore() override { copy(own, host); }
  void copyFromStore() override { copy(host, own); }

private:
  static void copy(const ParameterStore &from, ParameterStore &to) {
    for (const TrainableParameter &source : from.trainables()) {
      const TrainableParameter &target =
          *to.findTrainable(from.specs()[source.index].name);
      std::vector<float> master(size_t(source.elements));
      source.readMaster(0, source.elements, master.data());
      target.writeMaster(0, source.elements, master.data());
      std::copy_n(source.m, source.elements, target.m);
      std::copy_n(source.v, source.elements, target.v);
    }
    to.refreshComputeCopies();
  }

  ParameterStore &host;
  ParameterStore own;
  MoeContext context;
  QuadraticModel model;
};

/// Predicts token (sum of all so far, times position) mod V most, so every
/// token before counts.
class SumModel : public Scorer, public Generator {
public:
  explicit SumModel(int64_t vocabulary) : vocabulary(vocabulary) {}

  /// Every token has probability 1/4.
  void score(const Batch &batch, std::span<float> logprobs,
             std::span<float> logits) override {
    for (size_t i = 0; i < logprobs.size(); ++i)
      logprobs[i] = batch.labels[i] < 0 ? 0 : std::log(0.25f);
    if (logits.empty())
      return;
    for (int64_t row = 0; row < batch.rows; ++row) {
      Sequence sequence;
      for (int64_t i = row * batch.length; i < (row + 1) * batch.length; ++i)
        feed(sequence, batch.tokens[size_t(i)],
             logits.subspan(size_t(i * vocabulary), size_t(vocabulary)));
    }
  }
  void beginSequences(int64_t count, int64_t newCapacity) override {
    sequences.assign(size_t(count), {});
    capacity = newCapacity;
    steps = 0;
  }
  void clearSequence(int64_t sequence) override {
    sequences[size_t(sequence)] = {};
  }
  /// Takes three tokens where there are as many, else one.
  void extendSequences(std::span<Continuation> continuations,
                       std::span<float> logits) override {
    ++steps;
    for (size_t i = 0; i < continuations.size(); ++i) {
      Continuation &continuation = continuations[i];
      Sequence &sequence = sequences[size_t(continuation.sequence)];
      continuation.taken = continuation.tokens.size() >= 3 ? 3 : 1;
      for (int32_t token :
           continuation.tokens.first(size_t(continuation.taken)))
        feed(sequence, token,
             logits.subspan(i * size_t(vocabulary), size_t(vocabulary)));
      overran |= sequence.position > capacity;
    }
  }

  int64_t capacity = 0, steps = 0;
  bool overran = false;

private:
  struct Sequence {
    int64_t sum = 0, position = 0;
  };
  void feed(Sequence &sequence, int32_t token, std::span<float> logits) const {
    sequence.sum += token;
    ++sequence.position;
    const int64_t best = sequence.sum * sequence.position % vocabulary;
    for (int64_t v = 0; v < vocabulary; ++v)
      logits[size_t(v)] =
          -0.5f *
          float(std::min(std::abs(v - best), vocabulary - std::abs(v - best)));
  }
  int64_t vocabulary;
  std::vector<Sequence> sequences;
};

} // namespace polymoe

#endif // MOE_UNITTESTS_RUNTIME_TESTEXECUTOR_H
