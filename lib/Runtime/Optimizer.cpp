//===-- Optimizer.cpp - AdamW, clipping, schedules ------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Optimizer.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Parameters.h"
#include "moe/Runtime/ThreadPool.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

using namespace polymoe;

// Fixed for ever: the sums of a run depend on it.
static constexpr int64_t chunkSize = 16384;
static_assert(chunkSize % blockSize == 0);

namespace {
struct Chunk {
  const TrainableParameter &parameter;
  int64_t begin, end;
};
} // namespace

static std::vector<Chunk> chunksOf(const ParameterStore &store) {
  std::vector<Chunk> chunks;
  for (const TrainableParameter &parameter : store.trainables())
    for (int64_t begin = 0; begin < parameter.elements; begin += chunkSize)
      chunks.push_back(
          {parameter, begin, std::min(parameter.elements, begin + chunkSize)});
  return chunks;
}

/// Eight interleaved sums, added up pairwise: the same order whatever the
/// width of the machine's vectors.
template <typename T> static double sumOfSquares(const T *values, int64_t n) {
  constexpr int64_t lanes = 8;
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const double value = values[i + lane];
      sums[lane] += value * value;
    }
  for (int64_t lane = 0; i < n; ++i, ++lane)
    sums[lane] += double(values[i]) * double(values[i]);
  for (int64_t half = lanes / 2; half > 0; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane)
      sums[lane] += sums[lane + half];
  return sums[0];
}

double polymoe::gradientNorm(const ParameterStore &store, MoeContext &context) {
  const std::vector<Chunk> chunks = chunksOf(store);
  std::vector<double> partial(chunks.size());
  auto sumOfChunk = [&](int64_t item) {
    const auto &[parameter, begin, end] = chunks[size_t(item)];
    partial[size_t(item)] =
        parameter.masterType == DType::F64
            ? sumOfSquares(static_cast<double *>(parameter.gradient) + begin,
                           end - begin)
            : sumOfSquares(static_cast<float *>(parameter.gradient) + begin,
                           end - begin);
  };
  parallelFor(context, "gradient norm", int64_t(chunks.size()), sumOfChunk);
  return std::sqrt(std::accumulate(partial.begin(), partial.end(), 0.0));
}

namespace {
template <typename T> struct Coefficients {
  T clip, keep, beta1, oneMinusBeta1, beta2, oneMinusBeta2, rate, rootV,
      epsilon;
};
} // namespace

template <typename T>
static void updateElements(T *__restrict p, const T *__restrict g,
                           float *__restrict m, float *__restrict v, int64_t n,
                           const Coefficients<T> &c) {
  for (int64_t i = 0; i < n; ++i) {
    const T gradient = c.clip * g[i];
    const T newM = c.beta1 * T(m[i]) + c.oneMinusBeta1 * gradient;
    const T newV = c.beta2 * T(v[i]) + c.oneMinusBeta2 * (gradient * gradient);
    m[i] = float(newM);
    v[i] = float(newV);
    p[i] =
        p[i] * c.keep - c.rate * newM / (std::sqrt(newV) * c.rootV + c.epsilon);
  }
}

/// The update of F32 elements, block by block: what is kept in another form
/// than plain F32 is made so for a block.
static void updateBlocks(const TrainableParameter &s, int64_t begin,
                         int64_t end, const Coefficients<float> &c) {
  float pBlock[blockSize], mBlock[blockSize], vBlock[blockSize];
  const bool isSplit = s.split.high, isBlockwise = s.m8.codes;
  for (int64_t at = begin; at < end; at += blockSize) {
    const int64_t n = std::min(blockSize, end - at);
    float *p = isSplit ? pBlock : static_cast<float *>(s.master) + at;
    float *m = isBlockwise ? mBlock : s.m + at;
    float *v = isBlockwise ? vBlock : s.v + at;
    if (isSplit)
      join(s.split, at, n, p);
    if (isBlockwise) {
      dequantize(CodeBook::Signed, s.m8, at, n, m);
      dequantize(CodeBook::Unsigned, s.v8, at, n, v);
    }
    updateElements(p, static_cast<const float *>(s.gradient) + at, m, v, n, c);
    if (isSplit)
      split(p, n, s.split, at);
    if (isBlockwise) {
      quantize(CodeBook::Signed, m, n, s.m8, at);
      quantize(CodeBook::Unsigned, v, n, s.v8, at);
    }
  }
}

void polymoe::updateByAdamW(ParameterStore &store, MoeContext &context,
                            const Update &update, double clipFactor) {
  const auto &[number, rate, clip, options] = update;
  const double correction1 = 1 - std::pow(options.beta1, double(number));
  const double correction2 = 1 - std::pow(options.beta2, double(number));
  auto coefficients = [&]<typename T>(T) {
    return Coefficients<T>{
        T(clipFactor),         T(1 - rate * options.weightDecay),
        T(options.beta1),      T(1 - options.beta1),
        T(options.beta2),      T(1 - options.beta2),
        T(rate / correction1), T(1 / std::sqrt(correction2)),
        T(options.epsilon)};
  };
  const Coefficients<float> narrow = coefficients(float());
  const Coefficients<double> wide = coefficients(double());
  const std::vector<Chunk> chunks = chunksOf(store);
  auto updateChunk = [&](int64_t item) {
    const auto &[s, begin, end] = chunks[size_t(item)];
    if (s.masterType == DType::F64)
      updateElements(static_cast<double *>(s.master) + begin,
                     static_cast<const double *>(s.gradient) + begin,
                     s.m + begin, s.v + begin, end - begin, wide);
    else
      updateBlocks(s, begin, end, narrow);
  };
  parallelFor(context, "AdamW", int64_t(chunks.size()), updateChunk);
}

double polymoe::clipFactor(double norm, double limit) {
  return limit > 0 ? std::min(1.0, limit / (norm + 1e-6)) : 1.0;
}

int64_t Schedule::warmupSteps() const {
  return warmup >= 1 ? int64_t(warmup)
                     : int64_t(std::ceil(warmup * double(steps)));
}

double Schedule::rateAt(int64_t step) const {
  const int64_t warm = warmupSteps();
  if (step < warm)
    return rate * double(step) / double(warm);
  const double x =
      double(step - warm) / double(std::max<int64_t>(1, steps - warm));
  switch (kind) {
  case Kind::Constant:
    return rate;
  case Kind::Cosine:
    return rate * std::max(0.0, (1 + std::cos(std::numbers::pi * x)) / 2);
  case Kind::Linear:
    return rate * std::max(0.0, 1 - x);
  }
  __builtin_unreachable();
}

Schedule::Kind polymoe::parseScheduleKind(std::string_view name) {
  if (name == "constant")
    return Schedule::Kind::Constant;
  if (name == "cosine")
    return Schedule::Kind::Cosine;
  if (name == "linear")
    return Schedule::Kind::Linear;
  fail("schedule: expected constant, cosine or linear, but got '", name, "'");
}
