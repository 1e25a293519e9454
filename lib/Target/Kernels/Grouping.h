//===-- Grouping.h - rows grouped by expert ---------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The schedule of Matmul.h over rows grouped by expert. A kernel finds its
// block of rows from the routes at run time and reads its weights through a
// table, so one kernel serves any number of experts, empty ones too. Without
// routes there is one expert, and row t is token t: the FFN of a dense layer
// runs the same kernels and gets the same bits.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_KERNELS_GROUPING_H
#define MOE_TARGET_KERNELS_GROUPING_H

#include "Matmul.h"

namespace mlir::moe {

/// Who the rows of a grouped product are.
struct Grouping {
  Grouping(Value routes, int64_t tokens) : tokens(tokens), rows(tokens) {
    if (!routes)
      return;
    auto type = cast<RoutesType>(routes.getType());
    experts = type.getExperts();
    topK = type.getTopK();
    rows = tokens * topK;
    routed = true;
  }

  bool routed = false;
  int64_t tokens;
  int64_t rows;
  int64_t experts = 1;
  int64_t topK = 1;

  /// Rows of each of several experts, if all have as many.
  std::optional<int64_t> share() const {
    if (experts == 1)
      return std::nullopt;
    return llvm::divideCeilSigned(rows, experts);
  }
  /// An upper bound for the blocks of rows: every expert may have one that is
  /// not full.
  int64_t blocks(const MatmulTiling &tiling) const {
    return tiling.rowBlocks(rows) + (routed ? experts : 0);
  }
  /// What a kernel's body depends on.
  SmallVector<int64_t> key(std::initializer_list<int64_t> more) const {
    SmallVector<int64_t> values{routed, rows, topK};
    values.append(more);
    return values;
  }
};

/// Inside a kernel: its routes, if any, and the block of rows of this tile.
/// Argument `argument` holds the routes, the next two the experts taken, first
/// and last but one; tables have entries for these.
struct GroupedRows {
  GroupedRows(KernelBuilder &k, const Grouping &grouping, unsigned argument,
              const MatmulTiling &tiling)
      : k(k), grouping(grouping) {
    Value index = k.div(k.tile(), k.idx(tiling.splits));
    split = k.rem(k.tile(), k.idx(tiling.splits));
    if (grouping.routed) {
      routes = k.buffer(argument);
      Value first = k.integer(argument + 1);
      block = routedRowBlock(k, index, routes, grouping.rows, first,
                             k.integer(argument + 2), tiling.blockRows);
    } else {
      block = denseRowBlock(k, index, grouping.rows, tiling.blockRows);
      block.expert = k.idx(0);
    }
  }

  /// Row `i` of the block.
  Value row(Value i) { return k.add(block.first, i); }
  /// token * K + slot of a row.
  Value slot(Value row) {
    return grouping.routed ? k.loadIndex(routes, row) : row;
  }
  /// The token of a row.
  Value token(Value row) {
    Value position = slot(row);
    return grouping.topK == 1 ? position
                              : k.div(position, k.idx(grouping.topK));
  }

  KernelBuilder &k;
  const Grouping &grouping;
  Value routes;
  Value split;
  RowBlock block;
};

/// The weights of every expert, one kind after the other: `weights` has `each`
/// of an expert, then of the next.
inline SmallVector<SmallVector<Value>>
byKind(KernelLowering &lowering, ValueRange weights, int64_t each) {
  SmallVector<SmallVector<Value>> kinds(each);
  for (auto [i, weight] : llvm::enumerate(weights))
    kinds[i % each].push_back(lowering.buffer(weight));
  return kinds;
}

/// A table of weights packed by `pack`.
inline Value packedTable(KernelLowering &lowering, Operation *op,
                         ArrayRef<Value> weights, const ProductTypes &types,
                         decltype(packTransposed) pack = packTransposed) {
  SmallVector<Value> panels;
  for (Value weight : weights)
    panels.push_back(pack(lowering, op, weight, types));
  return lowering.table(panels);
}

/// Appends the routes and all experts, which GroupedRows reads. Returns the
/// number of the argument that holds the first expert, if there is one.
inline std::optional<unsigned> addGrouping(KernelLowering &lowering,
                                           const Grouping &grouping,
                                           Value routes,
                                           SmallVectorImpl<Value> &arguments) {
  if (!grouping.routed)
    return std::nullopt;
  arguments.push_back(lowering.buffer(routes));
  arguments.push_back(lowering.constant(0));
  arguments.push_back(lowering.constant(grouping.experts));
  return arguments.size() - 2;
}

} // namespace mlir::moe

#endif // MOE_TARGET_KERNELS_GROUPING_H
