//===-- Blockwise.h - numbers of 8 bits in blocks ---------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Block-wise dynamic quantisation (Dettmers et al., 8-bit Optimizers via
// Block-wise Quantization, 2022). A block of 256 elements stores its largest
// magnitude in F32. Each element is divided by that and stores the code of the
// cell in which the quotient lies.
//
// The numbers of a code book are those of the paper's dynamic tree: a sign bit,
// e zeros, a one, and a fraction f of the n bits that are left stand for
//   10^-e (0.1 + 0.9 (f + 1/2) / 2^n),  e = 0 ... 6, n = 6 - e,
// the middle of their cell; 0 and 1 are added. An unsigned book uses the sign
// bit for the fraction, n = 7 - e. A code is the rank of its number in
// ascending order. The signed book has no -1: it has 127 negative numbers, 0,
// and 128 positive ones.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_BLOCKWISE_H
#define MOE_RUNTIME_BLOCKWISE_H

#include <array>
#include <cstdint>

namespace polymoe {

/// The elements of a block. Checkpoints depend on this number.
constexpr int64_t blockSize = 256;

constexpr int64_t blocksOf(int64_t elements) {
  return (elements + blockSize - 1) / blockSize;
}

enum class CodeBook {
  Signed,
  Unsigned ///< for numbers that are never negative
};

/// The number that each code stands for.
std::array<float, 256> numbersOf(CodeBook book);

/// Element i is the number of codes[i] times absmax[i / blockSize]. Memory of
/// zero bytes holds zeros.
struct BlockwiseValues {
  std::uint8_t *codes = nullptr;
  float *absmax = nullptr;
};

/// Writes elements [begin, begin + count) of one block to `target`, which has
/// memory for a whole block. `begin` is a multiple of blockSize.
void dequantize(CodeBook book, const BlockwiseValues &values, int64_t begin,
                int64_t count, float *target);

/// The inverse. In the unsigned book only zero becomes zero, since AdamW
/// divides by the second moment.
void quantize(CodeBook book, const float *source, int64_t count,
              const BlockwiseValues &values, int64_t begin);

} // namespace polymoe

#endif // MOE_RUNTIME_BLOCKWISE_H
