//===-- Attention.cpp - attention -----------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AttentionBlocks.h"

#include "mlir/Dialect/Math/IR/Math.h"

#include <limits>
#include <optional>

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

/// How many heads with the same keys a work item takes: all of them, so that
/// it reads and packs the keys once, or fewer if work items would be too few.
static int64_t sharedHeads(const AttentionShape &shape) {
  constexpr int64_t wantedItems = 4;
  // A work item has one slope of ALiBi's, and each head has its own.
  if (shape.alibi)
    return 1;
  int64_t shared = shape.headsPerKv();
  while (shared > 1 && (shape.headsPerKv() % shared != 0 ||
                        shape.batch * shape.heads / shared < wantedItems))
    --shared;
  return shared;
}

static void lowerAttention(AttentionOp op, KernelLowering &lowering) {
  AttentionShape shape(op, lowering.target());
  // A few queries with a cache do not pay for packing all of it: work items
  // pack the keys that they see.
  bool packsHeads = shape.keys == shape.length ||
                    shape.length > lowering.target().registerTileRows();
  int64_t shared = packsHeads ? 1 : sharedHeads(shape);
  MatmulTiling tiling(shape.length * shared, shape.width, shape.keys,
                      shape.scores);
  int64_t blockRows = tiling.registerTileRows;
  Value keyBuffer = lowering.buffer(op.getKey());
  if (packsHeads)
    keyBuffer =
        packHeads(lowering, op, keyBuffer, shape.keys, shape.kvHeads, shape);

  lowering.launch(
      op,
      {.workItems = shape.batch * shape.heads / shared *
                    HeadBlock::itemsOfHead(shape.length, blockRows, shared),
       .compute = shape.compute,
       .flops = flopsOf(op)},
      [&](KernelBuilder &k) {
        int64_t d = shape.width;
        int64_t queryRows = shape.batch * shape.length * shape.heads;
        int64_t keyRows = shape.batch * shape.keys * shape.kvHeads;
        Value query = k.buffer(lowering.buffer(op.getQuery()), {queryRows, d});
        Value keys = packsHeads ? k.buffer(keyBuffer)
                                : k.buffer(keyBuffer, {keyRows, d});
        Value value = k.buffer(lowering.buffer(op.getValue()), {keyRows, d});
        Value slots = k.buffer(lowering.buffer(op.getSlots()));
        Value out = k.buffer(lowering.result(op.getResult()), {queryRows, d});
        Value segments = k.buffer(lowering.buffer(op.getSegments()));
        Value lse = k.buffer(lowering.result(op.getLse()));

        HeadBlock block(k, shape.heads, shape.length, blockRows, shared);
        Value kvHead = k.div(block.h, k.idx(shape.headsPerKv()));
        Value panelHead = k.add(k.mul(block.b, k.idx(shape.kvHeads)), kvHead);
        auto [numKeys, numTiles] =
            keyBound(k, shape, slots, block, tiling.tileWidth);
        Value packed = packRows(
            k, query, block.rows, blockRows, d, shape.scores, [&](Value i) {
              return headRow(k, block.b, shape.length, block.row(i),
                             shape.heads, block.head(i));
            });
        Value scores = k.scratch(
            {blockRows, int64_t(llvm::alignTo(shape.keys, tiling.tileWidth))},
            k.compute());
        Value inverse = k.scratch({blockRows}, k.compute());
        Scoring scoring(k, shape, block.h, slots, segments);
        Value hidden = k.splat(-std::numeric_limits<double>::infinity());

        std::optional<HeadPanels> headPanels;
        if (!packsHeads)
          headPanels.emplace(k, keys, block.b, kvHead, shape);
        auto panelsOf = [&](Value number) -> PanelPosition {
          Value first = k.mul(number, k.idx(accumulators));
          if (headPanels)
            return {headPanels->pack(first), {}, k.idx(0)};
          return {keys, {panelHead}, first};
        };
        forEachScore(k, tiling, packed, d, panelsOf, k.idx(0), numTiles,
                     block.rows.count, [&](Value i, Value column, Value dot) {
                       Scoring::Scores score =
                           scoring.ofQuery(dot, block.b, block.row(i), column);
                       k.store(k.select(score.visible, score.value, hidden),
                               scores, i, {column, Value()});
                     });

        Value columns = k.mul(numTiles, k.idx(tiling.tileWidth));
        k.loop(k.idx(0), block.rows.count, 1, [&](Value i) {
          Value largest = k.maximum(k.loop(
              k.idx(0), columns, k.lanes(), hidden,
              [&](Value column, Value state) {
                return k.maxf(state, k.load(scores, i, {column, Value()}));
              }));
          Value shift = k.broadcast(largest);
          Value sum =
              k.sum(k.loop(k.idx(0), columns, k.lanes(), k.splat(0.0),
                           [&](Value column, Value state) {
                             Value score = k.load(scores, i, {column, Value()});
                             Value seen = arith::CmpFOp::create(
                                 k, arith::CmpFPredicate::OGT, score, hidden);
                             Value p =
                                 math::ExpOp::create(k, k.subf(score, shift));
                             p = k.select(seen, p, k.splat(0.0));
                             k.store(p, scores, i, {column, Value()});
                             return k.addf(state, p);
                           }));
          k.storeScalar(k.divf(k.scalar(1.0), sum), inverse, i);
          if (lse)
            k.storeScalar(k.addf(largest, math::LogOp::create(k, sum)), lse,
                          {block.b, block.head(i), block.row(i)});
        });
        // The register tile reads the rows beyond the block, too.
        zeroRows(k, scores, block.rows.count, k.idx(blockRows), columns);

        forEachWeightedSum(
            k, d, scores, k.idx(0), numKeys, block.rows.count, blockRows, value,
            [&](Value j) {
              return headRow(k, block.b, shape.keys, j, shape.kvHeads, kvHead);
            },
            [&](Value i, Lane lane, Value sum) {
              Value scale = k.broadcast(k.loadScalar(inverse, i));
              k.store(k.mulf(sum, scale), out,
                      headRow(k, block.b, shape.length, block.row(i),
                              shape.heads, block.head(i)),
                      lane);
            });
      });
}

void mlir::moe::addAttentionLowerings(LoweringTable &table) {
  table.add(lowerAttention);
}
