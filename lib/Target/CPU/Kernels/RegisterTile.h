//===-- RegisterTile.h - the innermost loop of matrix products --*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The micro-kernel of every matrix product on a CPU. A register tile is a block
// of sums, in vectors or in AMX tiles, that stays in registers while the loop
// runs over the inner dimension.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_CPU_KERNELS_REGISTERTILE_H
#define MOE_TARGET_CPU_KERNELS_REGISTERTILE_H

#include "moe/Target/KernelBuilder.h"

namespace mlir::moe {

/// `acc[i * vectors + j] = sum over steps s in [lo, hi), ascending, of
/// a(s, i) * b(s, j)`, one chain of multiply-adds for each element, starting
/// from zero or from `init`. The operands are one of three kinds:
/// - `a` gives scalars and `b` vectors, of the type of computation,
/// - `a` gives pairs (loadPair) and `b` vectors with a pair of bf16 in each
///   lane, and one multiply-add takes both products,
/// - both give AMX tiles (loadAmxTile), those of `b` with pairs; the sums are
///   AMX tiles, too, and `init` is given.
SmallVector<Value> registerTile(KernelBuilder &k, int64_t rows, int64_t vectors,
                                Value lo, Value hi,
                                function_ref<Value(Value, int64_t)> a,
                                function_ref<Value(Value, int64_t)> b,
                                ValueRange init = {});

/// Loads an element of a buffer of bf16 and the one after it, as one i32.
Value loadPair(KernelBuilder &k, Value buffer, ValueRange indices);

/// Loads an AMX tile, of at most 16 rows of 64 bytes, from a position of a
/// buffer on.
Value loadAmxTile(KernelBuilder &k, Value buffer, ValueRange position,
                  int64_t rows);
/// An AMX tile of zero sums.
Value zeroAmxTile(KernelBuilder &k, int64_t rows);
void storeAmxTile(KernelBuilder &k, Value tile, Value buffer,
                  ValueRange position);

enum class Cache { L1, L2 };
/// Prefetches the cache line of an element. The index may be out of bounds.
void prefetch(KernelBuilder &k, Value buffer, ValueRange indices,
              Cache into = Cache::L1);

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_KERNELS_REGISTERTILE_H
