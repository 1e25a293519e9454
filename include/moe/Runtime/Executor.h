//===-- Executor.h - what runs a model --------------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The drivers (train, eval, score, generate) know an executor by this
// interface only. Two implement it: compiled code, and LibTorch as the second
// opinion. Both read and write the same ParameterStore, and the drivers own
// everything else: data, optimiser, schedules, checkpoints.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_EXECUTOR_H
#define MOE_RUNTIME_EXECUTOR_H

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace polymoe {

/// Rows of packed text. Every vector is [rows, length], row-major.
struct Batch {
  int64_t rows = 0;
  int64_t length = 0;
  std::vector<int32_t> tokens;
  /// The token that follows, or -1 where the next-token loss is not taken (the
  /// last position of each row).
  std::vector<int32_t> labels;
  /// Index into the data's list of languages.
  std::vector<int32_t> languages;
  /// 1 where the token's language is of round 0 (known to the base).
  std::vector<int32_t> old;
  /// Position in the document or row, for rotary embedding.
  std::vector<int32_t> positions;
  /// Tokens attend only to tokens of the same segment of their row.
  std::vector<int32_t> segments;
};

/// What sums over a micro-batch are multiplied by, so that an optimiser step
/// is normalised by its own counts however it is cut into micro-batches.
/// A count of zero gives a weight of zero.
struct LossWeights {
  double token = 0;      ///< 1 / labels taken in the whole optimiser step
  double oldToken = 0;   ///< 1 / old tokens in the whole optimiser step
  double microBatch = 1; ///< 1 / micro-batches in the optimiser step
  double position = 0;   ///< 1 / tokens in the optimiser step, labels or not
};

/// Named scalars: "loss" (what is differentiated), "next_token", "balance",
/// "language_prior", "classifier", each already weighted by LossWeights,
/// without the loss's coefficient.
using Losses = std::map<std::string, double>;

class Executor {
public:
  virtual ~Executor() = default;

  /// Begins an optimiser step of so many micro-batches: gradients are zero.
  /// Those of a step of one micro-batch may lie in memory that the next call
  /// of this executor overwrites.
  virtual void beginStep(int64_t microBatches) = 0;

  /// Forward and backward of the training objective; gradients of trainable
  /// parameters are added to those in the parameter store.
  virtual Losses accumulateGradients(const Batch &batch,
                                     const LossWeights &weights) = 0;

  /// Forward only. `logprobs` is [rows, length]: log-probability of labels
  /// (0 where the label is -1). `logits`, [rows, length, vocabulary], may be
  /// empty.
  virtual void score(const Batch &batch, std::span<float> logprobs,
                     std::span<float> logits) = 0;

  /// To be called after trainable parameters changed.
  virtual void parametersChanged() = 0;

  /// Starts generation of `rows` sequences of at most `capacity` tokens each.
  virtual void beginSequences(int64_t rows, int64_t capacity) = 0;

  /// Feeds `count` further tokens of every sequence (`tokens` is [rows,
  /// count]) and returns the logits after the last one, [rows, vocabulary].
  virtual void extendSequences(std::span<const int32_t> tokens, int64_t count,
                               std::span<float> logits) = 0;
};

} // namespace polymoe

#endif // MOE_RUNTIME_EXECUTOR_H
