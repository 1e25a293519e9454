//===-- RoutedMatmul.cpp - grouped matrix products ------------------------===//
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

#include "Activation.h"
#include "Matmul.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

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
/// Argument `argument` holds the routes, the next one the number of experts.
struct GroupedRows {
  GroupedRows(KernelBuilder &k, const Grouping &grouping, unsigned argument,
              const MatmulTiling &tiling)
      : k(k), grouping(grouping) {
    Value index = k.div(k.tile(), k.idx(tiling.splits));
    split = k.rem(k.tile(), k.idx(tiling.splits));
    if (grouping.routed) {
      routes = k.buffer(argument);
      block = routedRowBlock(k, index, routes, grouping.rows,
                             k.integer(argument + 1), tiling.blockRows);
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

MemRefType matrixType(int64_t rows, int64_t columns, Type element) {
  return MemRefType::get({rows, columns}, element);
}

/// The weights of every expert, one kind after the other: `weights` has `each`
/// of an expert, then of the next.
SmallVector<SmallVector<Value>> byKind(KernelLowering &lowering,
                                       ValueRange weights, int64_t each) {
  SmallVector<SmallVector<Value>> kinds(each);
  for (auto [i, weight] : llvm::enumerate(weights))
    kinds[i % each].push_back(lowering.buffer(weight));
  return kinds;
}

/// A table of packed weights.
Value packedTable(KernelLowering &lowering, Operation *op,
                  ArrayRef<Value> weights, Type compute) {
  SmallVector<Value> panels;
  for (Value weight : weights)
    panels.push_back(packTransposed(lowering, op, weight, compute));
  return lowering.table(panels);
}

/// Appends routes and number of experts, which GroupedRows reads.
void addGrouping(KernelLowering &lowering, const Grouping &grouping,
                 Value routes, SmallVectorImpl<Value> &arguments) {
  if (!grouping.routed)
    return;
  arguments.push_back(lowering.buffer(routes));
  arguments.push_back(lowering.constant(grouping.experts));
}

MemRefType panelType(int64_t n, int64_t inner, int64_t lanes, Type element) {
  return MemRefType::get(panelShape(n, inner, lanes), element);
}

} // namespace

//===----------------------------------------------------------------------===//
// Forward
//===----------------------------------------------------------------------===//

static LogicalResult lowerRoutedUp(RoutedUpOp op, KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), rowsOf(op.getInput()));
  int64_t inner = widthOf(op.getInput()), hidden = widthOf(op.getHidden());
  Type element = elementOf(op.getInput());
  Type compute = computeTypeOf(op.getInput());
  int64_t lanes = lanesOf(lowering.target(), compute);
  bool gated = op.getForm() == FfnForm::Gated;
  ActivationKind activation = op.getActivation();
  // Gated: each column has a sum for the gate and one for the value.
  MatmulTiling tiling(grouping.tokens, hidden, lanes, lowering.target(),
                      gated ? 1 : accumulators);

  auto kinds = byKind(lowering, op.getWeights(), 2);
  SmallVector<Value> arguments = {
      lowering.buffer(op.getInput()), lowering.result(op.getHidden()),
      packedTable(lowering, op, kinds[0], compute),
      gated ? packedTable(lowering, op, kinds[1], compute)
            : lowering.table(kinds[1])};
  addGrouping(lowering, grouping, op.getRoutes(), arguments);
  unsigned preactivation = arguments.size();
  if (op.getPreactivation())
    arguments.push_back(lowering.result(op.getPreactivation()));

  lowering.launch(
      op,
      {.label = "",
       .tiles = grouping.blocks(tiling) * tiling.splits,
       .arguments = arguments,
       .compute = compute,
       .key = grouping.key({inner, hidden, gated, int64_t(activation)}),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        Value x = k.buffer(0, {grouping.tokens, inner});
        Value y = k.buffer(1, {grouping.rows, hidden});
        Value z = op.getPreactivation()
                      ? k.buffer(preactivation,
                                 {grouping.rows, gated ? 2 * hidden : hidden})
                      : Value();
        GroupedRows rows(k, grouping, 4, tiling);
        MemRefType panels = panelType(hidden, inner, lanes, element);
        Value first = k.tableEntry(2, rows.block.expert, panels);
        Value second =
            k.tableEntry(3, rows.block.expert,
                         gated ? panels : MemRefType::get({hidden}, element));
        Value packed =
            packRows(k, x, rows.block, tiling.blockRows, inner,
                     [&](Value i) { return rows.token(rows.row(i)); });
        forEachRegisterTile(
            k, tiling, rows.block, rows.split,
            [&](Value row, const TileColumns &tile) {
              return timesPanels(
                  k, tiling, packed, row, inner, [&](int64_t j) -> Panel {
                    if (gated)
                      return {j == 0 ? first : second, tile.group};
                    return {first, k.add(k.mul(tile.group, k.idx(accumulators)),
                                         k.idx(j))};
                  });
            },
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              Value target = rows.row(row);
              if (gated) {
                KernelBuilder::Lane lane = tile.lanes[0];
                // Rounded first, so that the backward sees what was used.
                Value gate = k.roundTo(sums[0], element);
                Value up = k.roundTo(sums[1], element);
                k.store(k.mulf(emitActivation(k, activation, gate), up), y,
                        target, lane);
                if (!z)
                  return;
                k.store(gate, z, target, lane);
                k.store(up, z, target,
                        {k.add(lane.column, k.idx(hidden)), lane.mask});
                return;
              }
              for (auto [sum, lane] : llvm::zip_equal(sums, tile.lanes)) {
                Value value = k.roundTo(
                    k.addf(sum, k.load(second, ValueRange(), lane)), element);
                k.store(emitActivation(k, activation, value), y, target, lane);
                if (z)
                  k.store(value, z, target, lane);
              }
            });
      });
  return success();
}

static LogicalResult lowerRoutedDown(RoutedDownOp op,
                                     KernelLowering &lowering) {
  int64_t topK = op.getRoutes() ? op.getRoutes().getType().getTopK() : 1;
  Grouping grouping(op.getRoutes(), rowsOf(op.getHidden()) / topK);
  int64_t hidden = widthOf(op.getHidden()), width = widthOf(op.getResult());
  Type element = elementOf(op.getHidden());
  Type compute = computeTypeOf(op.getHidden());
  int64_t lanes = lanesOf(lowering.target(), compute);
  bool biased = op.getForm() == FfnForm::Plain;
  MatmulTiling tiling(grouping.tokens, width, lanes, lowering.target());

  auto kinds = byKind(lowering, op.getWeights(), biased ? 2 : 1);
  SmallVector<Value> arguments = {lowering.buffer(op.getHidden()),
                                  lowering.result(op.getResult()),
                                  packedTable(lowering, op, kinds[0], compute)};
  addGrouping(lowering, grouping, op.getRoutes(), arguments);
  unsigned biases = arguments.size();
  if (biased)
    arguments.push_back(lowering.table(kinds[1]));

  lowering.launch(
      op,
      {.label = "",
       .tiles = grouping.blocks(tiling) * tiling.splits,
       .arguments = arguments,
       .compute = compute,
       .key = grouping.key({hidden, width, biased}),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        Value h = k.buffer(0, {grouping.rows, hidden});
        Value y = k.buffer(1, {grouping.rows, width});
        GroupedRows rows(k, grouping, 3, tiling);
        Value down = k.tableEntry(2, rows.block.expert,
                                  panelType(width, hidden, lanes, element));
        Value bias = biased ? k.tableEntry(biases, rows.block.expert,
                                           MemRefType::get({width}, element))
                            : Value();
        Value packed = packRows(k, h, rows.block, tiling.blockRows, hidden,
                                [&](Value i) { return rows.row(i); });
        forEachRegisterTile(
            k, tiling, rows.block, rows.split,
            [&](Value row, const TileColumns &tile) {
              Value panel = k.mul(tile.group, k.idx(accumulators));
              return timesPanels(k, tiling, packed, row, hidden,
                                 [&](int64_t j) {
                                   return Panel{down, k.add(panel, k.idx(j))};
                                 });
            },
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              SmallVector<Value> values(sums);
              if (bias)
                for (auto [value, lane] : llvm::zip_equal(values, tile.lanes))
                  value = k.addf(value, k.load(bias, ValueRange(), lane));
              storeSums(k, values, y, rows.row(row), tile);
            });
      });
  return success();
}

//===----------------------------------------------------------------------===//
// Backward
//===----------------------------------------------------------------------===//

static LogicalResult lowerRoutedDownGrad(RoutedDownGradOp op,
                                         KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), rowsOf(op.getDy()));
  int64_t width = widthOf(op.getDy());
  bool gated = op.getForm() == FfnForm::Gated;
  int64_t hidden = widthOf(op.getDz()) / (gated ? 2 : 1);
  Type element = elementOf(op.getDy());
  Type compute = computeTypeOf(op.getDy());
  int64_t lanes = lanesOf(lowering.target(), compute);
  ActivationKind activation = op.getActivation();
  MatmulTiling tiling(grouping.tokens, hidden, lanes, lowering.target());
  // The gradient of a score is a sum over all hidden columns of its row.
  if (op.getDscores())
    tiling.doNotSplit();

  auto kinds = byKind(lowering, op.getWeights(), gated ? 1 : 2);
  SmallVector<Value> arguments = {
      lowering.buffer(op.getDy()), lowering.buffer(op.getPreactivation()),
      lowering.table(kinds[0]), lowering.result(op.getDz())};
  addGrouping(lowering, grouping, op.getRoutes(), arguments);
  auto optional = [&](Value buffer) {
    arguments.push_back(buffer);
    return arguments.size() - 1;
  };
  unsigned scores = 0, scaled = 0, dscores = 0, biases = 0;
  if (op.getScores())
    scores = optional(lowering.buffer(op.getScores()));
  if (op.getScaled())
    scaled = optional(lowering.result(op.getScaled()));
  if (op.getDscores())
    dscores = optional(lowering.result(op.getDscores()));
  if (!gated && op.getDscores())
    biases = optional(lowering.table(kinds[1]));

  lowering.launch(
      op,
      {.label = "",
       .tiles = grouping.blocks(tiling) * tiling.splits,
       .arguments = arguments,
       .compute = compute,
       .key = grouping.key({width, hidden, gated, int64_t(activation), scores,
                            scaled, dscores}),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        using Lane = KernelBuilder::Lane;
        Value dy = k.buffer(0, {grouping.tokens, width});
        int64_t zWidth = gated ? 2 * hidden : hidden;
        Value z = k.buffer(1, {grouping.rows, zWidth});
        Value dz = k.buffer(3, {grouping.rows, zWidth});
        GroupedRows rows(k, grouping, 4, tiling);
        auto flat = [&](unsigned i) { return k.buffer(i, {grouping.rows}); };
        Value score = scores ? flat(scores) : Value();
        Value dscore = dscores ? flat(dscores) : Value();
        Value hiddenScaled =
            scaled ? k.buffer(scaled, {grouping.rows, hidden}) : Value();
        Value down = k.tableEntry(2, rows.block.expert,
                                  matrixType(width, hidden, element));
        Value packed =
            packRows(k, dy, rows.block, tiling.blockRows, width,
                     [&](Value i) { return rows.token(rows.row(i)); });
        // One vector of partial sums of dscore for each row of the block.
        Value partial;
        if (dscore) {
          partial = k.scratch({tiling.blockRows, k.lanes()}, k.compute());
          k.loop(k.idx(0), k.idx(tiling.blockRows), 1, [&](Value i) {
            k.store(k.splat(0.0), partial, i, {k.idx(0), Value()});
          });
        }
        forEachRegisterTile(
            k, tiling, rows.block, rows.split,
            [&](Value row, const TileColumns &tile) {
              return timesRows(k, tiling, packed, row, width, down, tile);
            },
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              Value target = rows.row(row);
              Value s =
                  score ? k.broadcast(k.loadScalar(score, rows.slot(target)))
                        : k.splat(1.0);
              for (auto [h, lane] : llvm::zip_equal(sums, tile.lanes)) {
                Lane upLane{k.add(lane.column, k.idx(hidden)), lane.mask};
                Value gate = k.load(z, target, lane);
                Value act = emitActivation(k, activation, gate);
                Value slope = emitActivationDerivative(k, activation, gate);
                Value scaledH = k.mulf(s, h);
                Value output = act;
                if (gated) {
                  Value up = k.load(z, target, upLane);
                  output = k.mulf(act, up);
                  k.store(k.mulf(k.mulf(scaledH, up), slope), dz, target, lane);
                  k.store(k.mulf(scaledH, act), dz, target, upLane);
                } else {
                  k.store(k.mulf(scaledH, slope), dz, target, lane);
                }
                // What the forward multiplied by: rounded.
                output = k.roundTo(output, element);
                if (hiddenScaled)
                  k.store(k.mulf(s, output), hiddenScaled, target, lane);
                if (partial) {
                  Lane whole{k.idx(0), Value()};
                  Value sum = k.fma(h, output, k.load(partial, row, whole));
                  k.store(sum, partial, row, whole);
                }
              }
            });
        if (!dscore)
          return;
        Value bias = biases ? k.tableEntry(biases, rows.block.expert,
                                           MemRefType::get({width}, element))
                            : Value();
        k.loop(k.idx(0), rows.block.count, 1, [&](Value i) {
          Value sum = k.load(partial, i, {k.idx(0), Value()});
          if (bias)
            sum = k.columns(width, sum, [&](Lane lane, ValueRange acc) {
              return SmallVector<Value>{k.fma(k.load(packed, i, lane),
                                              k.load(bias, ValueRange(), lane),
                                              acc[0])};
            })[0];
          k.storeScalar(k.sum(sum), dscore, rows.slot(rows.row(i)));
        });
      });
  return success();
}

static LogicalResult lowerRoutedInputGrad(RoutedInputGradOp op,
                                          KernelLowering &lowering) {
  int64_t topK = op.getRoutes() ? op.getRoutes().getType().getTopK() : 1;
  Grouping grouping(op.getRoutes(), rowsOf(op.getDz()) / topK);
  bool gated = op.getForm() == FfnForm::Gated;
  int64_t hidden = widthOf(op.getDz()) / (gated ? 2 : 1);
  int64_t width = widthOf(op.getResult());
  Type element = elementOf(op.getDz());
  Type compute = computeTypeOf(op.getDz());
  MatmulTiling tiling(grouping.tokens, width,
                      lanesOf(lowering.target(), compute), lowering.target());
  auto kinds = byKind(lowering, op.getWeights(), gated ? 2 : 1);
  SmallVector<Value> arguments = {lowering.buffer(op.getDz()),
                                  lowering.result(op.getResult()),
                                  lowering.table(kinds[0])};
  addGrouping(lowering, grouping, op.getRoutes(), arguments);
  unsigned up = arguments.size();
  if (gated)
    arguments.push_back(lowering.table(kinds[1]));

  lowering.launch(
      op,
      {.label = "",
       .tiles = grouping.blocks(tiling) * tiling.splits,
       .arguments = arguments,
       .compute = compute,
       .key = grouping.key({width, hidden, gated}),
       .attributes = lowering.builder().getDictionaryAttr({})},
      [&](KernelBuilder &k) {
        int64_t zWidth = gated ? 2 * hidden : hidden;
        Value dz = k.buffer(0, {grouping.rows, zWidth});
        Value dx = k.buffer(1, {grouping.rows, width});
        GroupedRows rows(k, grouping, 3, tiling);
        MemRefType type = matrixType(hidden, width, element);
        Value first = k.tableEntry(2, rows.block.expert, type);
        Value second =
            gated ? k.tableEntry(up, rows.block.expert, type) : Value();
        Value packed = packRows(k, dz, rows.block, tiling.blockRows, zWidth,
                                [&](Value i) { return rows.row(i); });
        forEachRegisterTile(
            k, tiling, rows.block, rows.split,
            [&](Value row, const TileColumns &tile) {
              SmallVector<Value> sums =
                  timesRows(k, tiling, packed, row, hidden, first, tile);
              if (gated)
                sums = timesRows(k, tiling, packed, row, hidden, second, tile,
                                 hidden, sums);
              return sums;
            },
            [&](Value row, const TileColumns &tile, ValueRange sums) {
              storeSums(k, sums, dx, rows.row(row), tile);
            });
      });
  return success();
}

/// Rows of an operand: its tokens, read through the routes, or as they lie.
static bool inTokenOrder(Value operand) {
  return cast<RankedTensorType>(operand.getType()).getRank() == 3;
}

/// The rows [lo, hi) of one expert.
static std::pair<Value, Value> expertRows(KernelBuilder &k,
                                          const Grouping &grouping,
                                          Value routes, Value expert) {
  if (!grouping.routed)
    return {k.idx(0), k.idx(grouping.rows)};
  Value position = k.add(expert, k.idx(2 * grouping.rows));
  return {k.loadIndex(routes, position),
          k.loadIndex(routes, k.add(position, k.idx(1)))};
}

/// The row of an operand that routed row `r` reads.
static Value operandRow(KernelBuilder &k, const Grouping &grouping,
                        Value routes, bool tokenOrder, Value r) {
  if (!grouping.routed || !tokenOrder)
    return r;
  Value slot = k.loadIndex(routes, r);
  return grouping.topK == 1 ? slot : k.div(slot, k.idx(grouping.topK));
}

static LogicalResult lowerRoutedWeightGrad(RoutedWeightGradOp op,
                                           KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), lowering.tokens());
  int64_t lhsWidth = widthOf(op.getLhs()), rhsWidth = widthOf(op.getRhs());
  bool lhsTokens = inTokenOrder(op.getLhs());
  bool rhsTokens = inTokenOrder(op.getRhs());
  int64_t offset = op.getOffset();
  for (auto [expert, dweight] :
       llvm::zip_equal(op.getExperts(), op.getDweights())) {
    int64_t m = cast<RankedTensorType>(dweight.getType()).getDimSize(0);
    Type compute = elementOf(dweight);
    MatmulTiling tiling(m, rhsWidth, lanesOf(lowering.target(), compute),
                        lowering.target());
    SmallVector<Value> arguments = {lowering.buffer(op.getLhs()),
                                    lowering.buffer(op.getRhs()),
                                    lowering.result(dweight)};
    if (grouping.routed) {
      arguments.push_back(lowering.buffer(op.getRoutes()));
      arguments.push_back(lowering.constant(expert));
    }
    lowering.launch(
        op,
        {.label = "",
         .tiles = tiling.rowBlocks(m) * tiling.splits,
         .arguments = arguments,
         .compute = compute,
         .key = grouping.key({offset, m, lhsTokens, rhsTokens}),
         .attributes = lowering.builder().getDictionaryAttr({})},
        [&](KernelBuilder &k) {
          auto rowCount = [&](bool tokenOrder) {
            return tokenOrder ? grouping.tokens : grouping.rows;
          };
          Value lhs = k.buffer(0, {rowCount(lhsTokens), lhsWidth});
          Value rhs = k.buffer(1, {rowCount(rhsTokens), rhsWidth});
          Value dw = k.buffer(2);
          Value routes = grouping.routed ? k.buffer(3) : Value();
          Value e = grouping.routed ? k.integer(4) : Value();
          auto [lo, hi] = expertRows(k, grouping, routes, e);
          Value splits = k.idx(tiling.splits);
          RowBlock block =
              denseRowBlock(k, k.div(k.tile(), splits), m, tiling.blockRows);
          forEachRegisterTile(
              k, tiling, block, k.rem(k.tile(), splits),
              [&, lo = lo, hi = hi](Value row, const TileColumns &tile) {
                return sumOuterProducts(
                    k, tiling, lo, hi, lhs, k.add(block.first, row), offset, m,
                    rhs, tile,
                    [&](Value r) {
                      return operandRow(k, grouping, routes, lhsTokens, r);
                    },
                    [&](Value r) {
                      return operandRow(k, grouping, routes, rhsTokens, r);
                    });
              },
              [&](Value row, const TileColumns &tile, ValueRange sums) {
                storeSums(k, sums, dw, k.add(block.first, row), tile);
              });
        });
  }
  return success();
}

static LogicalResult lowerRoutedBiasGrad(RoutedBiasGradOp op,
                                         KernelLowering &lowering) {
  Grouping grouping(op.getRoutes(), lowering.tokens());
  int64_t width = widthOf(op.getDy());
  bool tokenOrder = inTokenOrder(op.getDy());
  for (auto [expert, dbias] :
       llvm::zip_equal(op.getExperts(), op.getDbiases())) {
    SmallVector<Value> arguments = {lowering.buffer(op.getDy()),
                                    lowering.result(dbias)};
    if (grouping.routed) {
      arguments.push_back(lowering.buffer(op.getRoutes()));
      arguments.push_back(lowering.constant(expert));
    }
    if (op.getScores())
      arguments.push_back(lowering.buffer(op.getScores()));
    lowering.launch(
        op,
        {.label = "",
         .tiles = 1,
         .arguments = arguments,
         .compute = elementOf(dbias),
         .key = grouping.key({tokenOrder}),
         .attributes = lowering.builder().getDictionaryAttr({})},
        [&](KernelBuilder &k) {
          Value dy = k.buffer(
              0, {tokenOrder ? grouping.tokens : grouping.rows, width});
          Value db = k.buffer(1);
          Value routes = grouping.routed ? k.buffer(2) : Value();
          Value e = grouping.routed ? k.integer(3) : Value();
          Value scores =
              op.getScores() ? k.buffer(4, {grouping.rows}) : Value();
          auto [lo, hi] = expertRows(k, grouping, routes, e);
          k.columns(width, [&, lo = lo, hi = hi](KernelBuilder::Lane lane) {
            Value sum =
                k.loop(lo, hi, 1, k.splat(0.0), [&](Value r, ValueRange acc) {
                  Value row = operandRow(k, grouping, routes, tokenOrder, r);
                  Value value = k.load(dy, row, lane);
                  if (!scores)
                    return SmallVector<Value>{k.addf(acc[0], value)};
                  Value score =
                      k.broadcast(k.loadScalar(scores, k.loadIndex(routes, r)));
                  return SmallVector<Value>{k.fma(score, value, acc[0])};
                })[0];
            k.store(sum, db, ValueRange(), lane);
          });
        });
  }
  return success();
}

void mlir::moe::addRoutedMatmulLowerings(LoweringTable &table) {
  table.add<RoutedUpOp>(lowerRoutedUp);
  table.add<RoutedDownOp>(lowerRoutedDown);
  table.add<RoutedDownGradOp>(lowerRoutedDownGrad);
  table.add<RoutedInputGradOp>(lowerRoutedInputGrad);
  table.add<RoutedWeightGradOp>(lowerRoutedWeightGrad);
  table.add<RoutedBiasGradOp>(lowerRoutedBiasGrad);
}
