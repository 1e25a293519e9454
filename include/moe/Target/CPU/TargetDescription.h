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

/// What the machine that kernels are compiled for offers, and how matrix
/// products are cut for it. The bits of results depend on vectorBytes and
/// bf16Products alone: the rest decides only in which order work is done.
struct TargetDescription {
  /// Bytes of a vector register: 64 (AVX-512), 32 (AVX2) or 16.
  int64_t vectorBytes = 64;
  /// Amx needs vectors of 64 bytes; with narrower ones it means Pairs.
  Bf16Products bf16Products = Bf16Products::Widened;
  /// Rows of a register tile of vectors: as many as registers hold, with two
  /// vectors of sums each, beside two vectors of columns.
  int64_t registerTileRows() const { return vectorBytes == 64 ? 12 : 6; }

  /// Bytes of a core's L2 cache.
  int64_t l2Bytes = 1 << 20;
  /// Bytes of the last-level cache that a launch can count on. It is not read
  /// from the host, since a virtual machine reports that of a whole socket.
  int64_t lastLevelBytes = 16 << 20;

  /// The rows of a block take half of the L2 cache, as panels stream past them.
  int64_t blockBytes() const { return l2Bytes / 2; }
  /// A work item that packs its panels itself has those and the prefetched
  /// weights in the L2 cache too.
  int64_t blockBytesAtUse() const { return 3 * (blockBytes() / 4); }
  /// The panels of the next register tile are prefetched up to this size: the
  /// L2 cache holds them beside this tile's panels and the rows.
  int64_t prefetchedBytes() const { return l2Bytes / 4; }
  /// Panels of more bytes are no longer in the last-level cache when the next
  /// block of rows reads them.
  int64_t cachedPanelBytes() const { return lastLevelBytes / 2; }

  // The following were found by measuring the shapes of docs/Benchmarks.md on
  // Zen 4 and Zen 5.

  /// How many register tiles the rows of a block make: enough to read a panel
  /// from the L1 and L2 caches mostly, and no more than help.
  static constexpr int64_t fewestRegisterTiles = 4, mostRegisterTiles = 16;
  /// The same where panels come from memory once for each block.
  static constexpr int64_t fewestRegisterTilesFromMemory = 8;
  /// Work items of a launch: the fewest, and as many as let threads finish at
  /// about the same time.
  static constexpr int64_t fewestItems = 16, wantedItems = 64;
  /// The fewest columns that make it worth copying the rows of a block for
  /// another work item.
  static constexpr int64_t splitColumns = 512;
  /// Bytes of the longest row that is copied whole. The rows of a block lie on
  /// a thread's stack: 48 such rows take 3 MiB there, 256 with AMX take 16 MiB.
  static constexpr int64_t longestRow = 64 << 10;
  /// Longer rows are taken in slices of so many bytes, which fit the L1 cache,
  /// for so many columns of sums.
  static constexpr int64_t sliceBytes = 16 << 10, sliceColumns = 1024;
  /// With more rows than this for each expert, packing its weights in a launch
  /// of its own costs less than packing them once for each block.
  static constexpr int64_t rowsToPackAtUse = 512;
  /// The fewest rows of a block that make it worth packing weights for it.
  static constexpr int64_t fewestRowsAtUse = 96;
  /// The fewest rows in a slice of a gradient of weights, which reads and
  /// writes the gradient once more.
  static constexpr int64_t fewestRowsOfGradient = 2048;
};

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_TARGETDESCRIPTION_H
