//===-- Blockwise.cpp - numbers of 8 bits in blocks -----------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Inside a decade, the rank of a magnitude is a straight line of the magnitude,
// rounded down. The lines of neighbouring decades meet where the decades do,
// and the line of a larger decade is flatter. So the rank of a magnitude is the
// minimum of all lines, and the number of a rank, the middle of its cell, is
// the maximum of their inverses. The loops therefore have neither tables nor
// branches, and vectors of any width give the same bits.
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Blockwise.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

using namespace polymoe;

// If the compiler fused a product and a sum, bits would differ between machines
// with and without such an instruction.
#pragma clang fp contract(off)

namespace {

constexpr size_t decades = 7;

/// The magnitudes of a book whose largest decade has 2^bits numbers. Zero has
/// rank 0, then come the numbers of the decades, the smallest first, and one
/// has rank `top`.
struct Tree {
  /// rank = x * perNumber + at, truncated; x = rank * step + middle.
  struct Line {
    float perNumber, at, step, middle;
  };
  std::array<Line, decades> lines{};
  int top = 1;
  /// Magnitudes from `topFrom` on become one and, in the signed book, those
  /// below `zeroTo` zero: both limits lie half way to the next number.
  float zeroTo = 0, topFrom = 0;

  explicit constexpr Tree(int bits) {
    double scale = 1e-6;
    for (size_t i = 0; i < decades; ++i, scale *= 10) {
      const int count = 1 << (bits + int(i + 1 - decades));
      const double step = 0.9 * scale / count, begin = 0.1 * scale;
      lines[i] = {float(1 / step), float(top - begin / step), float(step),
                  float(begin + step / 2 - top * step)};
      if (i == 0)
        zeroTo = float((begin + step / 2) / 2);
      topFrom = float((1 + scale - step / 2) / 2);
      top += count;
    }
  }
};

constexpr Tree trees[] = {Tree(6), Tree(7)};
static_assert(trees[0].top == 128 && trees[1].top == 255);

template <CodeBook book> constexpr const Tree &tree = trees[int(book)];

/// The code of zero among signed numbers.
constexpr int zeroCode = 127;

} // namespace

#define MOE_INLINE [[gnu::always_inline]] static inline

template <CodeBook book> MOE_INLINE float numberOf(int code) {
  constexpr const Tree &t = tree<book>;
  int rank = code;
  if constexpr (book == CodeBook::Signed)
    rank = code < zeroCode ? zeroCode - code : code - zeroCode;
  const auto exactRank = float(rank);
  float number = 0;
  for (const Tree::Line &line : t.lines) {
    const float here = exactRank * line.step + line.middle;
    number = here > number ? here : number;
  }
  number = rank == 0 ? 0.0f : number;
  number = rank == t.top ? 1.0f : number;
  if constexpr (book == CodeBook::Signed)
    return code < zeroCode ? -number : number;
  return number;
}

/// The code in whose cell `number` lies, which is at most 1 in magnitude.
template <CodeBook book> MOE_INLINE int codeOf(float number) {
  constexpr const Tree &t = tree<book>;
  const float magnitude = number < 0 ? -number : number;
  // A NaN counts as 1, so that the conversion to int is defined.
  const float x = magnitude < 1 ? magnitude : 1.0f;
  auto exactRank = float(t.top);
  for (const Tree::Line &line : t.lines) {
    const float here = x * line.perNumber + line.at;
    exactRank = here < exactRank ? here : exactRank;
  }
  int rank = int(exactRank);
  if constexpr (book == CodeBook::Signed) {
    rank = x < t.zeroTo ? 0 : rank;
    rank = x < t.topFrom ? rank : t.top;
    const int negative = rank < zeroCode ? zeroCode - rank : 0;
    return number < 0 ? negative : zeroCode + rank;
  }
  // The cell of the smallest number reaches down to zero.
  const int least = x > 0 ? 1 : 0;
  rank = rank > least ? rank : least;
  return x < t.topFrom ? rank : t.top;
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
  // The bits of magnitudes have the order of the magnitudes.
  int32_t largest = 0;
  for (int64_t i = 0; i < blockSize; ++i) {
    const int32_t bits = std::bit_cast<int32_t>(source[i]) & 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  const float absmax = std::bit_cast<float>(largest);
  // The inverse of a very small absmax would be infinite. A smaller, finite one
  // gives the elements smaller codes.
  const float inverse = std::min(1 / absmax, std::numeric_limits<float>::max());
  for (int64_t i = 0; i < blockSize; ++i)
    codes[i] = uint8_t(codeOf<book>(source[i] * inverse));
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

// Compiles the same code for several instruction sets. The attribute must not
// be in parentheses. NOLINTBEGIN(bugprone-macro-parentheses)
#define MOE_KERNELS(NAME, ATTRIBUTE)                                           \
  template <CodeBook book>                                                     \
  ATTRIBUTE static void dequantize##NAME(const uint8_t *codes, float absmax,   \
                                         float *target) {                      \
    dequantizeBlock<book>(codes, absmax, target);                              \
  }                                                                            \
  template <CodeBook book>                                                     \
  ATTRIBUTE static float quantize##NAME(const float *source, uint8_t *codes) { \
    return quantizeBlock<book>(source, codes);                                 \
  }                                                                            \
  static constexpr Kernels kernels##NAME = {                                   \
      {dequantize##NAME<CodeBook::Signed>,                                     \
       dequantize##NAME<CodeBook::Unsigned>},                                  \
      {quantize##NAME<CodeBook::Signed>, quantize##NAME<CodeBook::Unsigned>}};
// NOLINTEND(bugprone-macro-parentheses)

MOE_KERNELS(Generic, )
#ifdef __x86_64__
MOE_KERNELS(Avx2, __attribute__((target("avx2"))))
MOE_KERNELS(Avx512,
            __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#endif

static const Kernels &kernels() {
#ifdef __x86_64__
  static const Kernels &best = __builtin_cpu_supports("avx512bw") &&
                                       __builtin_cpu_supports("avx512dq") &&
                                       __builtin_cpu_supports("avx512vl")
                                   ? kernelsAvx512
                               : __builtin_cpu_supports("avx2")
                                   ? kernelsAvx2
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
