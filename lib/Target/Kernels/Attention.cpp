//===-- Attention.cpp - attention and its gradient ------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A tile is a block of queries of one head (or, for the gradients of keys and
// values, a block of keys). Its scores lie in scratch memory, so the softmax
// needs no rescaling; both products run on the register tile of every other
// matrix product. Sums over keys go by absolute key index, and what a query
// does not see adds exactly zero: a query's result does not depend on its
// block, which makes decoding with a cache equal to prefill.
//
//===----------------------------------------------------------------------===//

#include "Matmul.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace mlir::moe;

namespace {

using Lane = KernelBuilder::Lane;

/// The numbers of an attention, from moe.attention or its gradient.
struct AttentionShape {
  template <typename OpT>
  AttentionShape(OpT op, const TargetDescription &target)
      : heads(op.getHeads()), kvHeads(op.getKvHeads()),
        scale(op.getScale().convertToDouble()),
        window(op.getWindow().value_or(0)), alibi(op.getAlibi()) {
    auto query = cast<RankedTensorType>(op.getQuery().getType());
    batch = query.getDimSize(0);
    length = query.getDimSize(1);
    width = query.getDimSize(2) / heads;
    keys = cast<RankedTensorType>(op.getKey().getType()).getDimSize(1);
    compute = computeTypeOf(op.getQuery());
    lanes = lanesOf(target, compute);
  }

  int64_t batch, length, keys, heads, kvHeads, width;
  double scale;
  int64_t window;
  bool alibi;
  Type compute;
  int64_t lanes;

  int64_t headsPerKv() const { return heads / kvHeads; }
};

/// ALiBi's slope of every head (Press et al., as BLOOM computes them).
SmallVector<double> alibiSlopes(int64_t heads) {
  int64_t power = int64_t(1) << llvm::Log2_64(heads);
  SmallVector<double> slopes;
  for (int64_t h = 0; h < heads; ++h)
    slopes.push_back(h < power
                         ? std::pow(2.0, -8.0 * double(h + 1) / double(power))
                         : std::pow(2.0, -4.0 * double(2 * (h - power) + 1) /
                                             double(power)));
  return slopes;
}

/// Packs `rows` [batch, length, heads, width] into panels
/// [batch * heads, ceil(length / lanes), width, lanes]: vectors run over rows.
Value packHeads(KernelLowering &lowering, Operation *op, StringRef label,
                Value buffer, int64_t batch, int64_t length, int64_t heads,
                int64_t width, const AttentionShape &shape) {
  SmallVector<int64_t> panels = panelShape(length, width, shape.lanes);
  Type element = cast<MemRefType>(buffer.getType()).getElementType();
  Value packed = lowering.temporary(
      {batch * heads, panels[0], width, shape.lanes}, element);
  lowering.launch(
      op,
      {.label = label,
       .tiles = batch * heads,
       .arguments = {buffer, packed},
       .compute = shape.compute,
       .key = {length, heads, width},
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        Value from = k.buffer(0, {batch, length, heads, width});
        Value to = k.buffer(1);
        Value b = k.div(k.tile(), k.idx(heads));
        Value h = k.rem(k.tile(), k.idx(heads));
        Value zero = arith::ConstantOp::create(k, k.getZeroAttr(element));
        k.loop(k.idx(0), k.idx(panels[0]), 1, [&](Value panel) {
          Value first = k.mul(panel, k.idx(shape.lanes));
          Value count = arith::MaxSIOp::create(
              k, k.min(k.sub(k.idx(length), first), k.idx(shape.lanes)),
              k.idx(0));
          k.loop(k.idx(0), count, 1, [&](Value lane) {
            Value row = k.add(first, lane);
            k.loop(k.idx(0), k.idx(width), 1, [&](Value column) {
              Value element = memref::LoadOp::create(
                  k, from, ValueRange{b, row, h, column});
              memref::StoreOp::create(
                  k, element, to, ValueRange{k.tile(), panel, column, lane});
            });
          });
          k.loop(count, k.idx(shape.lanes), 1, [&](Value lane) {
            k.loop(k.idx(0), k.idx(width), 1, [&](Value column) {
              memref::StoreOp::create(
                  k, zero, to, ValueRange{k.tile(), panel, column, lane});
            });
          });
        });
      });
  return packed;
}

/// Scores and visibility, on vectors of (query, key) pairs.
class Scoring {
public:
  Scoring(KernelBuilder &k, const AttentionShape &shape, Value head)
      : k(k), shape(shape) {
    auto i32 = k.getI32Type();
    intVector = VectorType::get({shape.lanes}, i32);
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
      slope = arith::SelectOp::create(k, isHead, k.scalar(slopes[h]), slope);
    }
  }

  /// first, first + 1, ...
  Value consecutive(Value first) {
    return arith::AddIOp::create(k, spread(first), iota);
  }
  /// An index in every lane.
  Value spread(Value index) {
    Value integer = arith::IndexCastOp::create(k, k.getI32Type(), index);
    return vector::BroadcastOp::create(k, intVector, integer);
  }
  /// Elements [first, first + lanes) of a row of ids, 0 beyond `length`.
  Value loadIds(Value buffer, ValueRange indices, Value first, int64_t length) {
    SmallVector<Value> position(indices);
    position.push_back(first);
    auto maskType = VectorType::get({shape.lanes}, k.getI1Type());
    Value left =
        arith::MaxSIOp::create(k, k.sub(k.idx(length), first), k.idx(0));
    Value mask = vector::CreateMaskOp::create(k, maskType, ValueRange{left});
    Value zero = arith::ConstantOp::create(k, k.getZeroAttr(intVector));
    return vector::MaskedLoadOp::create(k, intVector, buffer, position, mask,
                                        zero);
  }

  /// Whether queries in `slots` see `keys`.
  Value visible(Value slots, Value keys) {
    Value distance = arith::SubIOp::create(k, slots, keys);
    Value zero = arith::ConstantOp::create(k, k.getZeroAttr(intVector));
    Value sees =
        arith::CmpIOp::create(k, arith::CmpIPredicate::sge, distance, zero);
    if (shape.window == 0)
      return sees;
    Value window = arith::ConstantOp::create(
        k,
        DenseElementsAttr::get(intVector, static_cast<int32_t>(shape.window)));
    Value inside =
        arith::CmpIOp::create(k, arith::CmpIPredicate::slt, distance, window);
    return arith::AndIOp::create(k, sees, inside);
  }
  Value sameSegment(Value sees, Value a, Value b) {
    Value same = arith::CmpIOp::create(k, arith::CmpIPredicate::eq, a, b);
    return arith::AndIOp::create(k, sees, same);
  }

  /// The score of a dot product.
  Value score(Value dot, Value slots, Value keys) {
    Value scaled = k.mulf(dot, k.splat(shape.scale));
    if (!slope)
      return scaled;
    Value distance = arith::SubIOp::create(k, slots, keys);
    Value asFloat = arith::SIToFPOp::create(k, k.vectorType(), distance);
    return k.subf(scaled, k.mulf(k.broadcast(slope), asFloat));
  }

private:
  KernelBuilder &k;
  const AttentionShape &shape;
  VectorType intVector;
  Value iota;
  Value slope;
};

/// One block of rows of one head: queries, or keys.
struct HeadBlock {
  HeadBlock(KernelBuilder &k, int64_t heads, int64_t length, int64_t blockRows)
      : k(k), length(length) {
    int64_t blocks = llvm::divideCeilSigned(length, blockRows);
    Value position = k.div(k.tile(), k.idx(blocks));
    b = k.div(position, k.idx(heads));
    h = k.rem(position, k.idx(heads));
    rows = denseRowBlock(k, k.rem(k.tile(), k.idx(blocks)), length, blockRows);
  }
  Value row(Value i) { return k.add(rows.first, i); }

  KernelBuilder &k;
  int64_t length;
  Value b, h;
  RowBlock rows;
};

/// Row `i` of head `h` in a buffer seen as [batch * length * heads, width].
Value headRow(KernelBuilder &k, Value b, int64_t length, Value i, int64_t heads,
              Value h) {
  Value token = k.add(k.mul(b, k.idx(length)), i);
  return k.add(k.mul(token, k.idx(heads)), h);
}

/// Products of a block of rows with panels, a score matrix in scratch memory:
/// for groups of columns [firstGroup, lastGroup), `write` gets each vector.
void forEachScore(
    KernelBuilder &k, const MatmulTiling &tiling, Value packed, int64_t width,
    Value panels, Value head, Value firstGroup, Value lastGroup, Value count,
    function_ref<void(Value row, Value column, Value dot)> write) {
  k.loop(firstGroup, lastGroup, 1, [&](Value group) {
    Value panel = k.mul(group, k.idx(accumulators));
    SmallVector<Value> sums = k.registerTile(
        tiling.tileRows, accumulators, k.idx(0), k.idx(width),
        [&](Value kk, int64_t i) {
          return k.loadScalar(packed, {k.idx(i), kk});
        },
        [&](Value kk, int64_t j) {
          return k.load(panels, {head, k.add(panel, k.idx(j)), kk},
                        {k.idx(0), Value()});
        });
    for (int64_t i = 0; i < tiling.tileRows; ++i) {
      k.ifThen(k.less(k.idx(i), count), [&] {
        for (int64_t j = 0; j < accumulators; ++j) {
          Value column = k.add(k.mul(group, k.idx(tiling.groupWidth)),
                               k.idx(j * k.lanes()));
          write(k.idx(i), column, sums[i * accumulators + j]);
        }
      });
    }
  });
}

/// `result(i)[c] = sum over j in [lo, hi) of weights[i, j] * rows(j)[c]` for
/// every row of the block, `width` columns; `write` gets each vector.
void forEachWeightedSum(KernelBuilder &k, int64_t width, Value weights,
                        Value lo, Value hi, Value count, int64_t blockRows,
                        Value rows, function_ref<Value(Value)> rowOf,
                        function_ref<void(Value, Lane, Value)> write) {
  MatmulTiling tiling(blockRows, width, k.lanes(), k.target());
  tiling.doNotSplit();
  RowBlock block{k.idx(0), count, Value()};
  forEachRegisterTile(
      k, tiling, block, k.idx(0),
      [&](Value row, const TileColumns &tile) {
        return k.registerTile(
            tiling.tileRows, accumulators, lo, hi,
            [&](Value j, int64_t i) {
              return k.loadScalar(weights, {k.add(row, k.idx(i)), j});
            },
            [&](Value j, int64_t v) {
              return k.load(rows, rowOf(j), tile.lanes[v]);
            });
      },
      [&](Value row, const TileColumns &tile, ValueRange sums) {
        for (auto [sum, lane] : llvm::zip_equal(sums, tile.lanes))
          write(row, lane, sum);
      });
}

/// Groups of keys that a block of queries may see: those below the largest
/// slot of the block.
std::pair<Value, Value> keyBound(KernelBuilder &k, const AttentionShape &shape,
                                 Value slots, const HeadBlock &block,
                                 int64_t groupWidth) {
  Value last = k.loop(
      k.idx(0), block.rows.count, 1, k.idx(0), [&](Value i, ValueRange state) {
        Value slot = k.loadIndex(slots, {block.b, k.add(block.rows.first, i)});
        return SmallVector<Value>{arith::MaxSIOp::create(k, slot, state[0])};
      })[0];
  Value keys = k.min(k.add(last, k.idx(1)), k.idx(shape.keys));
  Value groups = k.div(k.add(keys, k.idx(groupWidth - 1)), k.idx(groupWidth));
  return {keys, groups};
}

int64_t scoreColumns(int64_t columns, int64_t groupWidth) {
  return llvm::alignTo(columns, groupWidth);
}

} // namespace

//===----------------------------------------------------------------------===//
// Forward
//===----------------------------------------------------------------------===//

static LogicalResult lowerAttention(AttentionOp op, KernelLowering &lowering) {
  AttentionShape shape(op, lowering.target());
  MatmulTiling tiling(shape.length, shape.keys, shape.lanes, lowering.target());
  int64_t blockRows = tiling.tileRows;
  Value panels =
      packHeads(lowering, op, "pack", lowering.buffer(op.getKey()), shape.batch,
                shape.keys, shape.kvHeads, shape.width, shape);
  SmallVector<Value> arguments = {
      lowering.buffer(op.getQuery()), panels, lowering.buffer(op.getValue()),
      lowering.buffer(op.getSlots()), lowering.result(op.getResult())};
  unsigned segmentsIndex = arguments.size();
  if (op.getSegments())
    arguments.push_back(lowering.buffer(op.getSegments()));
  unsigned lseIndex = arguments.size();
  if (op.getLse())
    arguments.push_back(lowering.result(op.getLse()));

  lowering.launch(
      op,
      {.label = "",
       .tiles = shape.batch * shape.heads *
                llvm::divideCeilSigned(shape.length, blockRows),
       .arguments = arguments,
       .compute = shape.compute,
       .key = {op.getSegments() != nullptr}},
      [&](KernelBuilder &k) {
        int64_t d = shape.width;
        Value query =
            k.buffer(0, {shape.batch * shape.length * shape.heads, d});
        Value keys = k.buffer(1);
        Value value =
            k.buffer(2, {shape.batch * shape.keys * shape.kvHeads, d});
        Value slots = k.buffer(3);
        Value out = k.buffer(4, {shape.batch * shape.length * shape.heads, d});
        Value segments = op.getSegments() ? k.buffer(segmentsIndex) : Value();
        Value lse = op.getLse() ? k.buffer(lseIndex) : Value();

        HeadBlock block(k, shape.heads, shape.length, blockRows);
        Value kvHead = k.div(block.h, k.idx(shape.headsPerKv()));
        Value panelHead = k.add(k.mul(block.b, k.idx(shape.kvHeads)), kvHead);
        auto [numKeys, groups] =
            keyBound(k, shape, slots, block, tiling.groupWidth);
        Value packed =
            packRows(k, query, block.rows, blockRows, d, [&](Value i) {
              return headRow(k, block.b, shape.length, block.row(i),
                             shape.heads, block.h);
            });
        Value scores =
            k.scratch({blockRows, scoreColumns(shape.keys, tiling.groupWidth)},
                      k.compute());
        Value inverse = k.scratch({blockRows}, k.compute());
        Scoring scoring(k, shape, block.h);
        Value hidden = k.splat(-std::numeric_limits<double>::infinity());

        forEachScore(
            k, tiling, packed, d, keys, panelHead, k.idx(0), groups,
            block.rows.count, [&](Value i, Value column, Value dot) {
              Value row = block.row(i);
              Value slot = scoring.spread(k.loadIndex(slots, {block.b, row}));
              Value numbers = scoring.consecutive(column);
              Value sees = scoring.visible(slot, numbers);
              if (segments)
                sees = scoring.sameSegment(
                    sees, scoring.spread(k.loadIndex(segments, {block.b, row})),
                    scoring.loadIds(segments, block.b, column, shape.keys));
              Value score = scoring.score(dot, slot, numbers);
              k.store(arith::SelectOp::create(k, sees, score, hidden), scores,
                      i, {column, Value()});
            });

        Value columns = k.mul(groups, k.idx(tiling.groupWidth));
        k.loop(k.idx(0), block.rows.count, 1, [&](Value i) {
          Value largest = k.maximum(
              k.loop(k.idx(0), columns, k.lanes(), hidden,
                     [&](Value column, ValueRange state) {
                       return SmallVector<Value>{k.maxf(
                           state[0], k.load(scores, i, {column, Value()}))};
                     })[0]);
          Value shift = k.broadcast(largest);
          Value sum = k.sum(
              k.loop(k.idx(0), columns, k.lanes(), k.splat(0.0),
                     [&](Value column, ValueRange state) {
                       Value score = k.load(scores, i, {column, Value()});
                       Value seen = arith::CmpFOp::create(
                           k, arith::CmpFPredicate::OGT, score, hidden);
                       Value p = math::ExpOp::create(k, k.subf(score, shift));
                       p = arith::SelectOp::create(k, seen, p, k.splat(0.0));
                       k.store(p, scores, i, {column, Value()});
                       return SmallVector<Value>{k.addf(state[0], p)};
                     })[0]);
          k.storeScalar(k.divf(k.scalar(1.0), sum), inverse, i);
          if (lse)
            k.storeScalar(k.addf(largest, math::LogOp::create(k, sum)), lse,
                          {block.b, block.h, block.row(i)});
        });
        // Rows beyond the block feed the register tile too: keep them finite.
        k.loop(block.rows.count, k.idx(blockRows), 1, [&](Value i) {
          k.loop(k.idx(0), columns, k.lanes(), [&](Value column) {
            k.store(k.splat(0.0), scores, i, {column, Value()});
          });
        });

        forEachWeightedSum(
            k, d, scores, k.idx(0), numKeys, block.rows.count, blockRows, value,
            [&](Value j) {
              return headRow(k, block.b, shape.keys, j, shape.kvHeads, kvHead);
            },
            [&](Value i, Lane lane, Value sum) {
              Value scale = k.broadcast(k.loadScalar(inverse, i));
              k.store(k.mulf(sum, scale), out,
                      headRow(k, block.b, shape.length, block.row(i),
                              shape.heads, block.h),
                      lane);
            });
      });
  return success();
}

//===----------------------------------------------------------------------===//
// Backward
//===----------------------------------------------------------------------===//

/// `delta[b,h,i] = out . dout` of every head.
static Value launchDelta(AttentionGradOp op, const AttentionShape &shape,
                         KernelLowering &lowering) {
  int64_t rows = shape.batch * shape.length * shape.heads;
  int64_t perTile = rowsPerTile(rows, shape.width);
  Value delta = lowering.temporary({shape.batch, shape.heads, shape.length},
                                   shape.compute);
  lowering.launch(
      op,
      {.label = "delta",
       .tiles = llvm::divideCeilSigned(rows, perTile),
       .arguments = {lowering.buffer(op.getOut()),
                     lowering.buffer(op.getDout()), delta},
       .compute = shape.compute},
      [&](KernelBuilder &k) {
        Value out = k.buffer(0, {rows, shape.width});
        Value dout = k.buffer(1, {rows, shape.width});
        Value to = k.buffer(2);
        k.rowsOfTile(rows, perTile, [&](Value row) {
          Value sum = k.columns(
              shape.width, k.splat(0.0), [&](Lane lane, ValueRange acc) {
                return SmallVector<Value>{k.fma(
                    k.load(out, row, lane), k.load(dout, row, lane), acc[0])};
              })[0];
          Value token = k.div(row, k.idx(shape.heads));
          k.storeScalar(k.sum(sum), to,
                        {k.div(token, k.idx(shape.length)),
                         k.rem(row, k.idx(shape.heads)),
                         k.rem(token, k.idx(shape.length))});
        });
      });
  return delta;
}

static void launchQueryGrad(AttentionGradOp op, const AttentionShape &shape,
                            Value keyPanels, Value valuePanels, Value delta,
                            KernelLowering &lowering) {
  MatmulTiling tiling(shape.length, shape.keys, shape.lanes, lowering.target());
  int64_t blockRows = tiling.tileRows;
  SmallVector<Value> arguments = {lowering.buffer(op.getQuery()),
                                  lowering.buffer(op.getKey()),
                                  lowering.buffer(op.getDout()),
                                  keyPanels,
                                  valuePanels,
                                  lowering.buffer(op.getLse()),
                                  delta,
                                  lowering.buffer(op.getSlots()),
                                  lowering.result(op.getDquery())};
  if (op.getSegments())
    arguments.push_back(lowering.buffer(op.getSegments()));
  lowering.launch(
      op,
      {.label = "query",
       .tiles = shape.batch * shape.heads *
                llvm::divideCeilSigned(shape.length, blockRows),
       .arguments = arguments,
       .compute = shape.compute,
       .key = {op.getSegments() != nullptr}},
      [&](KernelBuilder &k) {
        int64_t d = shape.width;
        int64_t queryRows = shape.batch * shape.length * shape.heads;
        Value query = k.buffer(0, {queryRows, d});
        Value key = k.buffer(1, {shape.batch * shape.keys * shape.kvHeads, d});
        Value dout = k.buffer(2, {queryRows, d});
        Value keyPanels = k.buffer(3), valuePanels = k.buffer(4);
        Value lse = k.buffer(5), delta = k.buffer(6), slots = k.buffer(7);
        Value dquery = k.buffer(8, {queryRows, d});
        Value segments = op.getSegments() ? k.buffer(9) : Value();

        HeadBlock block(k, shape.heads, shape.length, blockRows);
        Value kvHead = k.div(block.h, k.idx(shape.headsPerKv()));
        Value panelHead = k.add(k.mul(block.b, k.idx(shape.kvHeads)), kvHead);
        auto [numKeys, groups] =
            keyBound(k, shape, slots, block, tiling.groupWidth);
        auto source = [&](Value i) {
          return headRow(k, block.b, shape.length, block.row(i), shape.heads,
                         block.h);
        };
        Value packedQuery =
            packRows(k, query, block.rows, blockRows, d, source);
        Value packedDout = packRows(k, dout, block.rows, blockRows, d, source);
        Value weights =
            k.scratch({blockRows, scoreColumns(shape.keys, tiling.groupWidth)},
                      k.compute());
        Value columns = k.mul(groups, k.idx(tiling.groupWidth));
        k.loop(block.rows.count, k.idx(blockRows), 1, [&](Value i) {
          k.loop(k.idx(0), columns, k.lanes(), [&](Value column) {
            k.store(k.splat(0.0), weights, i, {column, Value()});
          });
        });
        Scoring scoring(k, shape, block.h);
        // First the probabilities, then, in their place, the gradients of the
        // scores.
        forEachScore(
            k, tiling, packedQuery, d, keyPanels, panelHead, k.idx(0), groups,
            block.rows.count, [&](Value i, Value column, Value dot) {
              Value row = block.row(i);
              Value slot = scoring.spread(k.loadIndex(slots, {block.b, row}));
              Value numbers = scoring.consecutive(column);
              Value sees = scoring.visible(slot, numbers);
              if (segments)
                sees = scoring.sameSegment(
                    sees, scoring.spread(k.loadIndex(segments, {block.b, row})),
                    scoring.loadIds(segments, block.b, column, shape.keys));
              Value shift =
                  k.broadcast(k.loadScalar(lse, {block.b, block.h, row}));
              Value p = math::ExpOp::create(
                  k, k.subf(scoring.score(dot, slot, numbers), shift));
              k.store(arith::SelectOp::create(k, sees, p, k.splat(0.0)),
                      weights, i, {column, Value()});
            });
        forEachScore(k, tiling, packedDout, d, valuePanels, panelHead, k.idx(0),
                     groups, block.rows.count,
                     [&](Value i, Value column, Value dp) {
                       Value p = k.load(weights, i, {column, Value()});
                       Value shift = k.broadcast(k.loadScalar(
                           delta, {block.b, block.h, block.row(i)}));
                       k.store(k.mulf(p, k.subf(dp, shift)), weights, i,
                               {column, Value()});
                     });
        forEachWeightedSum(
            k, d, weights, k.idx(0), numKeys, block.rows.count, blockRows, key,
            [&](Value j) {
              return headRow(k, block.b, shape.keys, j, shape.kvHeads, kvHead);
            },
            [&](Value i, Lane lane, Value sum) {
              k.store(k.mulf(sum, k.splat(shape.scale)), dquery, source(i),
                      lane);
            });
      });
}

static void launchKeyGrad(AttentionGradOp op, const AttentionShape &shape,
                          Value queryPanels, Value doutPanels, Value delta,
                          KernelLowering &lowering) {
  MatmulTiling tiling(shape.keys, shape.length, shape.lanes, lowering.target());
  int64_t blockRows = tiling.tileRows;
  SmallVector<Value> arguments = {lowering.buffer(op.getQuery()),
                                  lowering.buffer(op.getKey()),
                                  lowering.buffer(op.getValue()),
                                  lowering.buffer(op.getDout()),
                                  queryPanels,
                                  doutPanels,
                                  lowering.buffer(op.getLse()),
                                  delta,
                                  lowering.result(op.getDkey()),
                                  lowering.result(op.getDvalue())};
  if (op.getSegments())
    arguments.push_back(lowering.buffer(op.getSegments()));
  lowering.launch(
      op,
      {.label = "key",
       .tiles = shape.batch * shape.kvHeads *
                llvm::divideCeilSigned(shape.keys, blockRows),
       .arguments = arguments,
       .compute = shape.compute,
       .key = {op.getSegments() != nullptr}},
      [&](KernelBuilder &k) {
        int64_t d = shape.width;
        int64_t queryRows = shape.batch * shape.length * shape.heads;
        int64_t keyRows = shape.batch * shape.keys * shape.kvHeads;
        Value query = k.buffer(0, {queryRows, d});
        Value key = k.buffer(1, {keyRows, d});
        Value value = k.buffer(2, {keyRows, d});
        Value dout = k.buffer(3, {queryRows, d});
        Value queryPanels = k.buffer(4), doutPanels = k.buffer(5);
        Value lse = k.buffer(6), delta = k.buffer(7);
        Value dkey = k.buffer(8, {keyRows, d});
        Value dvalue = k.buffer(9, {keyRows, d});
        Value segments = op.getSegments() ? k.buffer(10) : Value();

        HeadBlock block(k, shape.kvHeads, shape.keys, blockRows);
        auto source = [&](Value i) {
          return headRow(k, block.b, shape.keys, block.row(i), shape.kvHeads,
                         block.h);
        };
        Value packedKey = packRows(k, key, block.rows, blockRows, d, source);
        Value packedValue =
            packRows(k, value, block.rows, blockRows, d, source);
        int64_t columns = scoreColumns(shape.length, tiling.groupWidth);
        Value weights = k.scratch({blockRows, columns}, k.compute());
        Value sums = k.scratch({2, blockRows, d}, k.compute());
        auto zero = [&](Value buffer, ValueRange indices, int64_t width) {
          k.columns(width, [&](Lane lane) {
            k.store(k.splat(0.0), buffer, indices, lane);
          });
        };
        k.loop(k.idx(0), k.idx(blockRows), 1, [&](Value i) {
          zero(weights, i, columns);
          zero(sums, {k.idx(0), i}, d);
          zero(sums, {k.idx(1), i}, d);
        });
        // Queries before the block see none of its keys.
        Value firstGroup = k.div(block.rows.first, k.idx(tiling.groupWidth));
        Value firstQuery = k.mul(firstGroup, k.idx(tiling.groupWidth));
        auto accumulate = [&](int64_t which, Value i, Lane lane, Value term) {
          Value before = k.load(sums, {k.idx(which), i}, lane);
          k.store(k.addf(before, term), sums, {k.idx(which), i}, lane);
        };

        k.loop(k.idx(0), k.idx(shape.headsPerKv()), 1, [&](Value member) {
          Value head = k.add(k.mul(block.h, k.idx(shape.headsPerKv())), member);
          Value panelHead = k.add(k.mul(block.b, k.idx(shape.heads)), head);
          Scoring scoring(k, shape, head);
          auto queryRow = [&](Value i) {
            return headRow(k, block.b, shape.length, i, shape.heads, head);
          };
          auto perQuery = [&](Value buffer, Value column) -> Value {
            auto mask = VectorType::get({k.lanes()}, k.getI1Type());
            Value left = arith::MaxSIOp::create(
                k, k.sub(k.idx(shape.length), column), k.idx(0));
            return k.load(buffer, {block.b, head},
                          {column, vector::CreateMaskOp::create(
                                       k, mask, ValueRange{left})});
          };
          forEachScore(
              k, tiling, packedKey, d, queryPanels, panelHead, firstGroup,
              k.idx(tiling.groups), block.rows.count,
              [&](Value i, Value column, Value dot) {
                Value number = scoring.spread(block.row(i));
                // Slots of a step are 0, 1, 2, ...
                Value slots = scoring.consecutive(column);
                Value sees = scoring.visible(slots, number);
                if (segments)
                  sees = scoring.sameSegment(
                      sees,
                      scoring.spread(
                          k.loadIndex(segments, {block.b, block.row(i)})),
                      scoring.loadIds(segments, block.b, column, shape.length));
                Value p = math::ExpOp::create(
                    k, k.subf(scoring.score(dot, slots, number),
                              perQuery(lse, column)));
                k.store(arith::SelectOp::create(k, sees, p, k.splat(0.0)),
                        weights, i, {column, Value()});
              });
          forEachWeightedSum(k, d, weights, firstQuery, k.idx(shape.length),
                             block.rows.count, blockRows, dout, queryRow,
                             [&](Value i, Lane lane, Value sum) {
                               accumulate(0, i, lane, sum);
                             });
          forEachScore(k, tiling, packedValue, d, doutPanels, panelHead,
                       firstGroup, k.idx(tiling.groups), block.rows.count,
                       [&](Value i, Value column, Value dp) {
                         Value p = k.load(weights, i, {column, Value()});
                         k.store(k.mulf(p, k.subf(dp, perQuery(delta, column))),
                                 weights, i, {column, Value()});
                       });
          forEachWeightedSum(k, d, weights, firstQuery, k.idx(shape.length),
                             block.rows.count, blockRows, query, queryRow,
                             [&](Value i, Lane lane, Value sum) {
                               accumulate(1, i, lane, sum);
                             });
        });
        k.loop(k.idx(0), block.rows.count, 1, [&](Value i) {
          k.columns(d, [&](Lane lane) {
            k.store(k.load(sums, {k.idx(0), i}, lane), dvalue, source(i), lane);
            Value sum = k.load(sums, {k.idx(1), i}, lane);
            k.store(k.mulf(sum, k.splat(shape.scale)), dkey, source(i), lane);
          });
        });
      });
}

static LogicalResult lowerAttentionGrad(AttentionGradOp op,
                                        KernelLowering &lowering) {
  AttentionShape shape(op, lowering.target());
  auto pack = [&](Value tensor, int64_t length, int64_t heads) {
    return packHeads(lowering, op, "pack", lowering.buffer(tensor), shape.batch,
                     length, heads, shape.width, shape);
  };
  Value delta = launchDelta(op, shape, lowering);
  Value keyPanels = pack(op.getKey(), shape.keys, shape.kvHeads);
  Value valuePanels = pack(op.getValue(), shape.keys, shape.kvHeads);
  launchQueryGrad(op, shape, keyPanels, valuePanels, delta, lowering);
  Value queryPanels = pack(op.getQuery(), shape.length, shape.heads);
  Value doutPanels = pack(op.getDout(), shape.length, shape.heads);
  launchKeyGrad(op, shape, queryPanels, doutPanels, delta, lowering);
  return success();
}

void mlir::moe::addAttentionLowerings(LoweringTable &table) {
  table.add<AttentionOp>(lowerAttention);
  table.add<AttentionGradOp>(lowerAttentionGrad);
}
