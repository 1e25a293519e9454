//===-- Packing.cpp - panels, the layout of right operands ----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Packing.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

int64_t mlir::moe::lanesOf(const TargetDescription &target, Type compute) {
  return target.vectorBytes * 8 / compute.getIntOrFloatBitWidth();
}

SmallVector<int64_t> mlir::moe::panelShape(int64_t columns, int64_t inner,
                                           int64_t lanes) {
  // An even number, since a register tile reads two panels.
  int64_t panels = llvm::alignTo(llvm::divideCeilSigned(columns, lanes), 2);
  return {panels, inner, lanes};
}

MemRefType mlir::moe::panelType(int64_t columns, int64_t inner, int64_t lanes,
                                Type element) {
  return MemRefType::get(panelShape(columns, inner, lanes), element);
}

static SmallVector<Value> indices(ValueRange leading, Value last) {
  SmallVector<Value> all(leading);
  all.push_back(last);
  return all;
}

Value mlir::moe::loadPanel(KernelBuilder &k, Value panels, ValueRange panel,
                           Value step) {
  return k.load(panels, indices(panel, step), {k.idx(0), Value()});
}

/// Turns the rows of a square into its columns: swaps off-diagonal blocks of
/// half the side, then of a quarter, and so on.
static void transposeSquare(KernelBuilder &k, MutableArrayRef<Value> rows) {
  auto side = static_cast<int64_t>(rows.size());
  for (int64_t half = side / 2; half > 0; half /= 2) {
    SmallVector<int64_t> low, high;
    for (int64_t i = 0; i < side; ++i) {
      bool isSecond = i & half;
      low.push_back(isSecond ? side + i - half : i);
      high.push_back(isSecond ? side + i : i + half);
    }
    for (int64_t i = 0; i < side; ++i) {
      if (i & half)
        continue;
      Value a = rows[i], b = rows[i + half];
      rows[i] = vector::ShuffleOp::create(k, a, b, low);
      rows[i + half] = vector::ShuffleOp::create(k, a, b, high);
    }
  }
}

void mlir::moe::packPanel(KernelBuilder &k, Value from,
                          function_ref<Value(int64_t)> row, Value count,
                          Value lo, Value hi, int64_t width, Value panels,
                          ValueRange panel) {
  int64_t lanes = k.lanes();
  SmallVector<Value> sources;
  for (int64_t i = 0; i < lanes; ++i)
    sources.push_back(row(i));
  auto maskType = VectorType::get({lanes}, k.getI1Type());
  Value exists = vector::CreateMaskOp::create(k, maskType, ValueRange{count});
  auto packSquare = [&](Lane lane, int64_t columns) {
    SmallVector<Value> rows;
    for (Value source : sources)
      rows.push_back(k.loadBits(from, source, lane));
    transposeSquare(k, rows);
    for (int64_t i = 0; i < columns; ++i) {
      Value zero =
          arith::ConstantOp::create(k, k.getZeroAttr(rows[i].getType()));
      k.storeBits(arith::SelectOp::create(k, exists, rows[i], zero), panels,
                  indices(panel, k.add(lane.column, k.idx(i))),
                  {k.idx(0), Value()});
    }
  };
  int64_t whole = width / lanes * lanes;
  k.loop(lo, k.min(hi, k.idx(whole)), lanes,
         [&](Value column) { packSquare({column, Value()}, lanes); });
  if (whole == width)
    return;
  k.ifThen(k.less(k.idx(whole), hi), [&] {
    Value rest = vector::CreateMaskOp::create(k, maskType,
                                              ValueRange{k.idx(width - whole)});
    packSquare({k.idx(whole), rest}, width - whole);
  });
}

Value mlir::moe::packTransposed(KernelLowering &lowering, Operation *op,
                                Value weight, Type compute) {
  auto type = cast<MemRefType>(weight.getType());
  int64_t columns = type.getDimSize(0), inner = type.getDimSize(1);
  int64_t lanes = lanesOf(lowering.target(), compute);
  SmallVector<int64_t> shape = panelShape(columns, inner, lanes);
  Value panels = lowering.temporary(shape, type.getElementType());
  // Long panels of a weight with few rows are cut for the threads.
  constexpr int64_t wantedTiles = 16, shortestSlice = 256;
  int64_t slices =
      std::clamp<int64_t>(llvm::divideCeilSigned(wantedTiles, shape[0]), 1,
                          llvm::divideCeilSigned(inner, shortestSlice));
  int64_t slice = llvm::alignTo(llvm::divideCeilSigned(inner, slices), lanes);
  slices = llvm::divideCeilSigned(inner, slice);
  lowering.launch(
      op,
      {.label = "pack",
       .tiles = shape[0] * slices,
       .arguments = {weight, panels},
       .compute = compute,
       .derives = "transposed." + std::to_string(lanes),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        Value from = k.buffer(0), to = k.buffer(1);
        Value panel = k.div(k.tile(), k.idx(slices));
        Value first = k.mul(panel, k.idx(lanes));
        Value lo = k.mul(k.rem(k.tile(), k.idx(slices)), k.idx(slice));
        Value count =
            arith::MaxSIOp::create(k, k.sub(k.idx(columns), first), k.idx(0));
        packPanel(
            k, from,
            [&](int64_t i) {
              return k.min(k.add(first, k.idx(i)), k.idx(columns - 1));
            },
            count, lo, k.min(k.add(lo, k.idx(slice)), k.idx(inner)), inner, to,
            panel);
      });
  return panels;
}

Value mlir::moe::packStraight(KernelLowering &lowering, Operation *op,
                              Value weight, Type compute) {
  auto type = cast<MemRefType>(weight.getType());
  int64_t inner = type.getDimSize(0), columns = type.getDimSize(1);
  int64_t lanes = lanesOf(lowering.target(), compute);
  SmallVector<int64_t> shape = panelShape(columns, inner, lanes);
  Value panels = lowering.temporary(shape, type.getElementType());
  int64_t perTile = rowsPerTile(inner, columns);
  lowering.launch(
      op,
      {.label = "pack_rows",
       .tiles = llvm::divideCeilSigned(inner, perTile),
       .arguments = {weight, panels},
       .compute = compute,
       .derives = "straight." + std::to_string(lanes),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        Value from = k.buffer(0), to = k.buffer(1);
        k.rowsOfTile(inner, perTile, [&](Value row) {
          k.columns(columns, [&](Lane lane) {
            Value panel = k.div(lane.column, k.idx(lanes));
            k.storeBits(k.loadBits(from, row, lane), to, {panel, row},
                        {k.idx(0), Value()});
          });
          // The panel that makes their number even.
          for (int64_t panel = llvm::divideCeilSigned(columns, lanes);
               panel < shape[0]; ++panel) {
            auto bits = k.getIntegerType(type.getElementTypeBitWidth());
            Value zero = arith::ConstantOp::create(
                k, k.getZeroAttr(VectorType::get({lanes}, bits)));
            k.storeBits(zero, to, {k.idx(panel), row}, {k.idx(0), Value()});
          }
        });
      });
  return panels;
}
