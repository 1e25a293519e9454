//===-- BlockProduct.cpp - a block of rows times weights ------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "BlockProduct.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

using Epilogue =
    function_ref<void(Value, const RegisterTileColumns &, ValueRange)>;

/// The terms that are multiplied at once, and the slice of each.
struct Part {
  ArrayRef<OperandTerm> terms;
  /// The first column in the left operand.
  Value firstLeft;
  /// The slice of the inner dimension: its first element and its width.
  Value first;
  int64_t width;
};

class Multiplier {
public:
  Multiplier(KernelBuilder &k, const BlockProduct &product);

  void run(Epilogue epilogue,
           function_ref<void(Value, const RegisterTileColumns &)> before);

private:
  bool packsAtUse() const {
    return product.terms[0][0].form != RightOperand::Form::Panels;
  }
  bool slices() const { return tiling.slice < tiling.inner; }
  void multiply(const Part &part, bool partial, Epilogue epilogue,
                function_ref<void(Value, const RegisterTileColumns &)> before);
  void pack(const Part &part, const RegisterTileColumns &tile);
  void packOperand(const RightOperand &operand, const Part &part, Value panel,
                   Value to, Value position);
  Panel panel(const Part &part, size_t term, const RegisterTileColumns &tile,
              Value row, int64_t j) const;
  Element lineToPrefetch(const RightOperand &operand, const Part &part,
                         const RegisterTileColumns &tile, Value row, Value step,
                         int64_t j, bool shared) const;
  RegisterTileColumns columnsOfSums(const RegisterTileColumns &tile) const;

  KernelBuilder &k;
  const BlockProduct &product;
  const MatmulTiling &tiling;
  const ProductTypes &types;
  /// The rows of the block, and the panels of each term of a part if they are
  /// packed at use: scratch buffers.
  Value left;
  SmallVector<Value> packed;
  /// The sums between slices: a scratch buffer.
  Value sums;
};

} // namespace

Multiplier::Multiplier(KernelBuilder &k, const BlockProduct &product)
    : k(k), product(product), tiling(product.tiling), types(product.types) {
  size_t together = slices() ? 1 : product.terms.size();
  int64_t width = std::min(tiling.slice, product.inner);
  left = scratchRows(k, tiling.blockRows,
                     static_cast<int64_t>(together) * width, types);
  if (packsAtUse())
    for (size_t i = 0; i < together; ++i)
      packed.push_back(k.scratch(
          panelShape(accumulators * types.lanes, width, types), types.panel));
}

/// The columns of `tile` in `sums`, which holds those of one split.
RegisterTileColumns
Multiplier::columnsOfSums(const RegisterTileColumns &tile) const {
  Value before = k.mul(product.split, k.idx(tiling.tilesPerSplit));
  Value first =
      k.mul(k.sub(tile.number, before), k.idx(accumulators * types.lanes));
  RegisterTileColumns columns{tile.number, {}};
  for (int64_t j = 0; j < accumulators; ++j)
    columns.lanes.push_back({k.add(first, k.idx(j * k.lanes())), Value()});
  return columns;
}

/// Packs panel number `panel` of a weight to `position` of `to`.
void Multiplier::packOperand(const RightOperand &operand, const Part &part,
                             Value panel, Value to, Value position) {
  TransposedRows rows =
      consecutiveRows(k, operand.buffer, k.mul(panel, k.idx(types.lanes)));
  rows.width = part.width;
  rows.firstColumn = part.first;
  packPanel(k, rows, k.idx(0), k.idx(part.width), types.steps(part.width), to,
            position);
}

/// Packs the panels that the register tiles of columns `tile` read.
void Multiplier::pack(const Part &part, const RegisterTileColumns &tile) {
  for (auto [term, to] : llvm::zip(part.terms, packed)) {
    if (term[0].form == RightOperand::Form::Straight) {
      packSteps(k,
                {.from = term[0].buffer,
                 .row = [&](Value r) { return k.add(part.first, r); },
                 .count = k.idx(part.width)},
                tile.lanes, k.idx(0), k.idx(types.steps(part.width)), to,
                types);
      continue;
    }
    Value firstPanel = k.mul(tile.number, k.idx(tiling.vectors));
    for (int64_t j = 0; j < accumulators; ++j) {
      bool shared = term.size() == 1;
      packOperand(term[shared ? 0 : j], part,
                  shared ? k.add(firstPanel, k.idx(j)) : firstPanel, to,
                  k.idx(j));
    }
  }
}

/// The cache line of the weight that accumulator `j` prefetches at `step` of
/// the register tile at `row`. Together the register tiles of a block prefetch,
/// once and in order, what the panels of the next columns are packed from.
Element Multiplier::lineToPrefetch(const RightOperand &operand,
                                   const Part &part,
                                   const RegisterTileColumns &tile, Value row,
                                   Value step, int64_t j, bool shared) const {
  constexpr int64_t lineBytes = 64;
  int64_t elementsOfLine =
      lineBytes * 8 / elementOf(operand.buffer).getIntOrFloatBitWidth();
  bool transposed = operand.form == RightOperand::Form::Transposed;
  int64_t rowsToPrefetch = transposed ? tiling.tileWidth : part.width;
  int64_t linesOfRow = llvm::divideCeilSigned(
      transposed ? part.width : tiling.tileWidth, elementsOfLine);
  int64_t steps = llvm::divideCeilSigned(part.width, types.step);
  int64_t tiles = tiling.blockRows / tiling.registerTileRows;
  int64_t lines = rowsToPrefetch * linesOfRow;
  if (shared)
    lines = llvm::divideCeilSigned(lines, accumulators);
  Value done = k.add(
      k.mul(k.div(row, k.idx(tiling.registerTileRows)), k.idx(steps)), step);
  Value line = k.div(k.mul(done, k.idx(lines)), k.idx(tiles * steps));
  if (shared)
    line = k.add(k.mul(line, k.idx(accumulators)), k.idx(j));
  Value rowOfLine = k.div(line, k.idx(linesOfRow));
  Value columnOfLine =
      k.mul(k.rem(line, k.idx(linesOfRow)), k.idx(elementsOfLine));
  Value next = k.mul(k.add(tile.number, k.idx(1)), k.idx(tiling.tileWidth));
  if (transposed)
    return {operand.buffer,
            {k.add(next, rowOfLine), k.add(part.first, columnOfLine)}};
  return {operand.buffer,
          {k.add(part.first, rowOfLine), k.add(next, columnOfLine)}};
}

Panel Multiplier::panel(const Part &part, size_t term,
                        const RegisterTileColumns &tile, Value row,
                        int64_t j) const {
  const OperandTerm &operands = part.terms[term];
  bool shared = operands.size() == 1;
  const RightOperand &operand = operands[shared ? 0 : j];
  if (packsAtUse())
    return {packed[term], {k.idx(j)}, [=, this, &part](Value step) {
              return lineToPrefetch(operand, part, tile, row, step, j, shared);
            }};
  Value first = k.mul(tile.number, k.idx(tiling.vectors));
  return {operand.buffer, {shared ? k.add(first, k.idx(j)) : first}};
}

/// Multiplies by `part` and adds to `sums`, if there are any. The results go to
/// `epilogue`, or if `partial` back to `sums`.
void Multiplier::multiply(
    const Part &part, bool partial, Epilogue epilogue,
    function_ref<void(Value, const RegisterTileColumns &)> before) {
  auto leftWidth = static_cast<int64_t>(part.terms.size()) * part.width;
  packRows(k, product.rows, product.block, left, leftWidth, types,
           product.source, part.firstLeft);
  auto multiplyRegisterTile = [&](Value row, const RegisterTileColumns &tile) {
    if (!partial)
      before(row, tile);
    SmallVector<Value> result;
    if (sums)
      result =
          loadSums(k, tiling, sums, row, tiling.blockRows, columnsOfSums(tile));
    for (size_t i = 0; i < part.terms.size(); ++i)
      result = timesPanels(
          k, tiling, left, row, part.width,
          [&](int64_t j) { return panel(part, i, tile, row, j); },
          {.offset = static_cast<int64_t>(i) * part.width,
           .init = result,
           .firstStep =
               packsAtUse() ? Value() : k.div(part.first, k.idx(types.step)),
           .partial = partial});
    return result;
  };
  auto keep = [&](Value row, const RegisterTileColumns &tile,
                  ValueRange values) {
    storeSums(k, values, sums, row, columnsOfSums(tile));
  };
  auto prepare = [&](const RegisterTileColumns &tile) { pack(part, tile); };
  forEachRegisterTile(
      k, tiling, product.block, product.split, multiplyRegisterTile,
      partial ? Epilogue(keep) : epilogue,
      packsAtUse() ? function_ref<void(const RegisterTileColumns &)>(prepare)
                   : nullptr);
}

void Multiplier::run(
    Epilogue epilogue,
    function_ref<void(Value, const RegisterTileColumns &)> before) {
  ArrayRef<OperandTerm> terms(product.terms);
  int64_t inner = product.inner;
  if (!slices())
    return multiply({terms, {}, k.idx(0), inner}, /*partial=*/false, epilogue,
                    before);
  int64_t columns = tiling.tilesPerSplit * accumulators * types.lanes;
  sums = k.scratch({tiling.blockRows, columns}, k.compute());
  Value rows = rowsOfRegisterTiles(k, product.block, tiling.registerTileRows,
                                   tiling.blockRows);
  k.loop(k.idx(0), rows, 1, [&](Value i) { k.zeroRow(sums, i, columns); });
  int64_t whole = (inner - 1) / tiling.slice * tiling.slice;
  for (size_t i = 0; i < terms.size(); ++i) {
    Value firstOfTerm = k.idx(static_cast<int64_t>(i) * inner);
    auto multiplySlice = [&](Value first, int64_t width, bool partial) {
      multiply({terms.slice(i, 1), k.add(firstOfTerm, first), first, width},
               partial, epilogue, before);
    };
    k.loop(k.idx(0), k.idx(whole), tiling.slice, [&](Value first) {
      multiplySlice(first, tiling.slice, /*partial=*/true);
    });
    multiplySlice(k.idx(whole), inner - whole, i + 1 < terms.size());
  }
}

void mlir::moe::multiplyBlock(
    KernelBuilder &k, const BlockProduct &product, Epilogue epilogue,
    function_ref<void(Value, const RegisterTileColumns &)> before) {
  Multiplier(k, product).run(epilogue, before);
}
