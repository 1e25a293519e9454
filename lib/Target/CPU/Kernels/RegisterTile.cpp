//===-- RegisterTile.cpp - the innermost loop of matrix products ----------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RegisterTile.h"

#include "mlir/Dialect/AMX/AMXDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Dialect/X86Vector/X86VectorDialect.h"

using namespace mlir;
using namespace mlir::moe;

/// `sum + a * b`. A scalar or a pair `a` is broadcast.
static Value multiplyAdd(KernelBuilder &k, Value a, Value b, Value sum) {
  if (isa<amx::TileType>(b.getType()))
    return amx::TileMulFOp::create(k, sum.getType(), a, b, sum);
  auto type = cast<VectorType>(b.getType());
  if (type == k.vectorType())
    return k.fma(k.broadcast(a), b, sum);
  Value bits = vector::BroadcastOp::create(
      k, VectorType::get({k.lanes()}, k.getI32Type()), a);
  Value pairs = vector::BitCastOp::create(k, type, bits);
  return x86vector::DotBF16Op::create(k, sum.getType(), sum, pairs, b);
}

SmallVector<Value> mlir::moe::registerTile(
    KernelBuilder &k, int64_t rows, int64_t vectors, Value lo, Value hi,
    function_ref<Value(Value, int64_t)> a,
    function_ref<Value(Value, int64_t)> b, ValueRange init) {
  SmallVector<Value> start(init);
  if (start.empty())
    start.assign(rows * vectors, k.splat(0.0));
  return k.loop(lo, hi, 1, start, [&](Value step, ValueRange acc) {
    SmallVector<Value> columns, next(acc);
    for (int64_t j = 0; j < vectors; ++j)
      columns.push_back(b(step, j));
    for (int64_t i = 0; i < rows; ++i) {
      Value row = a(step, i);
      for (int64_t j = 0; j < vectors; ++j)
        next[i * vectors + j] =
            multiplyAdd(k, row, columns[j], acc[i * vectors + j]);
    }
    return next;
  });
}

Value mlir::moe::loadPair(KernelBuilder &k, Value buffer, ValueRange indices) {
  auto pair = VectorType::get({2}, k.getBF16Type());
  Value elements = vector::LoadOp::create(k, pair, buffer, indices);
  Value bits = vector::BitCastOp::create(
      k, VectorType::get({1}, k.getI32Type()), elements);
  return vector::ExtractOp::create(k, bits, ArrayRef<int64_t>{0});
}

static amx::TileType amxTileType(int64_t rows, Type element) {
  constexpr int64_t bitsOfRow = 512;
  return amx::TileType::get({rows, bitsOfRow / element.getIntOrFloatBitWidth()},
                            element);
}

Value mlir::moe::loadAmxTile(KernelBuilder &k, Value buffer,
                             ValueRange position, int64_t rows) {
  amx::TileType type = amxTileType(rows, getElementTypeOrSelf(buffer));
  return amx::TileLoadOp::create(k, type, buffer, position);
}

Value mlir::moe::zeroAmxTile(KernelBuilder &k, int64_t rows) {
  return amx::TileZeroOp::create(k, amxTileType(rows, k.compute()));
}

void mlir::moe::storeAmxTile(KernelBuilder &k, Value tile, Value buffer,
                             ValueRange position) {
  amx::TileStoreOp::create(k, buffer, position, tile);
}

void mlir::moe::prefetch(KernelBuilder &k, Value buffer, ValueRange indices,
                         Cache into) {
  memref::PrefetchOp::create(k, buffer, indices, /*isWrite=*/false,
                             /*localityHint=*/into == Cache::L1 ? 3 : 2,
                             /*isDataCache=*/true);
}
