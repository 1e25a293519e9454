//===-- Blockwise.cpp - numbers of 8 bits in blocks -----------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The numbers of a decade are evenly spaced, so code and number follow from
// each other by a multiplication and an addition whose constants depend on the
// decade. Choosing them by comparisons keeps the loops free of tables and
// branches, and vectors of any width give the same bits.
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Blockwise.h"

#include <algorithm>
#include <bit>
#include <cstring>

using namespace polymoe;

// A product and a sum that the compiler fuses would have other bits where the
// machine has such an instruction.
#pragma clang fp contract(off)

namespace {

constexpr int decades = 7;

/// The magnitudes of a book whose largest decade has 2^bits numbers. Their
/// ranks are 0 for zero, then those of the decades, the smallest first, and
/// `top` for one. number(rank) = rank * slope + offset.
struct Tree {
  struct Decade {
    int first;           ///< rank
    float slope, offset; ///< of numbers by rank
    float from;          ///< numbers nearer to this decade than to smaller ones
    float perNumber, at; ///< rank by number, truncated
  };
  std::array<Decade, decades> all{};
  int top = 1;
  float topFrom = 0;

  explicit constexpr Tree(int bits) {
    double largest = 0; // so far
    double scale = 1e-6;
    for (int i = 0; i < decades; ++i, scale *= 10) {
      const int count = 1 << (bits - (decades - 1) + i);
      const double step = 0.9 * scale / count;
      const double smallest = 0.1 * scale + step / 2;
      Decade &decade = all[size_t(i)];
      decade.first = top;
      decade.slope = float(step);
      decade.offset = float(smallest - top * step);
      decade.from = float((largest + smallest) / 2);
      decade.perNumber = float(1 / step);
      decade.at = float(top - 0.1 * scale / step);
      largest = scale - step / 2;
      top += count;
    }
    topFrom = float((largest + 1) / 2);
  }
};

constexpr Tree trees[] = {Tree(6), Tree(7)};
static_assert(trees[0].top == 128 && trees[1].top == 255);

template <CodeBook book> constexpr const Tree &tree = trees[int(book)];

/// The rank that a code and its negative share.
constexpr int zeroCode = 127;

} // namespace

#define MOE_INLINE [[gnu::always_inline]] static inline

template <CodeBook book> MOE_INLINE float numberOf(int code) {
  constexpr const Tree &t = tree<book>;
  int rank = code;
  if constexpr (book == CodeBook::Signed)
    rank = code < zeroCode ? zeroCode - code : code - zeroCode;
  float slope = 0, offset = 0;
  for (const Tree::Decade &decade : t.all) {
    slope = rank >= decade.first ? decade.slope : slope;
    offset = rank >= decade.first ? decade.offset : offset;
  }
  const float inside = float(rank) * slope + offset;
  const float magnitude = rank >= t.top ? 1.0f : inside;
  if constexpr (book == CodeBook::Signed)
    return code < zeroCode ? -magnitude : magnitude;
  return magnitude;
}

/// The code of the number nearest to `number`, which is at most 1 in
/// magnitude.
template <CodeBook book> MOE_INLINE int codeOf(float number) {
  constexpr const Tree &t = tree<book>;
  const float magnitude = number < 0 ? -number : number;
  // Not a number counts as one, so that the conversion is defined.
  const float x = magnitude <= 1 ? magnitude : 1.0f;
  float perNumber = 0, at = 0;
  int last = 0;
  for (int i = 0; i < decades; ++i) {
    const Tree::Decade &decade = t.all[size_t(i)];
    const bool isHere = x >= decade.from;
    const int end = i + 1 < decades ? t.all[size_t(i) + 1].first : t.top;
    perNumber = isHere ? decade.perNumber : perNumber;
    at = isHere ? decade.at : at;
    last = isHere ? end - 1 : last;
  }
  int rank = int(x * perNumber + at);
  rank = rank < last ? rank : last;
  rank = x >= t.topFrom ? t.top : rank;
  if constexpr (book == CodeBook::Signed) {
    const int negative = rank < zeroCode ? zeroCode - rank : 0;
    return number < 0 ? negative : zeroCode + rank;
  }
  return x > 0 && rank == 0 ? 1 : rank;
}

template <CodeBook book>
MOE_INLINE void dequantizeBlock(const uint8_t *__restrict codes, float absmax,
                                float *__restrict target) {
  for (int64_t i = 0; i < blockSize; ++i)
    target[i] = numberOf<book>(codes[i]) * absmax;
}

template <CodeBook book>
MOE_INLINE float quantizeBlock(const float *__restrict source,
                               uint8_t *__restrict codes) {
  // Magnitudes are ordered as their bits are.
  int32_t largest = 0;
  for (int64_t i = 0; i < blockSize; ++i) {
    const int32_t bits = std::bit_cast<int32_t>(source[i]) & 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  const float absmax = std::bit_cast<float>(largest);
  const float divisor = largest ? absmax : 1.0f;
  for (int64_t i = 0; i < blockSize; ++i)
    codes[i] = uint8_t(codeOf<book>(source[i] / divisor));
  return absmax;
}

namespace {
struct Kernels {
  using Dequantize = void (*)(const uint8_t *, float, float *);
  using Quantize = float (*)(const float *, uint8_t *);
  Dequantize dequantize[2];
  Quantize quantize[2];
};
} // namespace

// The same code for instruction sets that the machine may have.
#define MOE_KERNELS(NAME, ATTRIBUTE)                                           \
  template <CodeBook book>                                                     \
  ATTRIBUTE static void dequantize##NAME(const uint8_t *codes, float absmax,   \
                                         float *target) {                      \
    dequantizeBlock<book>(codes, absmax, target);                              \
  }                                                                            \
  template <CodeBook book>                                                     \
  ATTRIBUTE static float quantize##NAME(const float *source,                   \
                                        uint8_t *codes) {                      \
    return quantizeBlock<book>(source, codes);                                 \
  }                                                                            \
  static constexpr Kernels kernels##NAME = {                                   \
      {dequantize##NAME<CodeBook::Signed>,                                     \
       dequantize##NAME<CodeBook::Unsigned>},                                  \
      {quantize##NAME<CodeBook::Signed>,                                       \
       quantize##NAME<CodeBook::Unsigned>}};

MOE_KERNELS(Generic, )
#ifdef __x86_64__
MOE_KERNELS(Avx2, __attribute__((target("avx2"))))
MOE_KERNELS(Avx512,
            __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#endif

static const Kernels &kernels() {
#ifdef __x86_64__
  static const Kernels &best =
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl")
          ? kernelsAvx512
      : __builtin_cpu_supports("avx2") ? kernelsAvx2
                                       : kernelsGeneric;
  return best;
#else
  return kernelsGeneric;
#endif
}

std::array<float, 256> polymoe::numbersOf(CodeBook book) {
  std::array<float, 256> numbers;
  for (int code = 0; code < 256; ++code)
    numbers[size_t(code)] = book == CodeBook::Signed
                                ? numberOf<CodeBook::Signed>(code)
                                : numberOf<CodeBook::Unsigned>(code);
  return numbers;
}

void polymoe::dequantize(CodeBook book, const BlockwiseValues &values,
                         int64_t begin, int64_t count, float *target) {
  const float absmax = values.absmax[begin / blockSize];
  const uint8_t *codes = values.codes + begin;
  uint8_t padded[blockSize] = {};
  if (count < blockSize)
    codes = static_cast<uint8_t *>(
        std::memcpy(padded, codes, static_cast<size_t>(count)));
  kernels().dequantize[int(book)](codes, absmax, target);
}

void polymoe::quantize(CodeBook book, const float *source, int64_t count,
                       const BlockwiseValues &values, int64_t begin) {
  float &absmax = values.absmax[begin / blockSize];
  uint8_t *codes = values.codes + begin;
  if (count == blockSize) {
    absmax = kernels().quantize[int(book)](source, codes);
    return;
  }
  float padded[blockSize] = {};
  uint8_t all[blockSize];
  std::copy_n(source, count, padded);
  absmax = kernels().quantize[int(book)](padded, all);
  std::copy_n(all, count, codes);
}
