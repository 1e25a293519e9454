//===-- AttentionBlocks.cpp - what attention kernels share ----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AttentionBlocks.h"

#include "Kernels/Activation.h"

#include "mlir/Dialect/Vector/IR/VectorOps.h"

#include <bit>
#include <cmath>

using namespace mlir;
using namespace mlir::moe;

/// ALiBi's slope of every head (Press et al., as BLOOM computes them).
static SmallVector<double> alibiSlopes(int64_t heads) {
  auto power = int64_t(std::bit_floor(uint64_t(heads)));
  SmallVector<double> slopes;
  for (int64_t h = 0; h < heads; ++h)
    slopes.push_back(h < power
                         ? std::pow(2.0, -8.0 * double(h + 1) / double(power))
                         : std::pow(2.0, -4.0 * double(2 * (h - power) + 1) /
                                             double(power)));
  return slopes;
}

/// Packs rows `panel * lanes` and on of head `h` of row `b` of the batch.
static void packHeadPanel(KernelBuilder &k, Value from, Value b, Value h,
                          Value panel, int64_t length, int64_t heads,
                          int64_t width, Value to, ValueRange position) {
  Value first = k.mul(panel, k.idx(k.lanes()));
  Value count = k.max(k.sub(k.idx(length), first), k.idx(0));
  int64_t steps = cast<MemRefType>(to.getType()).getShape().end()[-2];
  packPanel(k,
            {.from = from,
             .row =
                 [&](Value i) {
                   Value row = k.min(k.add(first, i), k.idx(length - 1));
                   return headRow(k, b, length, row, heads, h);
                 },
             .count = count,
             .width = width},
            k.idx(0), k.idx(width), steps, to, position);
}

Value mlir::moe::packHeads(KernelLowering &lowering, Operation *op, Value rows,
                           int64_t length, int64_t heads,
                           const AttentionShape &shape) {
  int64_t width = shape.width;
  SmallVector<int64_t> panels = panelShape(length, width, shape.scores);
  Value packed = lowering.temporary(
      {shape.batch * heads, panels[0], panels[1], panels[2]}, elementOf(rows));
  lowering.launch(op,
                  {.label = "pack",
                   .workItems = shape.batch * heads * panels[0],
                   .compute = shape.compute},
                  [&](KernelBuilder &k) {
                    Value from =
                        k.buffer(rows, {shape.batch * length * heads, width});
                    Value to = k.buffer(packed);
                    Value head = k.div(k.workItem(), k.idx(panels[0]));
                    Value panel = k.rem(k.workItem(), k.idx(panels[0]));
                    Value b = k.div(head, k.idx(heads)),
                          h = k.rem(head, k.idx(heads));
                    packHeadPanel(k, from, b, h, panel, length, heads, width,
                                  to, {head, panel});
                  });
  return packed;
}

Scoring::Scoring(KernelBuilder &k, const AttentionShape &shape, Value head,
                 Value slots, Value segments)
    : k(k), shape(shape), slots(slots), segments(segments),
      intVector(VectorType::get({shape.lanes}, k.getI32Type())) {
  SmallVector<int32_t> numbers(shape.lanes);
  for (auto [i, number] : llvm::enumerate(numbers))
    number = i;
  iota = arith::ConstantOp::create(
      k, DenseElementsAttr::get(intVector, ArrayRef<int32_t>(numbers)));
  if (!shape.alibi)
    return;
  // A chain of selects over the few heads; hoisted out of all loops.
  SmallVector<double> slopes = alibiSlopes(shape.heads);
  slope = k.scalar(slopes[0]);
  for (int64_t h = 1; h < shape.heads; ++h) {
    Value isHead =
        arith::CmpIOp::create(k, arith::CmpIPredicate::eq, head, k.idx(h));
    slope = k.select(isHead, k.scalar(slopes[h]), slope);
  }
}

Value Scoring::zero() {
  return arith::ConstantOp::create(k, k.getZeroAttr(intVector));
}

/// An index in every lane.
Value Scoring::spread(Value index) {
  Value integer = arith::IndexCastOp::create(k, k.getI32Type(), index);
  return vector::BroadcastOp::create(k, intVector, integer);
}

/// first, first + 1, ...
Value Scoring::consecutive(Value first) {
  return arith::AddIOp::create(k, spread(first), iota);
}

/// Hides those of [first, first + lanes) in row `b`, of `length` tokens, that
/// are not in the segment of `token`.
Scoring::Scores Scoring::withinSegment(Scores scores, Value b, Value token,
                                       Value first, int64_t length) {
  if (!segments)
    return scores;
  Value own = spread(k.loadIndex(segments, {b, token}));
  Value left = k.max(k.sub(k.idx(length), first), k.idx(0));
  Value others =
      k.loadElements(segments, b, {first, k.mask(left)}, shape.lanes);
  Value same = arith::CmpIOp::create(k, arith::CmpIPredicate::eq, own, others);
  scores.visible = arith::AndIOp::create(k, scores.visible, same);
  return scores;
}

Scoring::Scores Scoring::score(Value dot, Value querySlots, Value keys) {
  Value distance = arith::SubIOp::create(k, querySlots, keys);
  Value visible =
      arith::CmpIOp::create(k, arith::CmpIPredicate::sge, distance, zero());
  if (shape.window) {
    Value window = arith::ConstantOp::create(
        k,
        DenseElementsAttr::get(intVector, static_cast<int32_t>(shape.window)));
    Value inside =
        arith::CmpIOp::create(k, arith::CmpIPredicate::slt, distance, window);
    visible = arith::AndIOp::create(k, visible, inside);
  }
  Value value, derivative;
  if (shape.softcap > 0) {
    Value tanh = emitTanh(k, k.mulf(dot, k.splat(shape.scale / shape.softcap)));
    value = k.mulf(tanh, k.splat(shape.softcap));
    derivative = k.subf(k.splat(1.0), k.mulf(tanh, tanh));
  } else {
    value = k.mulf(dot, k.splat(shape.scale));
  }
  if (slope) {
    Value asFloat = arith::SIToFPOp::create(k, k.vectorType(), distance);
    value = k.subf(value, k.mulf(k.broadcast(slope), asFloat));
  }
  return {value, visible, derivative};
}

Scoring::Scores Scoring::ofQuery(Value dot, Value b, Value query,
                                 Value firstKey) {
  Scores scores =
      score(dot, spread(k.loadIndex(slots, {b, query})), consecutive(firstKey));
  return withinSegment(scores, b, query, firstKey, shape.keys);
}

Scoring::Scores Scoring::ofKey(Value dot, Value b, Value key,
                               Value firstQuery) {
  Scores scores = score(dot, consecutive(firstQuery), spread(key));
  return withinSegment(scores, b, key, firstQuery, shape.length);
}

Value mlir::moe::headRow(KernelBuilder &k, Value b, int64_t length, Value i,
                         int64_t heads, Value h) {
  Value token = k.add(k.mul(b, k.idx(length)), i);
  return k.add(k.mul(token, k.idx(heads)), h);
}

HeadPanels::HeadPanels(KernelBuilder &k, Value rows, Value b, Value h,
                       const AttentionShape &shape)
    : k(k), rows(rows), b(b), h(h), shape(shape) {
  scratch = k.scratch(
      panelShape(accumulators * shape.lanes, shape.width, shape.scores),
      elementOf(rows));
}

Value HeadPanels::pack(Value firstPanel) {
  for (int64_t j = 0; j < accumulators; ++j)
    packHeadPanel(k, rows, b, h, k.add(firstPanel, k.idx(j)), shape.keys,
                  shape.kvHeads, shape.width, scratch, k.idx(j));
  return scratch;
}

void mlir::moe::forEachScore(
    KernelBuilder &k, const MatmulTiling &tiling, Value packed, int64_t width,
    function_ref<PanelPosition(Value)> panelsOf, Value firstTile,
    Value lastTile, Value count,
    function_ref<void(Value row, Value column, Value dot)> write) {
  k.loop(firstTile, lastTile, 1, [&](Value number) {
    PanelPosition position = panelsOf(number);
    SmallVector<Value> sums =
        timesPanels(k, tiling, packed, k.idx(0), width, [&](int64_t j) {
          SmallVector<Value> panel = position.leading;
          panel.push_back(k.add(position.first, k.idx(j)));
          return Panel{position.panels, panel};
        });
    for (int64_t i = 0; i < tiling.registerTileRows; ++i) {
      k.ifThen(k.less(k.idx(i), count), [&] {
        for (int64_t j = 0; j < accumulators; ++j) {
          Value column = k.add(k.mul(number, k.idx(tiling.tileWidth)),
                               k.idx(j * k.lanes()));
          write(k.idx(i), column, sums[i * accumulators + j]);
        }
      });
    }
  });
}

void mlir::moe::forEachScore(
    KernelBuilder &k, const MatmulTiling &tiling, Value packed, int64_t width,
    Value panels, Value head, Value firstTile, Value lastTile, Value count,
    function_ref<void(Value row, Value column, Value dot)> write) {
  forEachScore(
      k, tiling, packed, width,
      [&](Value number) -> PanelPosition {
        return {panels, {head}, k.mul(number, k.idx(accumulators))};
      },
      firstTile, lastTile, count, write);
}

void mlir::moe::forEachWeightedSum(
    KernelBuilder &k, int64_t width, Value weights, Value lo, Value hi,
    Value count, int64_t blockRows, Value rows,
    function_ref<Value(Value)> rowOf,
    function_ref<void(Value, KernelBuilder::Lane, Value)> write) {
  ProductTypes types(k.target(), k.compute(), k.compute());
  int64_t inner = cast<MemRefType>(weights.getType()).getShape().back();
  MatmulTiling tiling(blockRows, inner, width, types);
  tiling.doNotSplit();
  RowBlock block{k.idx(0), count, Value()};
  forEachRegisterTile(
      k, tiling, block, k.idx(0),
      [&](Value row, const RegisterTileColumns &tile) {
        return registerTile(
            k, tiling.registerTileRows, accumulators, lo, hi,
            [&](Value j, int64_t i) {
              return k.loadScalar(weights, {k.add(row, k.idx(i)), j});
            },
            [&](Value j, int64_t v) {
              return k.load(rows, rowOf(j), tile.lanes[v]);
            });
      },
      [&](Value row, const RegisterTileColumns &tile, ValueRange sums) {
        for (auto [sum, lane] : llvm::zip_equal(sums, tile.lanes))
          write(row, lane, sum);
      });
}

std::pair<Value, Value> mlir::moe::keyBound(KernelBuilder &k,
                                            const AttentionShape &shape,
                                            Value slots, HeadBlock &block,
                                            int64_t tileWidth) {
  Value last = k.loop(
      k.idx(0), block.rows.count, 1, k.idx(0), [&](Value i, Value state) {
        Value slot = k.loadIndex(slots, {block.b, block.row(i)});
        return k.max(slot, state);
      });
  Value keys = k.min(k.add(last, k.idx(1)), k.idx(shape.keys));
  Value numTiles = k.div(k.add(keys, k.idx(tileWidth - 1)), k.idx(tileWidth));
  return {keys, numTiles};
}

void mlir::moe::zeroRows(KernelBuilder &k, Value scratch, Value lo, Value hi,
                         Value columns) {
  k.loop(lo, hi, 1, [&](Value i) {
    k.loop(k.idx(0), columns, k.lanes(), [&](Value column) {
      k.store(k.splat(0.0), scratch, i, {column, Value()});
    });
  });
}
