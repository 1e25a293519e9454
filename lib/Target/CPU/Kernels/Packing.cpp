//===-- Packing.cpp - panels, the layout of right operands ----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Packing.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

int64_t mlir::moe::lanesOf(const TargetDescription &target, Type compute) {
  return target.vectorBytes * 8 / compute.getIntOrFloatBitWidth();
}

ProductTypes::ProductTypes(const TargetDescription &target, Type lhs, Type rhs)
    : target(target), compute(preciseType(rhs)), operand(compute), panel(rhs),
      lanes(lanesOf(target, compute)), step(1),
      registerTileRows(target.registerTileRows()) {
  if (target.bf16Products == Bf16Products::Widened || !lhs.isBF16() ||
      !rhs.isBF16())
    return;
  operand = lhs;
  step = 2;
  if (target.bf16Products == Bf16Products::Amx && lanes == amxTileRows) {
    stepsOfAmxTile = amxTileRows;
    // 2 x 2 AMX tiles of sums and two of each operand are all eight registers.
    registerTileRows = 2 * amxTileRows;
  }
}

ProductTypes ProductTypes::withoutAmx() const {
  ProductTypes types = *this;
  types.stepsOfAmxTile = 1;
  types.registerTileRows = target.registerTileRows();
  return types;
}

ProductTypes ProductTypes::withQuantisedPanels() const {
  ProductTypes types = withoutAmx();
  types.panel = IntegerType::get(panel.getContext(), 8);
  return types;
}

ProductTypes mlir::moe::typesOfWeights(const KernelLowering &lowering,
                                       Value input, ValueRange weights) {
  ProductTypes types(lowering.target(), elementOf(input),
                     elementOf(weights.front()));
  bool quantised = llvm::all_of(
      weights, [&](Value weight) { return lowering.isQuantised(weight); });
  return quantised ? types.withQuantisedPanels() : types;
}

Value ProductTypes::steps(KernelBuilder &k, Value inner) const {
  int64_t taken = step * stepsOfAmxTile;
  return k.mul(k.div(k.add(inner, k.idx(taken - 1)), k.idx(taken)),
               k.idx(stepsOfAmxTile));
}

std::string ProductTypes::layout() const {
  std::string name = std::to_string(lanes);
  for (int64_t factor : {step, stepsOfAmxTile})
    if (factor > 1)
      name += "x" + std::to_string(factor);
  return quantised() ? name + ".int8" : name;
}

/// Inner steps that the scales of a panel of `element`s take. A step of i8 has
/// `step` bytes in each lane.
static int64_t scaleSteps(Type element, Type compute, int64_t step) {
  return element.isInteger(8) ? compute.getIntOrFloatBitWidth() / 8 / step : 0;
}

SmallVector<int64_t> mlir::moe::panelShape(int64_t columns, int64_t inner,
                                           const ProductTypes &types) {
  // A register tile reads two panels.
  int64_t panels =
      llvm::alignTo(llvm::divideCeilSigned(columns, types.lanes), 2);
  int64_t steps =
      types.steps(inner) + scaleSteps(types.panel, types.compute, types.step);
  return {panels, steps, types.lanes * types.step};
}

int64_t mlir::moe::stepOfPanels(const KernelBuilder &k, Value panels) {
  return cast<MemRefType>(panels.getType()).getShape().back() / k.lanes();
}

/// Inner steps of a panel, without those that hold its scales.
static int64_t stepsIn(const KernelBuilder &k, Value panels) {
  auto type = cast<MemRefType>(panels.getType());
  return type.getDimSize(type.getRank() - 2) -
         scaleSteps(type.getElementType(), k.compute(),
                    stepOfPanels(k, panels));
}

static SmallVector<Value> indices(ValueRange leading, Value last) {
  SmallVector<Value> all(leading);
  all.push_back(last);
  return all;
}

bool mlir::moe::isQuantised(Value panels) {
  return elementOf(panels).isInteger(8);
}

Value mlir::moe::loadPanel(KernelBuilder &k, Value panels, ValueRange panel,
                           Value step) {
  SmallVector<Value> position = indices(panel, step);
  auto type = cast<MemRefType>(panels.getType());
  bool quantised = isQuantised(panels);
  int64_t perStep = stepOfPanels(k, panels);
  if (perStep == 1 && !quantised)
    return k.load(panels, position, {k.idx(0), Value()});
  position.push_back(k.idx(0));
  auto stored = VectorType::get(type.getShape().back(), type.getElementType());
  Value elements = vector::LoadOp::create(k, stored, panels, position);
  if (!quantised)
    return elements;
  Value integers =
      arith::ExtSIOp::create(k, stored.clone(k.getI32Type()), elements);
  Value numbers =
      arith::SIToFPOp::create(k, stored.clone(k.compute()), integers);
  if (perStep == 1)
    return numbers;
  // The integers are exact in bf16, so the lower halves are zero.
  int64_t count = stored.getNumElements();
  Value halves = vector::BitCastOp::create(
      k, VectorType::get({2 * count}, k.getI16Type()), numbers);
  SmallVector<int64_t> upper;
  for (int64_t i = 0; i < count; ++i)
    upper.push_back(2 * i + 1);
  return vector::BitCastOp::create(
      k, stored.clone(k.getBF16Type()),
      vector::ShuffleOp::create(k, halves, halves, upper));
}

/// Calls `body` for each step that holds scales of a panel, with the indices of
/// its first byte and that byte's number among all bytes of the scales.
static void forEachStepOfScales(KernelBuilder &k, Value panels,
                                ValueRange panel,
                                function_ref<void(ValueRange, int64_t)> body) {
  auto type = cast<MemRefType>(panels.getType());
  int64_t first = stepsIn(k, panels), width = type.getShape().back();
  int64_t last = type.getDimSize(type.getRank() - 2);
  for (int64_t step = first; step < last; ++step)
    body(indices(indices(panel, k.idx(step)), k.idx(0)),
         (step - first) * width);
}

/// The type of all bytes of the scales of a panel, and of those in one step.
static VectorType bytesOfScales(KernelBuilder &k) {
  int64_t bytes = k.compute().getIntOrFloatBitWidth() / 8;
  return VectorType::get({k.lanes() * bytes}, k.getI8Type());
}
static VectorType bytesOfStep(KernelBuilder &k, Value panels) {
  return VectorType::get({cast<MemRefType>(panels.getType()).getShape().back()},
                         k.getI8Type());
}

Value mlir::moe::loadScales(KernelBuilder &k, Value panels, ValueRange panel) {
  Value bytes = arith::ConstantOp::create(k, k.getZeroAttr(bytesOfScales(k)));
  forEachStepOfScales(k, panels, panel, [&](ValueRange at, int64_t first) {
    Value part = vector::LoadOp::create(k, bytesOfStep(k, panels), panels, at);
    bytes = vector::InsertStridedSliceOp::create(
        k, part, bytes, ArrayRef<int64_t>{first}, ArrayRef<int64_t>{1});
  });
  return vector::BitCastOp::create(k, k.vectorType(), bytes);
}

/// Stores a vector of scales where loadScales finds them.
static void storeScales(KernelBuilder &k, Value scales, Value panels,
                        ValueRange panel) {
  Value bytes = vector::BitCastOp::create(k, bytesOfScales(k), scales);
  forEachStepOfScales(k, panels, panel, [&](ValueRange at, int64_t first) {
    Value part = vector::ExtractStridedSliceOp::create(
        k, bytes, ArrayRef<int64_t>{first}, bytesOfStep(k, panels).getShape(),
        ArrayRef<int64_t>{1});
    vector::StoreOp::create(k, part, panels, at);
  });
}

/// Transposes a square of vectors: swaps the off-diagonal blocks of half the
/// side, then those of a quarter, and so on.
static void transposeSquare(KernelBuilder &k, MutableArrayRef<Value> rows) {
  auto side = static_cast<int64_t>(rows.size());
  for (int64_t half = side / 2; half > 0; half /= 2) {
    SmallVector<int64_t> low, high;
    for (int64_t i = 0; i < side; ++i) {
      bool isSecond = i & half;
      low.push_back(isSecond ? side + i - half : i);
      high.push_back(isSecond ? side + i : i + half);
    }
    for (int64_t i = 0; i < side; ++i) {
      if (i & half)
        continue;
      Value a = rows[i], b = rows[i + half];
      rows[i] = vector::ShuffleOp::create(k, a, b, low);
      rows[i + half] = vector::ShuffleOp::create(k, a, b, high);
    }
  }
}

/// The same for vectors of pairs.
static void transposePairs(KernelBuilder &k, MutableArrayRef<Value> rows) {
  Type pairs = rows[0].getType();
  auto words = VectorType::get({k.lanes()}, k.getI32Type());
  for (Value &row : rows)
    row = vector::BitCastOp::create(k, words, row);
  transposeSquare(k, rows);
  for (Value &row : rows)
    row = vector::BitCastOp::create(k, pairs, row);
}

TransposedRows mlir::moe::consecutiveRows(KernelBuilder &k, Value from,
                                          Value first) {
  auto type = cast<MemRefType>(from.getType());
  int64_t rows = type.getDimSize(0);
  Value count = k.max(k.sub(k.idx(rows), first), k.idx(0));
  return {.from = from,
          .row =
              [&k, first, rows](Value i) {
                return k.min(k.add(first, i), k.idx(rows - 1));
              },
          .count = count,
          .width = type.getDimSize(1)};
}

void mlir::moe::packPanel(KernelBuilder &k, const TransposedRows &rows,
                          Value lo, Value hi, int64_t steps, Value panels,
                          ValueRange panel,
                          function_ref<Value(int64_t, Value)> convert) {
  // Squares of words are transposed. A word is what a lane of a step holds.
  int64_t lanes = k.lanes(), step = stepOfPanels(k, panels);
  int64_t side = lanes * step;
  Type element = cast<MemRefType>(panels.getType()).getElementType();
  auto words = VectorType::get(
      {lanes}, k.getIntegerType(step * element.getIntOrFloatBitWidth()));
  SmallVector<Value> sources;
  for (int64_t i = 0; i < lanes; ++i)
    sources.push_back(rows.row(k.idx(i)));
  Value exists = k.mask(rows.count);
  auto packSquare = [&](Value column, Value mask, int64_t stepsOfSquare) {
    Value read = rows.firstColumn ? k.add(rows.firstColumn, column) : column;
    SmallVector<Value> square;
    for (auto [i, source] : llvm::enumerate(sources)) {
      Value elements = k.loadElements(rows.from, source, {read, mask}, side);
      if (convert)
        elements = convert(i, elements);
      square.push_back(vector::BitCastOp::create(k, words, elements));
    }
    transposeSquare(k, square);
    Value first = k.div(column, k.idx(step));
    Value zero = arith::ConstantOp::create(k, k.getZeroAttr(words));
    for (int64_t i = 0; i < stepsOfSquare; ++i) {
      Value kept = k.select(exists, square[i], zero);
      Value elements =
          vector::BitCastOp::create(k, VectorType::get({side}, element), kept);
      SmallVector<Value> position =
          indices(indices(panel, k.add(first, k.idx(i))), k.idx(0));
      vector::StoreOp::create(k, elements, panels, position);
    }
  };
  int64_t whole = rows.width / side * side;
  k.loop(lo, k.min(hi, k.idx(whole)), side,
         [&](Value column) { packSquare(column, Value(), lanes); });
  if (whole == rows.width)
    return;
  k.ifThen(k.less(k.idx(whole), hi), [&] {
    // All steps that are left, also those beyond the last column.
    packSquare(k.idx(whole), k.mask(k.idx(rows.width - whole), side),
               steps - whole / step);
  });
}

namespace {

/// A few inner steps that are packed together, so that stores fill whole cache
/// lines. If fewer are left, the last one is packed again.
class Steps {
public:
  Steps(KernelBuilder &k, const SteppedRows &rows, Value begin, Value last,
        int64_t count, const ProductTypes &types);

  /// Where a vector of columns goes: columns `first` to `first + count` of a
  /// panel.
  struct Target {
    Value panels, panel;
    int64_t first, count;
    bool transposed = false;
  };
  /// Packs the vector of columns from `column` on: those in `mask`, or all if
  /// there is no mask.
  void pack(Value column, Value mask, const Target &target);

private:
  /// An inner step: its number in the panels, its rows, and for each row
  /// whether it exists (null for one that does).
  struct Step {
    Value place;
    SmallVector<Value, 2> rows, exists;
  };

  KernelBuilder &k;
  Value from;
  int64_t step;
  SmallVector<Step> steps;
};

} // namespace

Steps::Steps(KernelBuilder &k, const SteppedRows &rows, Value begin, Value last,
             int64_t count, const ProductTypes &types)
    : k(k), from(rows.from), step(types.step) {
  for (int64_t i = 0; i < count; ++i) {
    Value number = k.min(k.add(begin, k.idx(i)), k.sub(last, k.idx(1)));
    Value r = k.mul(number, k.idx(step));
    Value place = rows.firstStep ? k.add(rows.firstStep, number) : number;
    Step packed{place, {}, {}};
    for (int64_t j = 0; j < step; ++j) {
      bool exists = j == 0 && !types.usesAmx();
      Value row = k.add(r, k.idx(j)), last = k.sub(rows.count, k.idx(1));
      packed.rows.push_back(rows.row(exists ? row : k.min(row, last)));
      packed.exists.push_back(exists ? Value() : k.less(row, rows.count));
    }
    steps.push_back(packed);
  }
}

void Steps::pack(Value column, Value mask, const Target &target) {
  int64_t lanes = k.lanes();
  SmallVector<Value> packedSteps;
  for (const Step &packed : steps) {
    SmallVector<Value, 2> loaded;
    for (auto [row, exists] : llvm::zip_equal(packed.rows, packed.exists)) {
      Value elements = k.loadElements(from, row, {column, mask}, lanes);
      if (exists) {
        Value zero =
            arith::ConstantOp::create(k, k.getZeroAttr(elements.getType()));
        elements = k.select(exists, elements, zero);
      }
      loaded.push_back(elements);
    }
    packedSteps.push_back(
        step == 2 ? vector::InterleaveOp::create(k, loaded[0], loaded[1])
                  : loaded[0]);
  }
  if (target.transposed)
    transposePairs(k, packedSteps);
  for (auto [packed, elements] : llvm::zip_equal(steps, packedSteps)) {
    SmallVector<Value> position{target.panel, packed.place,
                                k.idx(target.first * step)};
    if (target.count == lanes)
      vector::StoreOp::create(k, elements, target.panels, position);
    else
      vector::MaskedStoreOp::create(
          k, target.panels, position,
          k.mask(k.idx(target.count * step), lanes * step), elements);
  }
}

static constexpr int64_t stepsTogether = 4;

void mlir::moe::packSteps(KernelBuilder &k, const SteppedRows &rows,
                          int64_t firstColumn, int64_t width, Value first,
                          Value last, Value panels, const ProductTypes &types,
                          bool transposed) {
  auto type = cast<MemRefType>(panels.getType());
  int64_t lanes = k.lanes();
  int64_t panelWidth = type.getDimSize(2) / types.step;
  int64_t whole = width / panelWidth;
  int64_t together = transposed ? types.stepsOfAmxTile : stepsTogether;
  k.loop(first, last, together, [&](Value begin) {
    Steps steps(k, rows, begin, last, together, types);
    // `columns` columns of the panel exist.
    auto packPanelColumns = [&](Value panel, int64_t columns) {
      Value panelColumn =
          k.add(k.mul(panel, k.idx(panelWidth)), k.idx(firstColumn));
      for (int64_t lane = 0; lane < panelWidth; lane += lanes) {
        int64_t count = std::min(lanes, panelWidth - lane);
        int64_t present = std::clamp<int64_t>(columns - lane, 0, count);
        Value mask = present == lanes ? Value() : k.mask(k.idx(present));
        steps.pack(k.add(panelColumn, k.idx(lane)), mask,
                   {panels, panel, lane, count, transposed});
      }
    };
    k.loop(whole, [&](Value panel) { packPanelColumns(panel, panelWidth); });
    // The last panel, and the one that makes the number of panels even.
    for (int64_t panel = whole; panel < type.getDimSize(0); ++panel)
      packPanelColumns(k.idx(panel), width - panel * panelWidth);
  });
}

void mlir::moe::packSteps(KernelBuilder &k, const SteppedRows &rows,
                          ArrayRef<Lane> lanes, Value first, Value last,
                          Value panels, const ProductTypes &types) {
  k.loop(first, last, stepsTogether, [&](Value begin) {
    Steps steps(k, rows, begin, last, stepsTogether, types);
    for (auto [panel, lane] : llvm::enumerate(lanes))
      steps.pack(lane.column, lane.mask,
                 {panels, k.idx(static_cast<int64_t>(panel)), 0, k.lanes()});
  });
}

/// Launches the packing of `weight` into panels of `shape`, which it returns.
static Value
launchPacking(KernelLowering &lowering, Operation *op, Value weight,
              const ProductTypes &types, ArrayRef<int64_t> shape,
              StringRef label, StringRef layout, int64_t workItems,
              function_ref<void(KernelBuilder &, Value from, Value to)> body) {
  Value panels = lowering.temporary(shape, types.panel);
  lowering.launch(op,
                  {.label = label,
                   .workItems = workItems,
                   .compute = types.compute,
                   .derives = (layout + "." + types.layout()).str()},
                  [&](KernelBuilder &k) {
                    Value from = k.buffer(weight);
                    body(k, from, k.buffer(panels));
                  });
  return panels;
}

/// Packs and quantises rows `first` and on of `from` into panel `panel`.
static void packQuantised(KernelBuilder &k, Value from, Value first,
                          Value panels, Value panel) {
  // -128 is left out, which makes the range symmetric.
  constexpr double largestInteger = 127;
  TransposedRows rows = consecutiveRows(k, from, first);
  Value scales = k.scratch({k.lanes()}, k.compute());
  k.loop(k.lanes(), [&](Value i) {
    Value row = rows.row(i);
    Value largest =
        k.columns(rows.width, k.splat(0.0), [&](Lane lane, Value most) {
          Value magnitude = math::AbsFOp::create(k, k.load(from, row, lane));
          return k.maxf(most, magnitude);
        });
    k.storeScalar(k.divf(k.maximum(largest), k.scalar(largestInteger)), scales,
                  i);
  });
  // The integers of a channel are all zero if its scale is zero, or subnormal,
  // which is too coarse to divide by, or not finite, which makes every sum NaN.
  auto isUsable = [&](Value scale) -> Value {
    Value low = k.scalar(std::numeric_limits<float>::min());
    Value high = k.scalar(std::numeric_limits<double>::infinity());
    return arith::AndIOp::create(
        k, arith::CmpFOp::create(k, arith::CmpFPredicate::OGE, scale, low),
        arith::CmpFOp::create(k, arith::CmpFPredicate::OLT, scale, high));
  };
  auto quantise = [&](int64_t i, Value elements) -> Value {
    auto wide = cast<VectorType>(elements.getType()).clone(k.compute());
    if (elements.getType() != wide)
      elements = arith::ExtFOp::create(k, wide, elements);
    Value scale = k.loadScalar(scales, k.idx(i));
    Value quotient =
        k.divf(elements, vector::BroadcastOp::create(k, wide, scale));
    Value zero = arith::ConstantOp::create(k, k.getZeroAttr(wide));
    quotient = k.select(isUsable(scale), quotient, zero);
    return arith::FPToSIOp::create(k, wide.clone(k.getI8Type()),
                                   math::RoundEvenOp::create(k, quotient));
  };
  packPanel(k, rows, k.idx(0), k.idx(rows.width), stepsIn(k, panels), panels,
            panel, quantise);
  Lane existing{k.idx(0), k.mask(rows.count)};
  storeScales(k, k.load(scales, ValueRange(), existing), panels, panel);
}

Value mlir::moe::packTransposed(KernelLowering &lowering, Operation *op,
                                Value weight, const ProductTypes &types) {
  auto type = cast<MemRefType>(weight.getType());
  int64_t columns = type.getDimSize(0), inner = type.getDimSize(1);
  int64_t lanes = types.lanes;
  SmallVector<int64_t> shape = panelShape(columns, inner, types);
  // If there are few panels, each is cut into slices for more work items. A
  // quantised panel is not: its scales depend on whole rows.
  constexpr int64_t wantedItems = 16, shortestSlice = 256;
  int64_t slices = types.quantised()
                       ? 1
                       : std::clamp<int64_t>(
                             llvm::divideCeilSigned(wantedItems, shape[0]), 1,
                             llvm::divideCeilSigned(inner, shortestSlice));
  int64_t slice =
      llvm::alignTo(llvm::divideCeilSigned(inner, slices), shape.back());
  slices = llvm::divideCeilSigned(inner, slice);
  return launchPacking(
      lowering, op, weight, types, shape, "pack", "transposed",
      shape[0] * slices, [&](KernelBuilder &k, Value from, Value to) {
        Value panel = k.div(k.workItem(), k.idx(slices));
        Value first = k.mul(panel, k.idx(lanes));
        if (types.quantised())
          return packQuantised(k, from, first, to, panel);
        Value lo = k.mul(k.rem(k.workItem(), k.idx(slices)), k.idx(slice));
        packPanel(k, consecutiveRows(k, from, first), lo,
                  k.min(k.add(lo, k.idx(slice)), k.idx(inner)),
                  types.steps(inner), to, panel);
      });
}

Value mlir::moe::packStraight(KernelLowering &lowering, Operation *op,
                              Value weight, const ProductTypes &types) {
  assert(!types.quantised() && "expected scales of rows");
  auto type = cast<MemRefType>(weight.getType());
  int64_t inner = type.getDimSize(0), columns = type.getDimSize(1);
  SmallVector<int64_t> shape = panelShape(columns, inner, types);
  int64_t steps = types.steps(inner);
  int64_t perItem = rowsPerWorkItem(steps, columns * types.step);
  return launchPacking(
      lowering, op, weight, types, shape, "pack_rows", "straight",
      llvm::divideCeilSigned(steps, perItem),
      [&](KernelBuilder &k, Value from, Value to) {
        Value first = k.mul(k.workItem(), k.idx(perItem));
        packSteps(k,
                  {.from = from,
                   .row = [](Value r) { return r; },
                   .count = k.idx(inner)},
                  0, columns, first,
                  k.min(k.add(first, k.idx(perItem)), k.idx(steps)), to, types);
      });
}
