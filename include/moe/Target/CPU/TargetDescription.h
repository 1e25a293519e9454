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

/// How a matrix product multiplies two operands in bf16. A machine that
/// supports one kind supports those before it, and uses them for products whose
/// shapes do not suit the later one.
enum class Bf16Products {
  Widened, ///< converts both to f32
  Pairs,   ///< adds two products to a sum at once (AVX512-BF16: vdpbf16ps)
  Amx,     ///< adds 32 products to each of 16 x 16 sums (AMX-BF16: tdpbf16ps)
};

/// How a program stores those weights of its matrix products that do not train.
enum class FrozenWeights {
  AsIs, ///< in the type of the model
  Int8, ///< as integers, with a scale for each output channel
};

/// Which parameters are packed once, into panels that are kept beside the
/// parameter. All others are packed again at every use.
enum class PackedOnce {
  All,    ///< for inference
  Frozen, ///< those that do not train: a training step changes the others
};

/// Rows of an AMX tile, and 32-bit words in each row.
constexpr int64_t amxTileRows = 16;

/// What the machine that kernels are compiled for offers.
struct TargetDescription {
  /// Bytes of a vector register: 64 (AVX-512), 32 (AVX2) or 16.
  int64_t vectorBytes = 64;
  /// Amx needs vectors of 64 bytes; with narrower ones it means Pairs.
  Bf16Products bf16Products = Bf16Products::Widened;
  /// Rows of a register tile of vectors: as many as registers hold, with two
  /// vectors of sums each, beside two vectors of columns.
  int64_t registerTileRows() const { return vectorBytes == 64 ? 12 : 6; }
};

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_TARGETDESCRIPTION_H
