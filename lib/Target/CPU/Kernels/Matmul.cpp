//===-- Matmul.cpp - the schedule of every matrix product -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Matmul.h"

using namespace mlir;
using namespace mlir::moe;

/// Bytes after each row of a scratch buffer, which keep the rows of a register
/// tile from falling into one set of the L1 cache.
static constexpr int64_t scratchPadding = 64;

MatmulTiling::MatmulTiling(int64_t rows, int64_t inner, int64_t columns,
                           const ProductTypes &types, int64_t vectors)
    : inner(inner), columns(columns), vectors(vectors), slice(inner),
      usesAmx(types.usesAmx()), target(types.target), rows(rows),
      rowBytes(inner * types.operand.getIntOrFloatBitWidth() / 8),
      sumBytes(types.lanes * types.compute.getIntOrFloatBitWidth() / 8) {
  registerTileRows = std::min(types.registerTileRows, rows);
  tileWidth = vectors * types.lanes;
  tilesAcross = llvm::divideCeilSigned(columns, tileWidth);
  // The register tiles of a block share a panel while it is in the L1 and L2
  // caches. Panels that do not fit into the last-level cache come from memory
  // once for each block. Then a block gets as many rows as stay in the L2
  // cache, and a few more. That does not pay where few long rows would be
  // copied for more splits, and rows must not be too long for the stack.
  int64_t few = target.fewestRegisterTilesFromMemory;
  int64_t tiles = target.fewestRegisterTiles;
  bool isWide =
      inner <= columns || rows >= target.fewestItems * few * registerTileRows;
  if (rowBytes * columns > target.cachedPanelBytes() &&
      rowBytes <= target.longestRow && isWide)
    tiles = std::clamp(target.blockBytes() / (rowBytes * registerTileRows), few,
                       int64_t(target.mostRegisterTiles));
  setBlockRows(tiles);
}

void MatmulTiling::setBlockRows(int64_t tiles) {
  blockRows = std::min(tiles * registerTileRows,
                       llvm::divideCeilSigned(rows, registerTileRows) *
                           registerTileRows);
  // Work items should be enough for all threads, and for the threads to finish
  // at about the same time. Each must have enough columns to be worth copying
  // its rows.
  int64_t blocks = rowBlocks(rows);
  auto splitsFor = [&](int64_t count) {
    return llvm::divideCeilSigned(count, blocks);
  };
  splits = std::max(
      splitsFor(target.fewestItems),
      std::min(splitsFor(target.wantedItems), columns / target.splitColumns));
  splits = std::clamp<int64_t>(splits, 1, tilesAcross);
  tilesPerSplit = llvm::divideCeilSigned(tilesAcross, splits);
  splits = llvm::divideCeilSigned(tilesAcross, tilesPerSplit);
}

void MatmulTiling::holdExpert(int64_t share) {
  // Then each panel of the expert, which comes from memory, is read once only.
  int64_t tiles = llvm::divideCeilSigned(share, registerTileRows) + 1;
  if (tiles <= target.mostRegisterTiles &&
      tiles * registerTileRows * rowBytes <= target.blockBytes())
    setBlockRows(std::max(tiles, blockRows / registerTileRows));
}

bool MatmulTiling::holdExpertAtUse(int64_t share, bool keepColumns) {
  int64_t bytes = target.blockBytesAtUse();
  int64_t all = llvm::divideCeilSigned(share, registerTileRows) + 1;
  int64_t tiles = llvm::divideCeilSigned(
      all, llvm::divideCeilSigned(all, target.mostRegisterTiles));
  if (keepColumns) {
    int64_t held = bytes / (rowBytes * registerTileRows);
    if (held * registerTileRows <
        std::min(share, int64_t(target.fewestRowsAtUse)))
      return false;
    tiles = std::min(tiles, held);
  }
  atUse = true;
  setBlockRows(tiles);
  if (rowBytes * blockRows <= bytes)
    return true;
  // As many slices as it takes for each to fit, and about as long.
  int64_t longest = wholeChains(bytes / blockRows);
  int64_t slices = llvm::divideCeilSigned(inner, longest);
  slice = llvm::alignTo(llvm::divideCeilSigned(inner, slices), chainLength);
  int64_t tileBytes = blockRows * accumulators * sumBytes;
  splitAfter(std::clamp<int64_t>(bytes / tileBytes, 1, tilesPerSplit));
  return true;
}

int64_t MatmulTiling::wholeChains(int64_t bytes) const {
  int64_t elements = bytes / (rowBytes / inner);
  return std::max(elements / chainLength, int64_t(1)) * chainLength;
}

void MatmulTiling::sliceLongRows() {
  // Slices that fit the L2 cache are short enough.
  if (rowBytes <= target.longestRow || slice < inner)
    return;
  slice = wholeChains(target.sliceBytes);
  splitAfter(std::min(tilesPerSplit, target.sliceColumns / tileWidth));
}

RowBlock mlir::moe::denseRowBlock(KernelBuilder &k, Value index, int64_t rows,
                                  int64_t blockRows) {
  Value first = k.mul(index, k.idx(blockRows));
  return {first, k.min(k.sub(k.idx(rows), first), k.idx(blockRows)), Value()};
}

RowBlock mlir::moe::routedRowBlock(KernelBuilder &k, Value index,
                                   const RoutesView &routes,
                                   int64_t blockRows) {
  // Counts the blocks of all experts and selects the one that has the index.
  Value zero = k.idx(0);
  SmallVector<Value> found = k.loop(
      zero, k.idx(routes.numExperts()), 1, {zero, zero, zero, zero},
      [&](Value e, ValueRange state) {
        Value blocksBefore = state[0];
        auto [begin, end] = routes.rowsOf(e);
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
          return k.select(inside, a, b);
        };
        return SmallVector<Value>{blocksAfter, select(first, state[1]),
                                  select(count, state[2]), select(e, state[3])};
      });
  return {found[1], found[2], found[3]};
}

Value mlir::moe::rowsOfRegisterTiles(KernelBuilder &k, const RowBlock &block,
                                     int64_t registerTileRows,
                                     int64_t blockRows) {
  Value tiles = k.div(k.add(block.count, k.idx(registerTileRows - 1)),
                      k.idx(registerTileRows));
  return k.min(k.mul(tiles, k.idx(registerTileRows)), k.idx(blockRows));
}

Value mlir::moe::scratchRows(KernelBuilder &k, int64_t blockRows, int64_t width,
                             const ProductTypes &types) {
  int64_t padding = scratchPadding * 8 / types.operand.getIntOrFloatBitWidth();
  int64_t stride =
      llvm::alignTo(width, types.step * types.stepsOfAmxTile) + padding;
  return k.scratch({blockRows, stride}, types.operand);
}

void mlir::moe::packRows(KernelBuilder &k, Value from, const RowBlock &block,
                         Value scratch, int64_t width,
                         const ProductTypes &types,
                         function_ref<Value(Value)> source, Value firstColumn) {
  int64_t blockRows = cast<MemRefType>(scratch.getType()).getDimSize(0);
  bool asItIs =
      cast<MemRefType>(from.getType()).getElementType() == types.operand;
  k.loop(k.idx(0), block.count, 1, [&](Value i) {
    Value row = source(i);
    k.columns(width, [&](KernelBuilder::Lane lane) {
      KernelBuilder::Lane read = lane;
      if (firstColumn)
        read.column = k.add(lane.column, firstColumn);
      if (asItIs)
        k.storeBits(k.loadBits(from, row, read), scratch, i, lane);
      else
        k.store(k.load(from, row, read), scratch, i, lane);
    });
    // The second half of the last pair, or what an AMX tile reads beyond it.
    if (types.usesAmx())
      for (int64_t j = 0; j < types.step; ++j)
        k.store(k.splat(0.0), scratch, i,
                {k.idx(width + j * k.lanes()), Value()});
    else if (types.inPairs())
      k.storeScalar(k.scalar(0.0), scratch, {i, k.idx(width)});
  });
  Value last = rowsOfRegisterTiles(
      k, block, std::min(types.registerTileRows, blockRows), blockRows);
  k.loop(block.count, last, 1, [&](Value i) { k.zeroRow(scratch, i, width); });
}

Value mlir::moe::packRows(KernelBuilder &k, Value from, const RowBlock &block,
                          int64_t blockRows, int64_t width,
                          const ProductTypes &types,
                          function_ref<Value(Value)> source) {
  Value scratch = scratchRows(k, blockRows, width, types);
  packRows(k, from, block, scratch, width, types, source);
  return scratch;
}

/// The columns of the register tile with this number across.
static RegisterTileColumns columnsOf(KernelBuilder &k,
                                     const MatmulTiling &tiling, Value number) {
  RegisterTileColumns tile{number, {}};
  Value first = k.mul(number, k.idx(tiling.tileWidth));
  for (int64_t j = 0; j < tiling.vectors; ++j) {
    KernelBuilder::Lane lane{k.add(first, k.idx(j * k.lanes())), Value()};
    if (tiling.columns % tiling.tileWidth != 0) {
      // The last panel may lie beyond the last column.
      Value left = k.max(k.sub(k.idx(tiling.columns), lane.column), k.idx(0));
      lane.mask = k.mask(left);
    }
    tile.lanes.push_back(lane);
  }
  return tile;
}

/// A scratch buffer for the sums of a register tile of AMX tiles.
static Value amxScratch(KernelBuilder &k, const MatmulTiling &tiling) {
  return k.scratch({tiling.registerTileRows, accumulators * amxTileRows},
                   k.compute());
}

/// Calls `body` for each AMX tile of a register tile, row by row, with its
/// number of rows and its position in the scratch buffer.
static void forEachAmxTile(KernelBuilder &k, const MatmulTiling &tiling,
                           function_ref<void(int64_t, ArrayRef<Value>)> body) {
  for (int64_t row = 0; row < tiling.registerTileRows; row += amxTileRows)
    for (int64_t j = 0; j < accumulators; ++j)
      body(std::min(amxTileRows, tiling.registerTileRows - row),
           {k.idx(row), k.idx(j * amxTileRows)});
}

void mlir::moe::forEachRegisterTile(
    KernelBuilder &k, const MatmulTiling &tiling, const RowBlock &block,
    Value split,
    function_ref<SmallVector<Value>(Value, const RegisterTileColumns &)> sums,
    function_ref<void(Value, const RegisterTileColumns &, ValueRange)> epilogue,
    function_ref<void(const RegisterTileColumns &)> prepare) {
  Value firstTile = k.mul(split, k.idx(tiling.tilesPerSplit));
  Value lastTile = k.min(k.add(firstTile, k.idx(tiling.tilesPerSplit)),
                         k.idx(tiling.tilesAcross));
  // Nothing is prepared for an empty block.
  if (prepare)
    lastTile = k.select(k.less(k.idx(0), block.count), lastTile, firstTile);
  k.loop(firstTile, lastTile, 1, [&](Value number) {
    RegisterTileColumns tile = columnsOf(k, tiling, number);
    if (prepare)
      prepare(tile);
    k.loop(k.idx(0), block.count, tiling.registerTileRows, [&](Value firstRow) {
      SmallVector<Value> acc = sums(firstRow, tile);
      if (tiling.usesAmx) {
        Value scratch = amxScratch(k, tiling), *next = acc.begin();
        forEachAmxTile(k, tiling, [&](int64_t, ArrayRef<Value> position) {
          storeAmxTile(k, *next++, scratch, position);
        });
        Value rows =
            k.min(k.sub(block.count, firstRow), k.idx(tiling.registerTileRows));
        k.loop(k.idx(0), rows, 1, [&](Value i) {
          SmallVector<Value> rowSums;
          for (int64_t j = 0; j < accumulators; ++j)
            rowSums.push_back(
                k.load(scratch, i, {k.idx(j * k.lanes()), Value()}));
          epilogue(k.add(firstRow, i), tile, rowSums);
        });
        return;
      }
      for (int64_t i = 0; i < tiling.registerTileRows; ++i) {
        Value row = k.add(firstRow, k.idx(i));
        ValueRange rowSums =
            ValueRange(acc).slice(i * accumulators, accumulators);
        if (i == 0)
          epilogue(row, tile, rowSums);
        else
          k.ifThen(k.less(row, block.count),
                   [&] { epilogue(row, tile, rowSums); });
      }
    });
  });
}

SmallVector<Value> mlir::moe::zeroSums(KernelBuilder &k,
                                       const MatmulTiling &tiling) {
  SmallVector<Value> sums;
  if (tiling.usesAmx)
    forEachAmxTile(k, tiling, [&](int64_t rows, ArrayRef<Value>) {
      sums.push_back(zeroAmxTile(k, rows));
    });
  else
    sums.assign(tiling.registerTileRows * accumulators, k.splat(0.0));
  return sums;
}

/// The sums of a register tile of AMX tiles over `steps` inner steps. `left`
/// gives the first element of the AMX tile of step `s` whose rows begin at
/// `row`. `right` gives the panel of accumulator `j`, which is read from step
/// `firstStep` on (0 if not given).
static SmallVector<Value>
sumAmxTiles(KernelBuilder &k, const MatmulTiling &tiling, Value steps,
            function_ref<Element(Value s, int64_t row)> left,
            function_ref<Element(int64_t j)> right, ValueRange init = {},
            Value firstStep = {}) {
  SmallVector<Value> start(init);
  SmallVector<int64_t> rows;
  forEachAmxTile(k, tiling, [&](int64_t amxRows, ArrayRef<Value>) {
    rows.push_back(amxRows);
    if (init.empty())
      start.push_back(zeroAmxTile(k, amxRows));
  });
  auto load = [&](const Element &at, int64_t amxRows) {
    return loadAmxTile(k, at.buffer, at.index, amxRows);
  };
  return registerTile(
      k, rows.size() / accumulators, accumulators, k.idx(0),
      k.div(steps, k.idx(amxTileRows)),
      [&](Value tile, int64_t i) {
        return load(left(k.mul(tile, k.idx(amxTileRows)), i * amxTileRows),
                    rows[i * accumulators]);
      },
      [&](Value tile, int64_t j) {
        Element at = right(j);
        Value step = k.mul(tile, k.idx(amxTileRows));
        at.index.push_back(firstStep ? k.add(firstStep, step) : step);
        at.index.push_back(k.idx(0));
        return load(at, amxTileRows);
      },
      start);
}

/// Sums over `steps` inner steps from `init` on: adds up what `chain` gives for
/// [first, last), a chain at a time.
static SmallVector<Value>
addChains(KernelBuilder &k, int64_t steps, ArrayRef<Value> init,
          function_ref<SmallVector<Value>(Value first, Value last)> chain) {
  bool areWhole = steps % chainLength == 0;
  // The sums are in memory while the loop of a chain has the registers.
  return k.loop(k.idx(0), k.idx(steps), chainLength, init,
                [&](Value first, ValueRange sums) {
                  Value last = k.add(first, k.idx(chainLength));
                  if (!areWhole)
                    last = k.min(last, k.idx(steps));
                  SmallVector<Value> added;
                  for (auto [sum, next] :
                       llvm::zip_equal(sums, chain(first, last)))
                    added.push_back(k.addf(sum, next));
                  return added;
                });
}

SmallVector<Value> mlir::moe::timesPanels(KernelBuilder &k,
                                          const MatmulTiling &tiling,
                                          Value packed, Value row,
                                          int64_t inner,
                                          function_ref<Panel(int64_t)> panel,
                                          const LeftOperand &left) {
  SmallVector<Panel> panels;
  for (int64_t j = 0; j < accumulators; ++j)
    panels.push_back(panel(j));
  int64_t step = stepOfPanels(k, panels[0].buffer);
  if (tiling.usesAmx)
    return sumAmxTiles(
        k, tiling, k.idx(llvm::alignTo(inner, 2 * amxTileRows) / 2),
        [&](Value s, int64_t i) -> Element {
          Value column = k.add(k.mul(s, k.idx(step)), k.idx(left.offset));
          return {packed, {k.add(row, k.idx(i)), column}};
        },
        [&](int64_t j) -> Element {
          return {panels[j].buffer, panels[j].index};
        },
        left.init, left.firstStep);
  bool quantised = isQuantised(panels[0].buffer);
  // While the panels of this register tile are read, those of the next one are
  // prefetched, if the L2 cache holds both beside the rows. A block of one
  // register tile does so little with each element of 16 bits or more that
  // memory is always busy; there, prefetching only disturbs.
  int64_t width = accumulators * k.lanes();
  int64_t bytes =
      inner * width * elementOf(panels[0].buffer).getIntOrFloatBitWidth() / 8;
  bool prefetches = quantised || (tiling.blockRows > tiling.registerTileRows &&
                                  bytes <= k.target().prefetchedBytes());
  auto leftElement = [&](Value s, int64_t i) {
    SmallVector<Value> position{
        k.add(row, k.idx(i)), k.add(k.mul(s, k.idx(step)), k.idx(left.offset))};
    return step == 1 ? k.loadScalar(packed, position)
                     : loadPair(k, packed, position);
  };
  auto rightVector = [&](Value s, int64_t j) {
    const Panel &panel = panels[j];
    Value at = left.firstStep ? k.add(left.firstStep, s) : s;
    if (panel.prefetch) {
      Element next = panel.prefetch(s);
      prefetch(k, next.buffer, next.index, Cache::L2);
    } else if (prefetches) {
      SmallVector<Value> next(panel.index);
      next.back() = k.add(next.back(), k.idx(tiling.vectors));
      next.append({at, k.idx(0)});
      prefetch(k, panel.buffer, next);
    }
    return loadPanel(k, panel.buffer, panel.index, at);
  };
  auto chain = [&](Value first, Value last, ValueRange init = {}) {
    return registerTile(k, tiling.registerTileRows, accumulators, first, last,
                        leftElement, rightVector, init);
  };
  int64_t steps = llvm::divideCeilSigned(inner, step);
  bool isOneChain = step > 1 || (left.init.empty() && steps <= chainLength);
  SmallVector<Value> sums(left.init);
  if (isOneChain) {
    sums = chain(k.idx(0), k.idx(steps), left.init);
  } else {
    if (sums.empty())
      sums = zeroSums(k, tiling);
    sums = addChains(k, steps, sums, chain);
  }
  if (!quantised || left.partial)
    return sums;
  for (auto [j, at] : llvm::enumerate(panels)) {
    Value scales = loadScales(k, at.buffer, at.index);
    for (size_t i = j; i < sums.size(); i += accumulators)
      sums[i] = k.mulf(sums[i], scales);
  }
  return sums;
}

SmallVector<Value> mlir::moe::sumOuterProducts(
    KernelBuilder &k, const MatmulTiling &tiling, const ProductTypes &types,
    Value steps, Value lhs, Value row, Value rhs,
    const RegisterTileColumns &tile, const SumStart &start) {
  auto at = [&](Value s) { return start.step ? k.add(start.step, s) : s; };
  int64_t step = types.step;
  Value rightPanel = k.mul(tile.number, k.idx(accumulators));
  if (tiling.usesAmx)
    return sumAmxTiles(
        k, tiling, steps,
        [&](Value s, int64_t i) -> Element {
          Value panel = k.div(k.add(row, k.idx(i)), k.idx(amxTileRows));
          return {lhs, {panel, at(s), k.idx(0)}};
        },
        [&](int64_t j) -> Element {
          return {rhs, {k.add(rightPanel, k.idx(j))}};
        },
        start.init, start.step);
  Value leftPanel = k.div(row, k.idx(tiling.registerTileRows));
  return registerTile(
      k, tiling.registerTileRows, accumulators, k.idx(0), steps,
      [&](Value s, int64_t i) {
        SmallVector<Value> position{leftPanel, at(s), k.idx(step * i)};
        return step == 2 ? loadPair(k, lhs, position)
                         : k.loadScalar(lhs, position);
      },
      [&](Value s, int64_t j) {
        return loadPanel(k, rhs, k.add(rightPanel, k.idx(j)), at(s));
      },
      start.init);
}

Value mlir::moe::leftPanels(KernelLowering &lowering,
                            const MatmulTiling &tiling, Value from,
                            int64_t columns, int64_t steps,
                            const ProductTypes &types) {
  if (types.usesAmx())
    return rightPanels(lowering, from, columns, steps, types);
  return lowering.temporary(
      {llvm::divideCeilSigned(columns, tiling.registerTileRows), steps,
       tiling.registerTileRows * types.step},
      elementOf(from));
}

Value mlir::moe::rightPanels(KernelLowering &lowering, Value from,
                             int64_t columns, int64_t steps,
                             const ProductTypes &types) {
  return lowering.temporary(panelShape(columns, steps * types.step, types),
                            elementOf(from));
}

void mlir::moe::launchSteps(
    KernelLowering &lowering, Operation *op, const SteppedOperand &operand,
    const ProductTypes &types, int64_t steps,
    function_ref<void(KernelBuilder &, Value, Value, PackRows)> body) {
  constexpr int64_t workItems = 16;
  bool transposed = types.usesAmx() && operand.side == SteppedOperand::Left;
  lowering.launch(
      op,
      {.label = "pack_steps", .workItems = workItems, .compute = types.compute},
      [&](KernelBuilder &k) {
        Value from = k.matrix(operand.from), to = k.buffer(operand.to);
        int64_t share = llvm::alignTo(llvm::divideCeilSigned(steps, workItems),
                                      types.stepsOfAmxTile);
        Value first = k.mul(k.workItem(), k.idx(share));
        Value last = k.min(k.add(first, k.idx(share)), k.idx(steps));
        body(k, first, last, [&](const RowList &rows, Value first, Value last) {
          packSteps(k,
                    {.from = from,
                     .row = rows.row,
                     .count = rows.count,
                     .firstStep = rows.firstStep},
                    operand.firstColumn, operand.columns, first, last, to,
                    types, transposed);
        });
      });
}

void mlir::moe::storeSums(KernelBuilder &k, ValueRange sums, Value to,
                          Value row, const RegisterTileColumns &columns,
                          bool add) {
  for (auto [sum, lane] : llvm::zip_equal(sums, columns.lanes))
    k.store(add ? k.addf(k.load(to, row, lane), sum) : sum, to, row, lane);
}

void mlir::moe::prefetchRegisterTile(KernelBuilder &k,
                                     const MatmulTiling &tiling, Value from,
                                     Value row,
                                     const RegisterTileColumns &columns,
                                     int64_t offset) {
  for (int64_t i = 0; i < tiling.registerTileRows; ++i)
    for (const KernelBuilder::Lane &lane : columns.lanes)
      prefetch(k, from,
               {k.add(row, k.idx(i)), k.add(lane.column, k.idx(offset))});
}

SmallVector<Value> mlir::moe::loadSums(KernelBuilder &k,
                                       const MatmulTiling &tiling, Value from,
                                       Value row, int64_t rows,
                                       const RegisterTileColumns &columns) {
  auto load = [&](Value i, const KernelBuilder::Lane &lane) {
    return k.load(from, k.min(k.add(row, i), k.idx(rows - 1)), lane);
  };
  SmallVector<Value> sums;
  if (!tiling.usesAmx) {
    for (int64_t i = 0; i < tiling.registerTileRows; ++i)
      for (const KernelBuilder::Lane &lane : columns.lanes)
        sums.push_back(load(k.idx(i), lane));
    return sums;
  }
  Value scratch = amxScratch(k, tiling);
  k.loop(tiling.registerTileRows, [&](Value i) {
    for (auto [j, lane] : llvm::enumerate(columns.lanes))
      k.store(load(i, lane), scratch, i, {k.idx(j * k.lanes()), Value()});
  });
  forEachAmxTile(k, tiling, [&](int64_t rows, ArrayRef<Value> position) {
    sums.push_back(loadAmxTile(k, scratch, position, rows));
  });
  return sums;
}
