//===-- Blockwise.h - numbers of 8 bits in blocks ---------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Block-wise dynamic quantisation (Dettmers et al., 8-bit Optimizers via
// Block-wise Quantization, 2022): a block of 256 elements has its largest
// magnitude in F32, and each element the code of the cell in which its share of
// that lies.
//
// The codes are those of the dynamic tree: below the sign, e zeros, a one, and
// a fraction f of the n bits that are left, stand for the number
//   10^-e (0.1 + 0.9 (f + 1/2) / 2^n),  e = 0 ... 6, n = 6 - e,
// the middle of its cell, beside 0 and 1. An unsigned book has the sign's bit
// for the fraction, n = 7 - e. A code is the number's place among all of its
// book in ascending order, so -1 is missing from the signed one: 127 negative
// numbers, 0, 128 positive ones.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_BLOCKWISE_H
#define MOE_RUNTIME_BLOCKWISE_H

#include <array>
#include <cstdint>

namespace polymoe {

/// Elements of a block; fixed for ever: checkpoints depend on it.
constexpr int64_t blockSize = 256;

constexpr int64_t blocksOf(int64_t elements) {
  return (elements + blockSize - 1) / blockSize;
}

enum class CodeBook {
  Signed,
  Unsigned ///< of numbers none of which is negative
};

/// The numbers of all codes.
std::array<float, 256> numbersOf(CodeBook book);

/// Element i is the number of codes[i] times absmax[i / blockSize]. All zero
/// bytes are zeros.
struct BlockwiseValues {
  std::uint8_t *codes = nullptr;
  float *absmax = nullptr;
};

/// Writes elements [begin, begin + count) of one block to `target`, which has
/// room for a whole block. `begin` is a multiple of blockSize.
void dequantize(CodeBook book, const BlockwiseValues &values, int64_t begin,
                int64_t count, float *target);

/// The inverse. A number of the unsigned book that is not zero does not become
/// zero: as the second moment of AdamW it divides.
void quantize(CodeBook book, const float *source, int64_t count,
              const BlockwiseValues &values, int64_t begin);

} // namespace polymoe

#endif // MOE_RUNTIME_BLOCKWISE_H
