//===-- AttentionBlocks.h - what attention kernels share --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A work item has a block of queries of one head (or, for the gradients of keys
// and values, a block of keys). All of its scores are in a scratch buffer, so
// the softmax needs no rescaling. Both products use the register tile of every
// other matrix product. Sums run over keys in the order of their indices, and a
// key that a query does not see adds exactly zero: a query's result does not
// depend on its block, so decoding with a cache gives the bits of prefill.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_CPU_KERNELS_ATTENTIONBLOCKS_H
#define MOE_TARGET_CPU_KERNELS_ATTENTIONBLOCKS_H

#include "Matmul.h"

namespace mlir::moe {

/// The numbers of an attention, from moe.attention or its gradient.
struct AttentionShape {
  template <typename OpT>
  AttentionShape(OpT op, const TargetDescription &target)
      : heads(op.getHeads()), kvHeads(op.getKvHeads()),
        scale(op.getScale().convertToDouble()),
        window(op.getWindow().value_or(0)), alibi(op.getAlibi()),
        softcap(op.getSoftcap() ? op.getSoftcap()->convertToDouble() : 0),
        scores(ProductTypes(target, elementOf(op.getQuery()),
                            elementOf(op.getKey()))
                   .withoutAmx()),
        compute(scores.compute), lanes(scores.lanes) {
    auto query = cast<RankedTensorType>(op.getQuery().getType());
    batch = query.getDimSize(0);
    length = query.getDimSize(1);
    width = query.getDimSize(2) / heads;
    keys = cast<RankedTensorType>(op.getKey().getType()).getDimSize(1);
  }

  int64_t batch, length, keys, heads, kvHeads, width;
  double scale;
  int64_t window;
  bool alibi;
  double softcap; ///< 0 without one
  /// The types of the products that sum over the width of a head: scores and
  /// their gradients. Sums over keys multiply probabilities in the type of
  /// computation. Neither uses AMX: heads are narrow and blocks small.
  ProductTypes scores;
  Type compute;
  int64_t lanes;

  int64_t headsPerKv() const { return heads / kvHeads; }
};

/// Packs `rows` [batch, length, heads, width] into panels
/// [batch * heads, ceil(length / lanes), inner steps of the width, lanes].
/// Their columns are rows.
Value packHeads(KernelLowering &lowering, Operation *op, Value rows,
                int64_t length, int64_t heads, const AttentionShape &shape);

/// In a kernel: the panels of one head, packed at use. Packing a whole cache
/// for few queries would cost more than the queries.
class HeadPanels {
public:
  /// Keys are rows of head `h` of row `b` in `rows`, seen as
  /// [batch * keys * kvHeads, width].
  HeadPanels(KernelBuilder &k, Value rows, Value b, Value h,
             const AttentionShape &shape);
  /// Packs the panels of a register tile and returns them.
  Value pack(Value firstPanel);

private:
  KernelBuilder &k;
  Value rows, b, h;
  const AttentionShape &shape;
  Value scratch;
};

/// Scores and visibility of each (query, key), a vector at a time.
class Scoring {
public:
  /// `slots` [B, S] and `segments` [B, S], or null, of the batch; the head
  /// number decides ALiBi's slope.
  Scoring(KernelBuilder &k, const AttentionShape &shape, Value head,
          Value slots, Value segments);

  struct Scores {
    Value value;
    Value visible; ///< a mask
    /// The derivative with respect to the score before its soft cap, null
    /// without one.
    Value derivative;
  };
  /// Query `query` of row `b` of the batch, and the keys from `firstKey` on.
  Scores ofQuery(Value dot, Value b, Value query, Value firstKey);
  /// Key `key`, and the queries from `firstQuery` on, whose slots are their
  /// numbers since training has no cache.
  Scores ofKey(Value dot, Value b, Value key, Value firstQuery);

private:
  Scores score(Value dot, Value slots, Value keys);
  Value spread(Value index);
  Value consecutive(Value first);
  Scores withinSegment(Scores scores, Value b, Value token, Value first,
                       int64_t length);
  Value zero();

  KernelBuilder &k;
  const AttentionShape &shape;
  Value slots, segments;
  VectorType intVector;
  Value iota;
  Value slope;
};

/// The block of queries or keys of a work item. It is of one head, or of
/// `shared` heads that have the same keys: then its rows are those heads of one
/// query, then of the next.
struct HeadBlock {
  HeadBlock(KernelBuilder &k, int64_t heads, int64_t length, int64_t blockRows,
            int64_t shared = 1)
      : k(k), length(length), shared(shared) {
    int64_t blocks = itemsOfHead(length, blockRows, shared);
    Value position = k.div(k.workItem(), k.idx(blocks));
    b = k.div(position, k.idx(heads / shared));
    h = k.mul(k.rem(position, k.idx(heads / shared)), k.idx(shared));
    rows = denseRowBlock(k, k.rem(k.workItem(), k.idx(blocks)), length * shared,
                         blockRows);
  }
  static int64_t itemsOfHead(int64_t length, int64_t blockRows,
                             int64_t shared) {
    return llvm::divideCeilSigned(length * shared, blockRows);
  }
  /// The query or key, and the head, of row `i`.
  Value row(Value i) {
    Value number = k.add(rows.first, i);
    return shared == 1 ? number : k.div(number, k.idx(shared));
  }
  Value head(Value i) {
    return shared == 1 ? h
                       : k.add(h, k.rem(k.add(rows.first, i), k.idx(shared)));
  }

  KernelBuilder &k;
  int64_t length, shared;
  /// The row of the batch, and the first of the heads.
  Value b, h;
  RowBlock rows;
};

/// Row `i` of head `h` in a buffer seen as [batch * length * heads, width].
Value headRow(KernelBuilder &k, Value b, int64_t length, Value i, int64_t heads,
              Value h);

/// Where the panels of a register tile are: a buffer, and the indices of the
/// first panel.
struct PanelPosition {
  Value panels;
  SmallVector<Value> leading;
  Value first;
};
/// The products of a block of rows and the register tiles [firstTile, lastTile)
/// across; `write` gets each vector. `panelsOf` gives the panels of a tile.
void forEachScore(KernelBuilder &k, const MatmulTiling &tiling, Value packed,
                  int64_t width,
                  function_ref<PanelPosition(Value number)> panelsOf,
                  Value firstTile, Value lastTile, Value count,
                  function_ref<void(Value row, Value column, Value dot)> write);
/// The same with the panels that packHeads packed of head `head`.
void forEachScore(KernelBuilder &k, const MatmulTiling &tiling, Value packed,
                  int64_t width, Value panels, Value head, Value firstTile,
                  Value lastTile, Value count,
                  function_ref<void(Value row, Value column, Value dot)> write);

/// `result(i)[c] = sum over j in [lo, hi) of weights[i, j] * rows(j)[c]` for
/// every row of the block, `width` columns; `write` gets each vector.
void forEachWeightedSum(
    KernelBuilder &k, int64_t width, Value weights, Value lo, Value hi,
    Value count, int64_t blockRows, Value rows,
    function_ref<Value(Value)> rowOf,
    function_ref<void(Value row, KernelBuilder::Lane, Value sum)> write);

/// How many keys a block of queries may see, up to its largest slot, and how
/// many register tiles across hold them.
std::pair<Value, Value> keyBound(KernelBuilder &k, const AttentionShape &shape,
                                 Value slots, HeadBlock &block,
                                 int64_t tileWidth);

/// Zeroes `columns` columns of rows [lo, hi) of a scratch buffer.
void zeroRows(KernelBuilder &k, Value scratch, Value lo, Value hi,
              Value columns);

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_KERNELS_ATTENTIONBLOCKS_H
