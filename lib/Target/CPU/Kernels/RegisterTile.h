//===-- RegisterTile.h - the innermost loop of matrix products --*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The micro-kernel behind every matrix product on a CPU: a tile of sums that
// stays in registers over the whole inner dimension, made of vectors (fused
// multiply-adds, or dot products of pairs of bf16) or of AMX tiles.
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
/// - all are AMX tiles (loadAmxTile), those of `b` with pairs, and `init` is
///   given.
SmallVector<Value> registerTile(KernelBuilder &k, int64_t rows, int64_t vectors,
                                Value lo, Value hi,
                                function_ref<Value(Value, int64_t)> a,
                                function_ref<Value(Value, int64_t)> b,
                                ValueRange init = {});

/// The bits of an element of a buffer of bf16 and of the next one, as i32.
Value loadPair(KernelBuilder &k, Value buffer, ValueRange indices);

/// An AMX tile has at most 16 rows, each of 64 bytes: loads those from a
/// position of a buffer on.
Value loadAmxTile(KernelBuilder &k, Value buffer, ValueRange position,
                  int64_t rows);
/// The AMX tile of a sum that is zero.
Value zeroAmxTile(KernelBuilder &k, int64_t rows);
void storeAmxTile(KernelBuilder &k, Value tile, Value buffer,
                  ValueRange position);

enum class Cache { L1, L2 };
/// Prefetches the cache line of an element, which need not exist.
void prefetch(KernelBuilder &k, Value buffer, ValueRange indices,
              Cache into = Cache::L1);

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_KERNELS_REGISTERTILE_H
