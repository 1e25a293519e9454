//===-- TargetDescription.h - what a machine offers -------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_CPU_TARGETDESCRIPTION_H
#define MOE_TARGET_CPU_TARGETDESCRIPTION_H

#include <cstdint>

namespace mlir::moe {

/// How two operands in bf16 are multiplied. A machine that can do one can do
/// those before it, which serve the products that it does not suit.
enum class Bf16Products {
  Widened, ///< as f32
  Pairs,   ///< two products and their sum at once (AVX512-BF16: vdpbf16ps)
  Amx,     ///< 16 x 16 sums of 32 products (AMX-BF16: tdpbf16ps)
};

/// How a program keeps the weights of its products that do not train.
enum class FrozenWeights {
  AsIs, ///< in the type of the model
  Int8, ///< as integers, with a scale for each output channel
};

/// Of which parameters weights are packed once, beside the parameter, in place
/// of at each use, in scratch memory.
enum class PackedOnce {
  All,    ///< for inference
  Frozen, ///< for training: others change at every step
};

/// Rows of a tile of AMX, and words of 32 bits in a row.
constexpr int64_t amxTileRows = 16;

/// What the host (or another machine) offers to a kernel.
struct TargetDescription {
  /// Bytes of a vector register: 64 (AVX-512), 32 (AVX2) or 16.
  int64_t vectorBytes = 64;
  /// AMX needs the widest vectors; narrower ones are multiplied in pairs.
  Bf16Products bf16Products = Bf16Products::Widened;
  /// Rows of the register tile that fit beside two vectors of columns.
  int64_t registerTileRows() const { return vectorBytes == 64 ? 12 : 6; }
};

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_TARGETDESCRIPTION_H
