//===-- AttentionGrad.cpp - the gradient of attention ---------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Probabilities are recomputed from the log-sum-exp that the forward saved. One
// launch makes the gradients of blocks of queries, another those of blocks of
// keys and values, so no two work items write to the same memory.
//
//===----------------------------------------------------------------------===//

#include "AttentionBlocks.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

/// Launches `delta[b,h,i] = sum_c out[b,i,h,c] dout[b,i,h,c]`.
static Value launchDelta(AttentionGradOp op, const AttentionShape &shape,
                         KernelLowering &lowering) {
  int64_t rows = shape.batch * shape.length * shape.heads;
  Value delta = lowering.temporary({shape.batch, shape.heads, shape.length},
                                   shape.compute);
  lowering.launchRows(
      op, "delta", shape.compute, rows, shape.width, [&](KernelBuilder &k) {
        Value out = k.buffer(lowering.buffer(op.getOut()), {rows, shape.width});
        Value dout =
            k.buffer(lowering.buffer(op.getDout()), {rows, shape.width});
        Value to = k.buffer(delta);
        k.rowsOfWorkItem([&](Value row) {
          Value sum =
              k.columns(shape.width, k.splat(0.0), [&](Lane lane, Value acc) {
                return k.fma(k.load(out, row, lane), k.load(dout, row, lane),
                             acc);
              });
          Value token = k.div(row, k.idx(shape.heads));
          k.storeScalar(k.sum(sum), to,
                        {k.div(token, k.idx(shape.length)),
                         k.rem(row, k.idx(shape.heads)),
                         k.rem(token, k.idx(shape.length))});
        });
      });
  return delta;
}

namespace {

/// The probabilities of a block of rows, in a scratch buffer, and, in their
/// place, the gradients of the scores. With a soft cap another scratch buffer
/// has the derivatives of the capped scores in the meantime.
struct BlockWeights {
  BlockWeights(KernelBuilder &k, const AttentionShape &shape, int64_t rows,
               int64_t columns)
      : k(k), values(k.scratch({rows, columns}, k.compute())) {
    if (shape.softcap > 0)
      derivatives = k.scratch({rows, columns}, k.compute());
  }

  /// `shift` is the log-sum-exp of the query.
  void storeProbability(const Scoring::Scores &score, Value shift, Value row,
                        Lane lane) {
    Value p = math::ExpOp::create(k, k.subf(score.value, shift));
    k.store(k.select(score.visible, p, k.splat(0.0)), values, row, lane);
    if (derivatives)
      k.store(score.derivative, derivatives, row, lane);
  }
  /// `dp` is the gradient of the probability, `delta` that of the query.
  void storeGradient(Value dp, Value delta, Value row, Lane lane) {
    Value ds = k.mulf(k.load(values, row, lane), k.subf(dp, delta));
    if (derivatives)
      ds = k.mulf(ds, k.load(derivatives, row, lane));
    k.store(ds, values, row, lane);
  }

  KernelBuilder &k;
  Value values, derivatives;
};

} // namespace

static void launchQueryGrad(AttentionGradOp op, const AttentionShape &shape,
                            Value packedKeys, Value packedValues, Value deltas,
                            KernelLowering &lowering) {
  MatmulTiling tiling(shape.length, shape.width, shape.keys, shape.scores);
  int64_t blockRows = tiling.registerTileRows;
  lowering.launch(
      op,
      {.label = "query",
       .workItems = shape.batch * shape.heads *
                    llvm::divideCeilSigned(shape.length, blockRows),
       .compute = shape.compute,
       .flops = 3 * op.getProducts().front().flops},
      [&](KernelBuilder &k) {
        int64_t d = shape.width;
        int64_t queryRows = shape.batch * shape.length * shape.heads;
        int64_t keyRows = shape.batch * shape.keys * shape.kvHeads;
        Value query = k.buffer(lowering.buffer(op.getQuery()), {queryRows, d});
        Value key = k.buffer(lowering.buffer(op.getKey()), {keyRows, d});
        Value dout = k.buffer(lowering.buffer(op.getDout()), {queryRows, d});
        Value keyPanels = k.buffer(packedKeys);
        Value valuePanels = k.buffer(packedValues);
        Value lse = k.buffer(lowering.buffer(op.getLse()));
        Value delta = k.buffer(deltas);
        Value slots = k.buffer(lowering.buffer(op.getSlots()));
        Value dquery =
            k.buffer(lowering.result(op.getDquery()), {queryRows, d});
        Value segments = k.buffer(lowering.buffer(op.getSegments()));

        HeadBlock block(k, shape.heads, shape.length, blockRows);
        Value kvHead = k.div(block.h, k.idx(shape.headsPerKv()));
        Value panelHead = k.add(k.mul(block.b, k.idx(shape.kvHeads)), kvHead);
        auto [numKeys, numTiles] =
            keyBound(k, shape, slots, block, tiling.tileWidth);
        auto source = [&](Value i) {
          return headRow(k, block.b, shape.length, block.row(i), shape.heads,
                         block.h);
        };
        Value packedQuery =
            packRows(k, query, block.rows, blockRows, d, shape.scores, source);
        Value packedDout =
            packRows(k, dout, block.rows, blockRows, d, shape.scores, source);
        BlockWeights weights(k, shape, blockRows,
                             llvm::alignTo(shape.keys, tiling.tileWidth));
        Value columns = k.mul(numTiles, k.idx(tiling.tileWidth));
        zeroRows(k, weights.values, block.rows.count, k.idx(blockRows),
                 columns);
        Scoring scoring(k, shape, block.h, slots, segments);
        forEachScore(
            k, tiling, packedQuery, d, keyPanels, panelHead, k.idx(0), numTiles,
            block.rows.count, [&](Value i, Value column, Value dot) {
              Value row = block.row(i);
              Scoring::Scores score =
                  scoring.ofQuery(dot, block.b, row, column);
              Value shift =
                  k.broadcast(k.loadScalar(lse, {block.b, block.h, row}));
              weights.storeProbability(score, shift, i, {column, Value()});
            });
        forEachScore(k, tiling, packedDout, d, valuePanels, panelHead, k.idx(0),
                     numTiles, block.rows.count,
                     [&](Value i, Value column, Value dp) {
                       Value shift = k.broadcast(k.loadScalar(
                           delta, {block.b, block.h, block.row(i)}));
                       weights.storeGradient(dp, shift, i, {column, Value()});
                     });
        forEachWeightedSum(
            k, d, weights.values, k.idx(0), numKeys, block.rows.count,
            blockRows, key,
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
                          Value packedQueries, Value packedDouts, Value deltas,
                          KernelLowering &lowering) {
  MatmulTiling tiling(shape.keys, shape.width, shape.length, shape.scores);
  int64_t blockRows = tiling.registerTileRows;
  lowering.launch(
      op,
      {.label = "key",
       .workItems = shape.batch * shape.kvHeads *
                    llvm::divideCeilSigned(shape.keys, blockRows),
       .compute = shape.compute,
       .flops = 4 * op.getProducts().front().flops},
      [&](KernelBuilder &k) {
        int64_t d = shape.width;
        int64_t queryRows = shape.batch * shape.length * shape.heads;
        int64_t keyRows = shape.batch * shape.keys * shape.kvHeads;
        Value query = k.buffer(lowering.buffer(op.getQuery()), {queryRows, d});
        Value key = k.buffer(lowering.buffer(op.getKey()), {keyRows, d});
        Value value = k.buffer(lowering.buffer(op.getValue()), {keyRows, d});
        Value dout = k.buffer(lowering.buffer(op.getDout()), {queryRows, d});
        Value queryPanels = k.buffer(packedQueries);
        Value doutPanels = k.buffer(packedDouts);
        Value lse = k.buffer(lowering.buffer(op.getLse()));
        Value delta = k.buffer(deltas);
        Value dkey = k.buffer(lowering.result(op.getDkey()), {keyRows, d});
        Value dvalue = k.buffer(lowering.result(op.getDvalue()), {keyRows, d});
        Value segments = k.buffer(lowering.buffer(op.getSegments()));

        HeadBlock block(k, shape.kvHeads, shape.keys, blockRows);
        auto source = [&](Value i) {
          return headRow(k, block.b, shape.keys, block.row(i), shape.kvHeads,
                         block.h);
        };
        Value packedKey =
            packRows(k, key, block.rows, blockRows, d, shape.scores, source);
        Value packedValue =
            packRows(k, value, block.rows, blockRows, d, shape.scores, source);
        int64_t columns = llvm::alignTo(shape.length, tiling.tileWidth);
        BlockWeights weights(k, shape, blockRows, columns);
        Value sums = k.scratch({2, blockRows, d}, k.compute());
        k.loop(blockRows, [&](Value i) {
          k.zeroRow(weights.values, i, columns);
          k.zeroRow(sums, {k.idx(0), i}, d);
          k.zeroRow(sums, {k.idx(1), i}, d);
        });
        // Queries before the block see none of its keys.
        Value firstTile = k.div(block.rows.first, k.idx(tiling.tileWidth));
        Value firstQuery = k.mul(firstTile, k.idx(tiling.tileWidth));
        auto accumulate = [&](int64_t which, Value i, Lane lane, Value term) {
          Value before = k.load(sums, {k.idx(which), i}, lane);
          k.store(k.addf(before, term), sums, {k.idx(which), i}, lane);
        };

        k.loop(shape.headsPerKv(), [&](Value member) {
          Value head = k.add(k.mul(block.h, k.idx(shape.headsPerKv())), member);
          Value panelHead = k.add(k.mul(block.b, k.idx(shape.heads)), head);
          Scoring scoring(k, shape, head, Value(), segments);
          auto queryRow = [&](Value i) {
            return headRow(k, block.b, shape.length, i, shape.heads, head);
          };
          auto perQuery = [&](Value buffer, Value column) -> Value {
            Value left = k.max(k.sub(k.idx(shape.length), column), k.idx(0));
            return k.load(buffer, {block.b, head}, {column, k.mask(left)});
          };
          forEachScore(k, tiling, packedKey, d, queryPanels, panelHead,
                       firstTile, k.idx(tiling.tilesAcross), block.rows.count,
                       [&](Value i, Value column, Value dot) {
                         Scoring::Scores score =
                             scoring.ofKey(dot, block.b, block.row(i), column);
                         weights.storeProbability(score, perQuery(lse, column),
                                                  i, {column, Value()});
                       });
          forEachWeightedSum(k, d, weights.values, firstQuery,
                             k.idx(shape.length), block.rows.count, blockRows,
                             dout, queryRow,
                             [&](Value i, Lane lane, Value sum) {
                               accumulate(0, i, lane, sum);
                             });
          forEachScore(k, tiling, packedValue, d, doutPanels, panelHead,
                       firstTile, k.idx(tiling.tilesAcross), block.rows.count,
                       [&](Value i, Value column, Value dp) {
                         weights.storeGradient(dp, perQuery(delta, column), i,
                                               {column, Value()});
                       });
          forEachWeightedSum(k, d, weights.values, firstQuery,
                             k.idx(shape.length), block.rows.count, blockRows,
                             query, queryRow,
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

static void lowerAttentionGrad(AttentionGradOp op, KernelLowering &lowering) {
  AttentionShape shape(op, lowering.target());
  auto pack = [&](Value tensor, int64_t length, int64_t heads) {
    return packHeads(lowering, op, lowering.buffer(tensor), length, heads,
                     shape);
  };
  Value delta = launchDelta(op, shape, lowering);
  Value keyPanels = pack(op.getKey(), shape.keys, shape.kvHeads);
  Value valuePanels = pack(op.getValue(), shape.keys, shape.kvHeads);
  launchQueryGrad(op, shape, keyPanels, valuePanels, delta, lowering);
  Value queryPanels = pack(op.getQuery(), shape.length, shape.heads);
  Value doutPanels = pack(op.getDout(), shape.length, shape.heads);
  launchKeyGrad(op, shape, queryPanels, doutPanels, delta, lowering);
}

void mlir::moe::addAttentionGradLowerings(LoweringTable &table) {
  table.add(lowerAttentionGrad);
}
