//===-- Matmul.cpp - dense matrix products --------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Matmul.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace mlir::moe;

/// Rows beyond the last column of a block of scratch memory: keeps the rows of
/// a register tile from falling into one set of the cache.
static constexpr int64_t scratchPadding = 16;

int64_t mlir::moe::lanesOf(const TargetDescription &target, Type compute) {
  return target.vectorBytes * 8 / compute.getIntOrFloatBitWidth();
}

MatmulTiling::MatmulTiling(int64_t rows, int64_t columns, int64_t lanes,
                           const TargetDescription &target, int64_t vectors)
    : vectors(vectors) {
  tileRows = std::min(target.tileRows(), rows);
  // Four register tiles share a panel of columns while it is in the cache.
  blockRows =
      std::min(4 * tileRows, llvm::divideCeilSigned(rows, tileRows) * tileRows);
  groupWidth = vectors * lanes;
  groups = llvm::divideCeilSigned(columns, groupWidth);
  // Enough tiles for any number of threads, few enough to reuse packed rows.
  constexpr int64_t wantedTiles = 16;
  int64_t blocks = rowBlocks(rows);
  splits = std::clamp<int64_t>(llvm::divideCeilSigned(wantedTiles, blocks), 1,
                               groups);
  groupsPerSplit = llvm::divideCeilSigned(groups, splits);
  splits = llvm::divideCeilSigned(groups, groupsPerSplit);
}

RowBlock mlir::moe::denseRowBlock(KernelBuilder &k, Value index, int64_t rows,
                                  int64_t blockRows) {
  Value first = k.mul(index, k.idx(blockRows));
  return {first, k.min(k.sub(k.idx(rows), first), k.idx(blockRows)), Value()};
}

RowBlock mlir::moe::routedRowBlock(KernelBuilder &k, Value index, Value routes,
                                   int64_t rows, Value experts,
                                   int64_t blockRows) {
  // Walks the experts, counting blocks, until the block's expert is found.
  Value zero = k.idx(0);
  SmallVector<Value> found = k.loop(
      zero, experts, 1, {zero, zero, zero, zero},
      [&](Value e, ValueRange state) {
        Value blocksBefore = state[0];
        Value position = k.add(e, k.idx(2 * rows));
        Value begin = k.loadIndex(routes, position);
        Value end = k.loadIndex(routes, k.add(position, k.idx(1)));
        Value blocks = k.div(k.add(k.sub(end, begin), k.idx(blockRows - 1)),
                             k.idx(blockRows));
        Value blocksAfter = k.add(blocksBefore, blocks);
        Value inside = arith::CmpIOp::create(k, arith::CmpIPredicate::sge,
                                             index, blocksBefore);
        inside = arith::AndIOp::create(k, inside, k.less(index, blocksAfter));
        Value first =
            k.add(begin, k.mul(k.sub(index, blocksBefore), k.idx(blockRows)));
        Value count = k.min(k.sub(end, first), k.idx(blockRows));
        auto select = [&](Value a, Value b) -> Value {
          return arith::SelectOp::create(k, inside, a, b);
        };
        return SmallVector<Value>{blocksAfter, select(first, state[1]),
                                  select(count, state[2]), select(e, state[3])};
      });
  return {found[1], found[2], found[3]};
}

Value mlir::moe::packRows(KernelBuilder &k, Value from, const RowBlock &block,
                          int64_t blockRows, int64_t width,
                          function_ref<Value(Value)> source,
                          int64_t columnOffset) {
  Value scratch = k.scratch({blockRows, width + scratchPadding}, k.compute());
  k.loop(k.idx(0), block.count, 1, [&](Value i) {
    Value row = source(i);
    k.columns(width, [&](KernelBuilder::Lane lane) {
      KernelBuilder::Lane shifted{
          columnOffset ? k.add(lane.column, k.idx(columnOffset)) : lane.column,
          lane.mask};
      k.store(k.load(from, row, shifted), scratch, i, lane);
    });
  });
  k.loop(block.count, k.idx(blockRows), 1, [&](Value i) {
    k.columns(width, [&](KernelBuilder::Lane lane) {
      k.store(k.splat(0.0), scratch, i, lane);
    });
  });
  return scratch;
}

/// The lanes of register tile `group` across `width` columns.
static TileColumns tileColumns(KernelBuilder &k, const MatmulTiling &tiling,
                               Value group, int64_t width) {
  TileColumns columns{group, {}};
  Value first = k.mul(group, k.idx(tiling.groupWidth));
  for (int64_t j = 0; j < tiling.vectors; ++j) {
    KernelBuilder::Lane lane{k.add(first, k.idx(j * k.lanes())), Value()};
    if (width % tiling.groupWidth != 0) {
      // A panel beyond the last column has nothing left.
      Value left =
          arith::MaxSIOp::create(k, k.sub(k.idx(width), lane.column), k.idx(0));
      auto maskType = VectorType::get({k.lanes()}, k.getI1Type());
      lane.mask = vector::CreateMaskOp::create(k, maskType, ValueRange{left});
    }
    columns.lanes.push_back(lane);
  }
  return columns;
}

void mlir::moe::forEachRegisterTile(
    KernelBuilder &k, const MatmulTiling &tiling, int64_t width,
    const RowBlock &block, Value split,
    function_ref<SmallVector<Value>(Value, const TileColumns &)> sums,
    function_ref<void(Value, const TileColumns &, ValueRange)> epilogue) {
  Value firstGroup = k.mul(split, k.idx(tiling.groupsPerSplit));
  Value lastGroup = k.min(k.add(firstGroup, k.idx(tiling.groupsPerSplit)),
                          k.idx(tiling.groups));
  k.loop(firstGroup, lastGroup, 1, [&](Value group) {
    TileColumns columns = tileColumns(k, tiling, group, width);
    k.loop(k.idx(0), block.count, tiling.tileRows, [&](Value tileRow) {
      SmallVector<Value> acc = sums(tileRow, columns);
      for (int64_t i = 0; i < tiling.tileRows; ++i) {
        Value row = k.add(tileRow, k.idx(i));
        ValueRange rowSums =
            ValueRange(acc).slice(i * tiling.vectors, tiling.vectors);
        if (i == 0)
          epilogue(row, columns, rowSums);
        else
          k.ifThen(k.less(row, block.count),
                   [&] { epilogue(row, columns, rowSums); });
      }
    });
  });
}

void mlir::moe::storeSums(KernelBuilder &k, ValueRange sums, Value to,
                          Value row, const TileColumns &columns) {
  for (auto [sum, lane] : llvm::zip_equal(sums, columns.lanes))
    k.store(sum, to, row, lane);
}

SmallVector<int64_t> mlir::moe::panelShape(int64_t n, int64_t k,
                                           int64_t lanes) {
  // An even number, since a register tile reads two panels.
  int64_t panels = llvm::alignTo(llvm::divideCeilSigned(n, lanes), 2);
  return {panels, k, lanes};
}

Value mlir::moe::packTransposed(KernelLowering &lowering, Operation *op,
                                Value weight, Type compute) {
  auto type = cast<MemRefType>(weight.getType());
  int64_t n = type.getDimSize(0), width = type.getDimSize(1);
  int64_t lanes = lanesOf(lowering.target(), compute);
  SmallVector<int64_t> shape = panelShape(n, width, lanes);
  Value panels = lowering.temporary(shape, type.getElementType());
  lowering.launch(
      op,
      {.label = "pack",
       .tiles = shape[0],
       .arguments = {weight, panels},
       .compute = compute,
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        Value from = k.buffer(0), to = k.buffer(1);
        Value zero =
            arith::ConstantOp::create(k, k.getZeroAttr(type.getElementType()));
        k.loop(k.idx(0), k.idx(lanes), 1, [&](Value lane) {
          Value row = k.add(k.mul(k.tile(), k.idx(lanes)), lane);
          auto branch = scf::IfOp::create(k, k.less(row, k.idx(n)),
                                          /*withElseRegion=*/true);
          OpBuilder::InsertionGuard guard(k);
          k.setInsertionPointToStart(branch.thenBlock());
          k.loop(k.idx(0), k.idx(width), 1, [&](Value column) {
            Value element =
                memref::LoadOp::create(k, from, ValueRange{row, column});
            memref::StoreOp::create(k, element, to,
                                    ValueRange{k.tile(), column, lane});
          });
          k.setInsertionPointToStart(branch.elseBlock());
          k.loop(k.idx(0), k.idx(width), 1, [&](Value column) {
            memref::StoreOp::create(k, zero, to,
                                    ValueRange{k.tile(), column, lane});
          });
        });
      });
  return panels;
}

//===----------------------------------------------------------------------===//
// Dense products
//===----------------------------------------------------------------------===//

/// `result[t, n] = sum_k input[t, k] weight[n, k] (+ bias[n])`.
static LogicalResult lowerProduct(Operation *op, Value input, Value weight,
                                  Value bias, Value result,
                                  KernelLowering &lowering) {
  int64_t rows = rowsOf(input), inner = widthOf(input), n = widthOf(result);
  Type compute = computeTypeOf(weight);
  int64_t lanes = lanesOf(lowering.target(), compute);
  MatmulTiling tiling(rows, n, lanes, lowering.target());
  Value panels = packTransposed(lowering, op, lowering.buffer(weight), compute);
  SmallVector<Value> arguments = {lowering.buffer(input), panels,
                                  lowering.result(result)};
  if (bias)
    arguments.push_back(lowering.buffer(bias));
  lowering.launch(
      op,
      {.label = "matmul",
       .tiles = tiling.rowBlocks(rows) * tiling.splits,
       .arguments = arguments,
       .compute = compute},
      [&](KernelBuilder &k) {
        Value x = k.buffer(0, {rows, inner}), w = k.buffer(1);
        Value y = k.buffer(2, {rows, n});
        Value b = bias ? k.buffer(3, {n}) : Value();
        Value splits = k.idx(tiling.splits);
        RowBlock block =
            denseRowBlock(k, k.div(k.tile(), splits), rows, tiling.blockRows);
        Value packed = packRows(k, x, block, tiling.blockRows, inner,
                                [&](Value i) { return k.add(block.first, i); });
        forEachRegisterTile(
            k, tiling, n, block, k.rem(k.tile(), splits),
            [&](Value row, const TileColumns &tile) {
              Value panel = k.mul(tile.group, k.idx(tiling.vectors));
              return k.registerTile(
                  tiling.tileRows, tiling.vectors, k.idx(0), k.idx(inner),
                  [&](Value kk, int64_t i) {
                    return k.loadScalar(packed, {k.add(row, k.idx(i)), kk});
                  },
                  [&](Value kk, int64_t j) {
                    return k.load(w, {k.add(panel, k.idx(j)), kk},
                                  {k.idx(0), Value()});
                  });
            },
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              SmallVector<Value> values(sums);
              if (b)
                for (auto [value, lane] : llvm::zip_equal(values, tile.lanes))
                  value = k.addf(value, k.load(b, ValueRange(), lane));
              storeSums(k, values, y, k.add(block.first, row), tile);
            });
      });
  return success();
}

static LogicalResult lowerLinear(LinearOp op, KernelLowering &lowering) {
  return lowerProduct(op, op.getInput(), op.getWeight(), op.getBias(),
                      op.getResult(), lowering);
}

static LogicalResult lowerRouter(RouterOp op, KernelLowering &lowering) {
  return lowerProduct(op, op.getInput(), op.getWeight(), Value(),
                      op.getLogits(), lowering);
}

/// `dx[t, c] = sum_n dy[t, n] weight[n, c]`: the weight's rows are read as they
/// lie.
static LogicalResult lowerInputGrad(LinearInputGradOp op,
                                    KernelLowering &lowering) {
  int64_t rows = rowsOf(op.getDy()), inner = widthOf(op.getDy());
  int64_t columns = widthOf(op.getDx());
  Type compute = computeTypeOf(op.getWeight());
  MatmulTiling tiling(rows, columns, lanesOf(lowering.target(), compute),
                      lowering.target());
  lowering.launch(
      op,
      {.label = "",
       .tiles = tiling.rowBlocks(rows) * tiling.splits,
       .arguments = {lowering.buffer(op.getDy()),
                     lowering.buffer(op.getWeight()),
                     lowering.result(op.getDx())},
       .compute = compute},
      [&](KernelBuilder &k) {
        Value dy = k.buffer(0, {rows, inner}), w = k.buffer(1);
        Value dx = k.buffer(2, {rows, columns});
        Value splits = k.idx(tiling.splits);
        RowBlock block =
            denseRowBlock(k, k.div(k.tile(), splits), rows, tiling.blockRows);
        Value packed = packRows(k, dy, block, tiling.blockRows, inner,
                                [&](Value i) { return k.add(block.first, i); });
        forEachRegisterTile(
            k, tiling, columns, block, k.rem(k.tile(), splits),
            [&](Value row, const TileColumns &tile) {
              return k.registerTile(
                  tiling.tileRows, tiling.vectors, k.idx(0), k.idx(inner),
                  [&](Value kk, int64_t i) {
                    return k.loadScalar(packed, {k.add(row, k.idx(i)), kk});
                  },
                  [&](Value kk, int64_t j) {
                    return k.load(w, kk, tile.lanes[j]);
                  });
            },
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              storeSums(k, sums, dx, k.add(block.first, row), tile);
            });
      });
  return success();
}

/// `dw[n, c] = sum_t dy[t, n] x[t, c]`.
static LogicalResult lowerWeightGrad(LinearWeightGradOp op,
                                     KernelLowering &lowering) {
  int64_t tokens = rowsOf(op.getDy());
  int64_t n = widthOf(op.getDy()), columns = widthOf(op.getInput());
  Type compute = elementOf(op.getDweight());
  MatmulTiling tiling(n, columns, lanesOf(lowering.target(), compute),
                      lowering.target());
  lowering.launch(
      op,
      {.label = "",
       .tiles = tiling.rowBlocks(n) * tiling.splits,
       .arguments = {lowering.buffer(op.getDy()),
                     lowering.buffer(op.getInput()),
                     lowering.result(op.getDweight())},
       .compute = compute},
      [&](KernelBuilder &k) {
        Value dy = k.buffer(0, {tokens, n}), x = k.buffer(1, {tokens, columns});
        Value dw = k.buffer(2);
        Value splits = k.idx(tiling.splits);
        RowBlock block =
            denseRowBlock(k, k.div(k.tile(), splits), n, tiling.blockRows);
        Value lastRow = k.idx(n - 1);
        forEachRegisterTile(
            k, tiling, columns, block, k.rem(k.tile(), splits),
            [&](Value row, const TileColumns &tile) {
              SmallVector<Value> sources;
              for (int64_t i = 0; i < tiling.tileRows; ++i)
                sources.push_back(
                    k.min(k.add(k.add(block.first, row), k.idx(i)), lastRow));
              return k.registerTile(
                  tiling.tileRows, tiling.vectors, k.idx(0), k.idx(tokens),
                  [&](Value t, int64_t i) {
                    return k.loadScalar(dy, {t, sources[i]});
                  },
                  [&](Value t, int64_t j) {
                    return k.load(x, t, tile.lanes[j]);
                  });
            },
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              storeSums(k, sums, dw, k.add(block.first, row), tile);
            });
      });
  return success();
}

void mlir::moe::addMatmulLowerings(LoweringTable &table) {
  table.add<LinearOp>(lowerLinear);
  table.add<RouterOp>(lowerRouter);
  table.add<LinearInputGradOp>(lowerInputGrad);
  table.add<LinearWeightGradOp>(lowerWeightGrad);
}
