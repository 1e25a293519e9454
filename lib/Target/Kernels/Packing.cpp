//===-- Packing.cpp - panels, the layout of right operands ----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Packing.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

int64_t mlir::moe::lanesOf(const TargetDescription &target, Type compute) {
  return target.vectorBytes * 8 / compute.getIntOrFloatBitWidth();
}

ProductTypes::ProductTypes(const TargetDescription &target, Type lhs, Type rhs)
    : compute(preciseType(rhs)), operand(compute),
      lanes(lanesOf(target, compute)), step(1), tileRows(target.tileRows()) {
  if (target.bf16Products == Bf16Products::Widened || !lhs.isBF16() ||
      !rhs.isBF16())
    return;
  operand = lhs;
  step = 2;
  if (target.bf16Products == Bf16Products::Tiles && lanes == tileSide) {
    stepsAtOnce = tileSide;
    // Two by two tiles of sums, two of each operand: all that there are.
    tileRows = 2 * tileSide;
  }
}

ProductTypes ProductTypes::withoutTiles(const TargetDescription &target) const {
  ProductTypes types = *this;
  types.stepsAtOnce = 1;
  types.tileRows = target.tileRows();
  return types;
}

Value ProductTypes::steps(KernelBuilder &k, Value inner) const {
  int64_t taken = step * stepsAtOnce;
  return k.mul(k.div(k.add(inner, k.idx(taken - 1)), k.idx(taken)),
               k.idx(stepsAtOnce));
}

std::string ProductTypes::layout() const {
  std::string name = std::to_string(lanes);
  for (int64_t factor : {step, stepsAtOnce})
    if (factor > 1)
      name += "x" + std::to_string(factor);
  return name;
}

SmallVector<int64_t> mlir::moe::panelShape(int64_t columns, int64_t inner,
                                           const ProductTypes &types) {
  // An even number, since a register tile reads two panels.
  int64_t panels =
      llvm::alignTo(llvm::divideCeilSigned(columns, types.lanes), 2);
  return {panels, types.steps(inner), types.lanes * types.step};
}

MemRefType mlir::moe::panelType(int64_t columns, int64_t inner,
                                const ProductTypes &types, Type element) {
  return MemRefType::get(panelShape(columns, inner, types), element);
}

int64_t mlir::moe::stepOfPanels(const KernelBuilder &k, Value panels) {
  return cast<MemRefType>(panels.getType()).getShape().back() / k.lanes();
}

static SmallVector<Value> indices(ValueRange leading, Value last) {
  SmallVector<Value> all(leading);
  all.push_back(last);
  return all;
}

Value mlir::moe::loadPanel(KernelBuilder &k, Value panels, ValueRange panel,
                           Value step) {
  SmallVector<Value> position = indices(panel, step);
  if (stepOfPanels(k, panels) == 1)
    return k.load(panels, position, {k.idx(0), Value()});
  auto type = cast<MemRefType>(panels.getType());
  position.push_back(k.idx(0));
  return vector::LoadOp::create(
      k, VectorType::get(type.getShape().back(), type.getElementType()), panels,
      position);
}

/// The first `count` of `lanes` lanes.
static Value maskOf(KernelBuilder &k, int64_t lanes, Value count) {
  return vector::CreateMaskOp::create(
      k, VectorType::get({lanes}, k.getI1Type()), ValueRange{count});
}

/// `count` elements, those in `mask` if there is one, zero for the others.
static Value loadElements(KernelBuilder &k, Value buffer, ValueRange row,
                          Value column, int64_t count, Value mask) {
  auto type = VectorType::get(
      {count}, cast<MemRefType>(buffer.getType()).getElementType());
  SmallVector<Value> position = indices(row, column);
  if (!mask)
    return vector::LoadOp::create(k, type, buffer, position);
  Value zero = arith::ConstantOp::create(k, k.getZeroAttr(type));
  return vector::MaskedLoadOp::create(k, type, buffer, position, mask, zero);
}

/// Turns the rows of a square into its columns: swaps off-diagonal blocks of
/// half the side, then of a quarter, and so on.
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

/// The same of vectors of pairs.
static void transposePairs(KernelBuilder &k, MutableArrayRef<Value> rows) {
  Type pairs = rows[0].getType();
  auto words = VectorType::get({k.lanes()}, k.getI32Type());
  for (Value &row : rows)
    row = vector::BitCastOp::create(k, words, row);
  transposeSquare(k, rows);
  for (Value &row : rows)
    row = vector::BitCastOp::create(k, pairs, row);
}

void mlir::moe::packPanel(KernelBuilder &k, Value from,
                          function_ref<Value(int64_t)> row, Value count,
                          Value lo, Value hi, int64_t width, Value panels,
                          ValueRange panel) {
  // A square of words: as many as lanes, each what a lane of a step holds.
  int64_t lanes = k.lanes(), step = stepOfPanels(k, panels);
  int64_t side = lanes * step;
  Type element = cast<MemRefType>(from.getType()).getElementType();
  auto words = VectorType::get(
      {lanes}, k.getIntegerType(step * element.getIntOrFloatBitWidth()));
  SmallVector<Value> sources;
  for (int64_t i = 0; i < lanes; ++i)
    sources.push_back(row(i));
  Value exists = maskOf(k, lanes, count);
  auto packSquare = [&](Value column, Value mask, int64_t steps) {
    SmallVector<Value> rows;
    for (Value source : sources) {
      Value elements = loadElements(k, from, source, column, side, mask);
      rows.push_back(vector::BitCastOp::create(k, words, elements));
    }
    transposeSquare(k, rows);
    Value first = k.div(column, k.idx(step));
    Value zero = arith::ConstantOp::create(k, k.getZeroAttr(words));
    for (int64_t i = 0; i < steps; ++i) {
      Value kept = arith::SelectOp::create(k, exists, rows[i], zero);
      Value elements =
          vector::BitCastOp::create(k, VectorType::get({side}, element), kept);
      SmallVector<Value> position =
          indices(indices(panel, k.add(first, k.idx(i))), k.idx(0));
      vector::StoreOp::create(k, elements, panels, position);
    }
  };
  int64_t whole = width / side * side;
  k.loop(lo, k.min(hi, k.idx(whole)), side,
         [&](Value column) { packSquare(column, Value(), lanes); });
  if (whole == width)
    return;
  k.ifThen(k.less(k.idx(whole), hi), [&] {
    // All that are left, which may be more than there are columns for.
    auto type = cast<MemRefType>(panels.getType());
    packSquare(k.idx(whole), maskOf(k, side, k.idx(width - whole)),
               type.getDimSize(type.getRank() - 2) - whole / step);
  });
}

void mlir::moe::packSteps(KernelBuilder &k, const SteppedRows &rows,
                          Value first, Value last, Value panels,
                          const ProductTypes &types, bool turned) {
  auto type = cast<MemRefType>(panels.getType());
  int64_t step = types.step, lanes = k.lanes();
  int64_t panelWidth = type.getDimSize(2) / step;
  int64_t whole = rows.width / panelWidth;
  // A few steps at a time fill whole lines of the cache. The last steps are
  // packed again where there are fewer.
  const int64_t stepsAtOnce = turned ? types.stepsAtOnce : 4;
  /// Where a step goes, its rows, and whether they exist where that is not
  /// sure.
  struct Step {
    Value place;
    SmallVector<Value, 2> rows, exists;
  };
  k.loop(first, last, stepsAtOnce, [&](Value begin) {
    SmallVector<Step> steps;
    for (int64_t i = 0; i < stepsAtOnce; ++i) {
      Value number = k.min(k.add(begin, k.idx(i)), k.sub(last, k.idx(1)));
      Value r = k.mul(number, k.idx(step));
      Value place = rows.firstStep ? k.add(rows.firstStep, number) : number;
      Step packed{place, {}, {}};
      for (int64_t j = 0; j < step; ++j) {
        bool exists = j == 0 && !types.inTiles();
        Value row = k.add(r, k.idx(j)), last = k.sub(rows.count, k.idx(1));
        packed.rows.push_back(rows.row(exists ? row : k.min(row, last)));
        packed.exists.push_back(exists ? Value() : k.less(row, rows.count));
      }
      steps.push_back(packed);
    }
    // Vector by vector; `columns` of the panel are there.
    auto packPanelColumns = [&](Value panel, int64_t columns) {
      Value firstColumn =
          k.add(k.mul(panel, k.idx(panelWidth)), k.idx(rows.firstColumn));
      for (int64_t lane = 0; lane < panelWidth; lane += lanes) {
        int64_t width = std::min(lanes, panelWidth - lane);
        int64_t present = std::clamp<int64_t>(columns - lane, 0, width);
        Value column = k.add(firstColumn, k.idx(lane));
        Value mask =
            present == lanes ? Value() : maskOf(k, lanes, k.idx(present));
        SmallVector<Value> packedSteps;
        for (const Step &packed : steps) {
          SmallVector<Value, 2> loaded;
          for (auto [row, exists] :
               llvm::zip_equal(packed.rows, packed.exists)) {
            Value elements =
                loadElements(k, rows.from, row, column, lanes, mask);
            if (exists) {
              Value zero = arith::ConstantOp::create(
                  k, k.getZeroAttr(elements.getType()));
              elements = arith::SelectOp::create(k, exists, elements, zero);
            }
            loaded.push_back(elements);
          }
          packedSteps.push_back(
              step == 2 ? vector::InterleaveOp::create(k, loaded[0], loaded[1])
                        : loaded[0]);
        }
        if (turned)
          transposePairs(k, packedSteps);
        for (auto [packed, elements] : llvm::zip_equal(steps, packedSteps)) {
          SmallVector<Value> position{panel, packed.place, k.idx(lane * step)};
          if (width == lanes)
            vector::StoreOp::create(k, elements, panels, position);
          else
            vector::MaskedStoreOp::create(
                k, panels, position,
                maskOf(k, lanes * step, k.idx(width * step)), elements);
        }
      }
    };
    k.loop(k.idx(0), k.idx(whole), 1,
           [&](Value panel) { packPanelColumns(panel, panelWidth); });
    // The last one, and the one that makes their number even.
    for (int64_t panel = whole; panel < type.getDimSize(0); ++panel)
      packPanelColumns(k.idx(panel), rows.width - panel * panelWidth);
  });
}

/// Launches the packing of `weight` into panels of `shape`, which it returns.
static Value launchPacking(KernelLowering &lowering, Operation *op,
                           Value weight, const ProductTypes &types,
                           ArrayRef<int64_t> shape, StringRef label,
                           StringRef layout, int64_t tiles,
                           function_ref<void(KernelBuilder &)> body) {
  Type element = cast<MemRefType>(weight.getType()).getElementType();
  Value panels = lowering.temporary(shape, element);
  lowering.launch(op,
                  {.label = label,
                   .tiles = tiles,
                   .arguments = {weight, panels},
                   .compute = types.compute,
                   .derives = (layout + "." + types.layout()).str(),
                   .attributes = lowering.builder().getDictionaryAttr({})},
                  body);
  return panels;
}

Value mlir::moe::packTransposed(KernelLowering &lowering, Operation *op,
                                Value weight, const ProductTypes &types) {
  auto type = cast<MemRefType>(weight.getType());
  int64_t columns = type.getDimSize(0), inner = type.getDimSize(1);
  int64_t lanes = types.lanes;
  SmallVector<int64_t> shape = panelShape(columns, inner, types);
  // Long panels of a weight with few rows are cut for the threads.
  constexpr int64_t wantedTiles = 16, shortestSlice = 256;
  int64_t slices =
      std::clamp<int64_t>(llvm::divideCeilSigned(wantedTiles, shape[0]), 1,
                          llvm::divideCeilSigned(inner, shortestSlice));
  int64_t slice =
      llvm::alignTo(llvm::divideCeilSigned(inner, slices), shape.back());
  slices = llvm::divideCeilSigned(inner, slice);
  return launchPacking(
      lowering, op, weight, types, shape, "pack", "transposed",
      shape[0] * slices, [&](KernelBuilder &k) {
        Value from = k.buffer(0), to = k.buffer(1);
        Value panel = k.div(k.tile(), k.idx(slices));
        Value first = k.mul(panel, k.idx(lanes));
        Value lo = k.mul(k.rem(k.tile(), k.idx(slices)), k.idx(slice));
        Value count =
            arith::MaxSIOp::create(k, k.sub(k.idx(columns), first), k.idx(0));
        packPanel(
            k, from,
            [&](int64_t i) {
              return k.min(k.add(first, k.idx(i)), k.idx(columns - 1));
            },
            count, lo, k.min(k.add(lo, k.idx(slice)), k.idx(inner)), inner, to,
            panel);
      });
}

Value mlir::moe::packStraight(KernelLowering &lowering, Operation *op,
                              Value weight, const ProductTypes &types) {
  auto type = cast<MemRefType>(weight.getType());
  int64_t inner = type.getDimSize(0), columns = type.getDimSize(1);
  SmallVector<int64_t> shape = panelShape(columns, inner, types);
  int64_t steps = types.steps(inner);
  int64_t perTile = rowsPerTile(steps, columns * types.step);
  return launchPacking(
      lowering, op, weight, types, shape, "pack_rows", "straight",
      llvm::divideCeilSigned(steps, perTile), [&](KernelBuilder &k) {
        Value from = k.buffer(0), to = k.buffer(1);
        Value first = k.mul(k.tile(), k.idx(perTile));
        packSteps(k,
                  {.from = from,
                   .row = [](Value r) { return r; },
                   .count = k.idx(inner),
                   .firstColumn = 0,
                   .width = columns},
                  first, k.min(k.add(first, k.idx(perTile)), k.idx(steps)), to,
                  types);
      });
}
