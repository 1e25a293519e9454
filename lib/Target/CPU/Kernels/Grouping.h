//===-- Grouping.h - rows grouped by expert ---------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The schedule of Matmul.h for rows grouped by expert. A kernel computes its
// block of rows from the routes at run time and reads weights through a table,
// so one kernel serves any number of experts, including those without rows.
// Without routes there is one expert, and row t is token t: the FFN of a dense
// layer has the same schedule and gets the bits that it would get as an expert.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_CPU_KERNELS_GROUPING_H
#define MOE_TARGET_CPU_KERNELS_GROUPING_H

#include "BlockProduct.h"
#include "Kernels/Activation.h"

namespace mlir::moe {

/// How the rows of a product are grouped by expert.
struct Grouping {
  /// `operand` has the rows where there are no routes.
  Grouping(TypedValue<RoutesType> routes, Value operand)
      : tokens(routes ? routes.getType().getTokens() : rowsOf(operand)),
        rows(tokens) {
    if (!routes)
      return;
    experts = routes.getType().getExperts();
    topK = routes.getType().getTopK();
    rows = tokens * topK;
    routed = true;
  }

  bool routed = false;
  int64_t tokens;
  int64_t rows;
  int64_t experts = 1;
  int64_t topK = 1;

  /// Rows of each expert if all have as many; none for a single expert.
  std::optional<int64_t> share() const {
    if (experts == 1)
      return std::nullopt;
    return llvm::divideCeilSigned(rows, experts);
  }
  /// Cuts the product of these rows with `weights`, and decides whether weights
  /// are packed at use. They are where an expert's rows make few blocks, which
  /// pack few panels twice, and weights are not packed once: packed by a launch
  /// before, the panels of all experts would go to memory and come back. With
  /// `keepColumns` a work item has all columns of its rows.
  MatmulTiling tiling(const KernelLowering &lowering, ValueRange weights,
                      int64_t inner, int64_t columns, const ProductTypes &types,
                      int64_t vectors = accumulators,
                      bool keepColumns = false) const {
    MatmulTiling tiling(tokens, inner, columns, types, vectors);
    if (std::optional<int64_t> share = this->share()) {
      bool packedOnce = llvm::all_of(
          weights, [&](Value weight) { return lowering.isPackedOnce(weight); });
      if (packedOnce || *share > TargetDescription::rowsToPackAtUse ||
          !tiling.holdExpertAtUse(*share, keepColumns))
        tiling.holdExpert(*share);
    }
    tiling.sliceLongRows();
    if (keepColumns)
      tiling.doNotSplit();
    return tiling;
  }
  /// A launch with a work item for each split of each block. The number of
  /// blocks is an upper bound: each expert may have one that is not full.
  KernelLowering::Launch launch(Operation *op, const MatmulTiling &tiling,
                                const ProductTypes &types) const {
    int64_t blocks = tiling.rowBlocks(rows) + (routed ? experts : 0);
    return {.workItems = blocks * tiling.splits,
            .compute = types.compute,
            .flops = flopsOf(op)};
  }
};

/// In a kernel: the routes, tokens and experts of rows. Without routes a row is
/// its own route and token.
struct RowOwners {
  RowOwners(KernelBuilder &k, const Grouping &grouping,
            KernelLowering &lowering, TypedValue<RoutesType> given)
      : k(k), rows(grouping.rows) {
    if (given)
      routes.emplace(k, lowering.buffer(given), given.getType());
  }

  /// The number token * K + choice of the route of a row.
  Value route(Value row) const { return routes ? routes->route(row) : row; }
  Value token(Value row) const { return routes ? routes->token(row) : row; }
  /// The rows [begin, end) of an expert.
  std::pair<Value, Value> rowsOf(Value expert) const {
    if (routes)
      return routes->rowsOf(expert);
    return {k.idx(0), k.idx(rows)};
  }

  KernelBuilder &k;
  int64_t rows;
  std::optional<RoutesView> routes;
};

/// In a kernel: the block of rows and the split of columns of this work item.
struct GroupedRows : RowOwners {
  GroupedRows(KernelBuilder &k, const Grouping &grouping,
              KernelLowering &lowering, TypedValue<RoutesType> given,
              const MatmulTiling &tiling)
      : RowOwners(k, grouping, lowering, given), tiling(tiling) {
    Value index = k.div(k.workItem(), k.idx(tiling.splits));
    split = k.rem(k.workItem(), k.idx(tiling.splits));
    if (routes) {
      block = routedRowBlock(k, index, *routes, tiling.blockRows);
    } else {
      block = denseRowBlock(k, index, rows, tiling.blockRows);
      block.expert = k.idx(0);
    }
  }

  /// Row `i` of the block.
  Value row(Value i) { return k.add(block.first, i); }

  /// The block times `terms`, `inner` of the inner dimension each. Row r is row
  /// r of `left`, or with `byToken` the row of its token.
  BlockProduct times(Value left, bool byToken, int64_t inner,
                     const ProductTypes &types, ArrayRef<OperandTerm> terms) {
    return {.types = types,
            .tiling = tiling,
            .block = block,
            .split = split,
            .rows = left,
            .source = [this, byToken](
                          Value i) { return byToken ? token(row(i)) : row(i); },
            .inner = inner,
            .terms = SmallVector<OperandTerm, 2>(terms)};
  }

  const MatmulTiling &tiling;
  Value split;
  RowBlock block;
};

/// The buffers of `weights` by kind. `weights` has the `each` kinds of expert
/// 0, then those of expert 1, and so on.
inline SmallVector<SmallVector<Value>>
byKind(KernelLowering &lowering, ValueRange weights, int64_t each) {
  SmallVector<SmallVector<Value>> kinds(each);
  for (auto [i, weight] : llvm::enumerate(weights))
    kinds[i % each].push_back(lowering.buffer(weight));
  return kinds;
}

/// The weights of one kind of all experts, as right operands.
struct ExpertWeights {
  /// `form` is Transposed or Straight, the layout of `weights`. If they are not
  /// packed at use (`atUse`), launches their packing.
  ExpertWeights(KernelLowering &lowering, Operation *op,
                ArrayRef<Value> weights, const ProductTypes &types,
                RightOperand::Form form, bool atUse)
      : form(atUse ? form : RightOperand::Form::Panels) {
    SmallVector<Value> buffers(weights);
    if (!atUse)
      for (Value &buffer : buffers)
        buffer = form == RightOperand::Form::Transposed
                     ? packTransposed(lowering, op, buffer, types)
                     : packStraight(lowering, op, buffer, types);
    type = cast<MemRefType>(buffers.front().getType());
    table = lowering.table(buffers);
  }
  /// In a kernel: the weight of an expert.
  RightOperand of(KernelBuilder &k, Value expert) const {
    return {form, k.tableEntry(table, expert, type)};
  }

  RightOperand::Form form;
  MemRefType type;
  Value table;
};

/// The activation of all experts.
struct ExpertActivation {
  /// `scalars` has those of expert 0, then those of expert 1, and so on.
  ExpertActivation(KernelLowering &lowering, ActivationKind kind,
                   ValueRange scalars)
      : kind(kind) {
    if (scalars.empty())
      return;
    type = cast<MemRefType>(lowering.buffer(scalars.front()).getType());
    for (const auto &same : byKind(lowering, scalars, numScalars(kind)))
      tables.push_back(lowering.table(same));
  }
  /// In a kernel: the activation of an expert.
  Activation of(KernelBuilder &k, Value expert) const {
    SmallVector<Value> scalars;
    for (Value table : tables)
      scalars.push_back(k.tableEntry(table, expert, type));
    return makeActivation(k, kind, scalars);
  }

  ActivationKind kind;
  MemRefType type;
  SmallVector<Value> tables;
};

} // namespace mlir::moe

#endif // MOE_TARGET_CPU_KERNELS_GROUPING_H
