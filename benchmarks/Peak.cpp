//===-- Peak.cpp - the most that the cores can multiply -------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// More chains than two units need to hide their latency, few enough for the
// registers with room to spare: the compiler spills where it is tight.
//
//===----------------------------------------------------------------------===//

#include "Peak.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

using namespace polymoe;

#ifdef __x86_64__

static constexpr int chainsAvx2 = 12, chainsAvx512 = 16;

/// What the compiler does not know, so that it computes.
static float opaque(float value) {
  volatile float hidden = value;
  return hidden;
}

// One loop for three instructions, none of which a template can be given: the
// intrinsics are only there inside a function that has their target.
#define MOE_PEAK_LOOP(NAME, TARGET, CHAINS, VECTOR, SPLAT, OPERANDS, STEP)     \
  __attribute__((target(TARGET))) static float NAME(int64_t steps) {           \
    VECTOR sums[CHAINS];                                                       \
    for (auto &sum : sums)                                                     \
      sum = SPLAT(opaque(1.0F));                                               \
    auto factor = OPERANDS(SPLAT(opaque(0.5F)));                               \
    auto other = OPERANDS(SPLAT(opaque(0.25F)));                               \
    for (int64_t i = 0; i < steps; ++i)                                        \
      for (auto &sum : sums)                                                   \
        sum = STEP;                                                            \
    float total = 0;                                                           \
    for (auto &sum : sums)                                                     \
      total += sum[0];                                                         \
    return total;                                                              \
  }

MOE_PEAK_LOOP(fmaAvx2, "avx2,fma", chainsAvx2, __m256, _mm256_set1_ps, ,
              _mm256_fmadd_ps(sum, factor, other))
MOE_PEAK_LOOP(fmaAvx512, "avx512f", chainsAvx512, __m512, _mm512_set1_ps, ,
              _mm512_fmadd_ps(sum, factor, other))
MOE_PEAK_LOOP(dotAvx512, "avx512f,avx512bf16", chainsAvx512, __m512,
              _mm512_set1_ps, (__m512bh), _mm512_dpbf16_ps(sum, factor, other))

PeakLoop polymoe::peakLoopF32() {
  if (__builtin_cpu_supports("avx512f"))
    return {fmaAvx512, 2.0 * 16 * chainsAvx512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {fmaAvx2, 2.0 * 8 * chainsAvx2};
  return {};
}

PeakLoop polymoe::peakLoopBf16() {
  if (__builtin_cpu_supports("avx512bf16"))
    return {dotAvx512, 2.0 * 32 * chainsAvx512};
  return {};
}

#else

PeakLoop polymoe::peakLoopF32() { return {}; }
PeakLoop polymoe::peakLoopBf16() { return {}; }

#endif
