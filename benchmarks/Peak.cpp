//===-- Peak.cpp - the most that the cores can multiply -------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// As many chains as hide the latency of two units (at most five cycles each),
// few enough for sixteen registers.
//
//===----------------------------------------------------------------------===//

#include "Peak.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

using namespace polymoe;

#ifdef __x86_64__

static constexpr int chains = 12;

/// What the compiler does not know, so that it computes.
static float opaque(float value) {
  volatile float hidden = value;
  return hidden;
}

// One loop for three instructions, none of which a template can be given: the
// intrinsics are only there inside a function that has their target.
#define MOE_PEAK_LOOP(NAME, TARGET, VECTOR, SPLAT, OPERANDS, STEP)             \
  __attribute__((target(TARGET))) static float NAME(int64_t steps) {           \
    VECTOR sums[chains];                                                       \
    for (VECTOR &sum : sums)                                                   \
      sum = SPLAT(opaque(1.0F));                                               \
    auto factor = OPERANDS(SPLAT(opaque(0.5F)));                               \
    auto other = OPERANDS(SPLAT(opaque(0.25F)));                               \
    for (int64_t i = 0; i < steps; ++i)                                        \
      for (VECTOR &sum : sums)                                                 \
        sum = STEP;                                                            \
    float total = 0;                                                           \
    for (VECTOR &sum : sums)                                                   \
      total += sum[0];                                                         \
    return total;                                                              \
  }

MOE_PEAK_LOOP(fmaAvx2, "avx2,fma", __m256, _mm256_set1_ps, ,
              _mm256_fmadd_ps(sum, factor, other))
MOE_PEAK_LOOP(fmaAvx512, "avx512f", __m512, _mm512_set1_ps, ,
              _mm512_fmadd_ps(sum, factor, other))
MOE_PEAK_LOOP(dotAvx512, "avx512f,avx512bf16", __m512, _mm512_set1_ps,
              (__m512bh), _mm512_dpbf16_ps(sum, factor, other))

PeakLoop polymoe::peakLoopF32() {
  if (__builtin_cpu_supports("avx512f"))
    return {fmaAvx512, 2.0 * 16 * chains};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {fmaAvx2, 2.0 * 8 * chains};
  return {};
}

PeakLoop polymoe::peakLoopBf16() {
  if (__builtin_cpu_supports("avx512bf16"))
    return {dotAvx512, 2.0 * 32 * chains};
  return {};
}

#else

PeakLoop polymoe::peakLoopF32() { return {}; }
PeakLoop polymoe::peakLoopBf16() { return {}; }

#endif
