//===-- KernelBuilder.cpp - writes the body of a kernel -------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Target/KernelBuilder.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace mlir::moe;

KernelBuilder::KernelBuilder(KernelOp kernel, Type computeType,
                             const TargetDescription &target)
    : ImplicitLocOpBuilder(kernel.getLoc(), kernel.getContext()),
      kernel(kernel), computeType(computeType),
      numLanes(target.vectorBytes * 8 / computeType.getIntOrFloatBitWidth()),
      targetDescription(target) {
  Block &entry = kernel.getBody().emplaceBlock();
  entry.addArgument(getIndexType(), getLoc());
  setInsertionPointToStart(&entry);
}

//===----------------------------------------------------------------------===//
// Arguments
//===----------------------------------------------------------------------===//

Value KernelBuilder::argument(Value outside) {
  Value &known = arguments[outside];
  if (!known)
    known = kernel.getBody().addArgument(outside.getType(), outside.getLoc());
  return known;
}

Value KernelBuilder::buffer(Value outside, ArrayRef<int64_t> shape) {
  if (!outside)
    return {};
  auto type = cast<MemRefType>(outside.getType());
  if (shape.empty() || shape == type.getShape())
    return argument(outside);
  auto seen = MemRefType::get(shape, type.getElementType());
  assert(seen.getNumElements() == type.getNumElements() &&
         "expected a shape of as many elements");
  auto [strides, offset] = seen.getStridesAndOffset();
  return memref::ReinterpretCastOp::create(*this, seen, argument(outside),
                                           offset, shape, strides);
}

Value KernelBuilder::matrix(Value outside) {
  if (!outside)
    return {};
  auto type = cast<MemRefType>(outside.getType());
  int64_t width = type.getShape().back();
  return buffer(outside, {type.getNumElements() / width, width});
}

Value KernelBuilder::tableEntry(Value outside, Value index, MemRefType type) {
  return TableEntryOp::create(*this, type, argument(outside), index);
}

//===----------------------------------------------------------------------===//
// Indices
//===----------------------------------------------------------------------===//

Value KernelBuilder::idx(int64_t value) {
  return arith::ConstantIndexOp::create(*this, value);
}
Value KernelBuilder::less(Value a, Value b) {
  return createOrFold<arith::CmpIOp>(arith::CmpIPredicate::slt, a, b);
}
Value KernelBuilder::loadIndex(Value buffer, ValueRange indices) {
  Value value = memref::LoadOp::create(*this, buffer, indices);
  return arith::IndexCastOp::create(*this, getIndexType(), value);
}
void KernelBuilder::storeIndex(Value index, Value buffer, ValueRange indices) {
  Value value = arith::IndexCastOp::create(*this, getI32Type(), index);
  memref::StoreOp::create(*this, value, buffer, indices);
}

//===----------------------------------------------------------------------===//
// Loops
//===----------------------------------------------------------------------===//

SmallVector<Value>
KernelBuilder::loop(Value lo, Value hi, int64_t step, ValueRange carried,
                    function_ref<SmallVector<Value>(Value, ValueRange)> body) {
  auto forOp = scf::ForOp::create(*this, lo, hi, idx(step), carried);
  {
    InsertionGuard guard(*this);
    if (carried.empty())
      setInsertionPoint(forOp.getBody()->getTerminator());
    else
      setInsertionPointToStart(forOp.getBody());
    SmallVector<Value> next =
        body(forOp.getInductionVar(), forOp.getRegionIterArgs());
    if (!carried.empty())
      scf::YieldOp::create(*this, next);
  }
  return SmallVector<Value>(forOp.getResults());
}

Value KernelBuilder::loop(Value lo, Value hi, int64_t step, Value carried,
                          function_ref<Value(Value, Value)> body) {
  return loop(lo, hi, step, ValueRange(carried), [&](Value i, ValueRange now) {
    return SmallVector<Value>{body(i, now[0])};
  })[0];
}

void KernelBuilder::loop(Value lo, Value hi, int64_t step,
                         function_ref<void(Value)> body) {
  loop(lo, hi, step, ValueRange(), [&](Value i, ValueRange) {
    body(i);
    return SmallVector<Value>();
  });
}

void KernelBuilder::ifThen(Value condition, function_ref<void()> body,
                           function_ref<void()> otherwise) {
  auto ifOp = scf::IfOp::create(*this, condition, bool(otherwise));
  InsertionGuard guard(*this);
  setInsertionPointToStart(ifOp.thenBlock());
  body();
  if (!otherwise)
    return;
  setInsertionPointToStart(ifOp.elseBlock());
  otherwise();
}

void KernelBuilder::rowsOfWorkItem(int64_t rows, int64_t rowsPerWorkItem,
                                   function_ref<void(Value)> body) {
  Value first = mul(workItem(), idx(rowsPerWorkItem));
  Value last = min(add(first, idx(rowsPerWorkItem)), idx(rows));
  loop(first, last, 1, body);
}

SmallVector<Value> KernelBuilder::columns(
    int64_t width, ValueRange carried,
    function_ref<SmallVector<Value>(Lane, ValueRange)> body) {
  int64_t full = width / lanes() * lanes();
  SmallVector<Value> values(carried);
  if (full > 0)
    values = loop(idx(0), idx(full), lanes(), values,
                  [&](Value column, ValueRange current) {
                    return body({column, Value()}, current);
                  });
  if (full == width)
    return values;
  Value tail = mask(idx(width - full));
  return body({idx(full), tail}, values);
}

Value KernelBuilder::mask(Value count, int64_t lanes) {
  return vector::CreateMaskOp::create(
      *this, VectorType::get({lanes}, getI1Type()), ValueRange{count});
}

Value KernelBuilder::columns(int64_t width, Value carried,
                             function_ref<Value(Lane, Value)> body) {
  return columns(width, ValueRange(carried), [&](Lane lane, ValueRange now) {
    return SmallVector<Value>{body(lane, now[0])};
  })[0];
}

void KernelBuilder::columns(int64_t width, function_ref<void(Lane)> body) {
  columns(width, ValueRange(), [&](Lane lane, ValueRange) {
    body(lane);
    return SmallVector<Value>();
  });
}

//===----------------------------------------------------------------------===//
// Vectors and scalars
//===----------------------------------------------------------------------===//

VectorType KernelBuilder::vectorType() const {
  return VectorType::get({numLanes}, computeType);
}

/// `type`, or a vector of it where `value` is one.
static Type shapedAs(Value value, Type type) {
  if (auto vector = dyn_cast<VectorType>(value.getType()))
    return vector.clone(type);
  return type;
}

/// Rounds f32 to bf16 by integer arithmetic, to nearest and ties to even: on a
/// machine without an instruction for it, the backend would call a function for
/// each element. With upstream's patterns for it
/// (populateExpandBFloat16Patterns) loops spill registers
/// (test/Target/inner-loops.mlir).
static Value roundToBf16(KernelBuilder &k, Value value) {
  Type type = shapedAs(value, k.getI32Type());
  auto number = [&](int32_t n) -> Value {
    if (auto vector = dyn_cast<VectorType>(type))
      return arith::ConstantOp::create(k, DenseElementsAttr::get(vector, n));
    return arith::ConstantOp::create(k, k.getI32IntegerAttr(n));
  };
  Value bits = arith::BitcastOp::create(k, type, value);
  Value half = number(16);
  Value odd = arith::AndIOp::create(k, arith::ShRUIOp::create(k, bits, half),
                                    number(1));
  Value rounded = arith::AddIOp::create(
      k, arith::AddIOp::create(k, bits, number(0x7fff)), odd);
  // Of a NaN the upper bits could be those of an infinity.
  Value quiet = arith::OrIOp::create(k, bits, number(0x400000));
  Value isNan =
      arith::CmpFOp::create(k, arith::CmpFPredicate::UNO, value, value);
  Value chosen = arith::SelectOp::create(k, isNan, quiet, rounded);
  Value upper =
      arith::TruncIOp::create(k, shapedAs(value, k.getI16Type()),
                              arith::ShRUIOp::create(k, chosen, half));
  return arith::BitcastOp::create(k, shapedAs(value, k.getBF16Type()), upper);
}

/// Rounds or widens to the element type `element`.
static Value convertTo(KernelBuilder &k, Value value, Type element) {
  Type current = getElementTypeOrSelf(value.getType());
  if (current == element)
    return value;
  if (current.getIntOrFloatBitWidth() < element.getIntOrFloatBitWidth())
    return arith::ExtFOp::create(k, shapedAs(value, element), value);
  if (current.isF32() && element.isBF16() &&
      k.target().bf16Products == Bf16Products::Widened)
    return roundToBf16(k, value);
  return arith::TruncFOp::create(k, shapedAs(value, element), value);
}

Value KernelBuilder::widen(Value value) {
  return convertTo(*this, value, computeType);
}

Value KernelBuilder::roundTo(Value value, Type elementType) {
  return widen(convertTo(*this, value, elementType));
}

static SmallVector<Value> positionOf(ValueRange indices,
                                     KernelBuilder::Lane lane) {
  SmallVector<Value> position(indices);
  position.push_back(lane.column);
  return position;
}

Value KernelBuilder::loadElements(Value buffer, ValueRange indices, Lane lane,
                                  int64_t count) {
  auto type = VectorType::get({count}, getElementTypeOrSelf(buffer));
  SmallVector<Value> position = positionOf(indices, lane);
  if (!lane.mask)
    return vector::LoadOp::create(*this, type, buffer, position);
  Value zero = arith::ConstantOp::create(*this, getZeroAttr(type));
  return vector::MaskedLoadOp::create(*this, type, buffer, position, lane.mask,
                                      zero);
}

/// Stores a vector of the buffer's element type.
static void storeLane(KernelBuilder &k, Value value, Value buffer,
                      ValueRange indices, KernelBuilder::Lane lane) {
  SmallVector<Value> position = positionOf(indices, lane);
  if (lane.mask)
    vector::MaskedStoreOp::create(k, buffer, position, lane.mask, value);
  else
    vector::StoreOp::create(k, value, buffer, position);
}

Value KernelBuilder::load(Value buffer, ValueRange indices, Lane lane) {
  return widen(loadElements(buffer, indices, lane, lanes()));
}

void KernelBuilder::store(Value vector, Value buffer, ValueRange indices,
                          Lane lane) {
  storeLane(*this, convertTo(*this, vector, getElementTypeOrSelf(buffer)),
            buffer, indices, lane);
}

void KernelBuilder::stream(Value vector, Value buffer, ValueRange indices,
                           Lane lane) {
  constexpr int64_t line = 64;
  auto type = cast<MemRefType>(buffer.getType());
  int64_t bytes = type.getElementTypeBitWidth() / 8;
  if (targetDescription.vectorBytes != line || lane.mask ||
      numLanes * bytes % line != 0 ||
      type.getShape().back() * bytes % line != 0)
    return store(vector, buffer, indices, lane);
  Value converted = convertTo(*this, vector, type.getElementType());
  vector::StoreOp::create(*this, converted, buffer, positionOf(indices, lane),
                          /*nontemporal=*/true, llvm::Align(line));
  needsFence = true;
}

void KernelBuilder::zeroRow(Value buffer, ValueRange indices, int64_t width) {
  columns(width, [&](Lane lane) { store(splat(0.0), buffer, indices, lane); });
}

void KernelBuilder::finish() {
  if (needsFence)
    LLVM::CallIntrinsicOp::create(*this, getStringAttr("llvm.x86.sse.sfence"),
                                  ValueRange());
}

Value KernelBuilder::loadBits(Value buffer, ValueRange indices, Lane lane) {
  Type element = cast<MemRefType>(buffer.getType()).getElementType();
  auto bits = VectorType::get({lanes()},
                              getIntegerType(element.getIntOrFloatBitWidth()));
  return vector::BitCastOp::create(
      *this, bits, loadElements(buffer, indices, lane, lanes()));
}

void KernelBuilder::storeBits(Value bits, Value buffer, ValueRange indices,
                              Lane lane) {
  auto type = VectorType::get({lanes()}, getElementTypeOrSelf(buffer));
  storeLane(*this, vector::BitCastOp::create(*this, type, bits), buffer,
            indices, lane);
}

Value KernelBuilder::loadScalar(Value buffer, ValueRange indices) {
  return widen(memref::LoadOp::create(*this, buffer, indices));
}

void KernelBuilder::storeScalar(Value scalar, Value buffer,
                                ValueRange indices) {
  memref::StoreOp::create(
      *this, convertTo(*this, scalar, getElementTypeOrSelf(buffer)), buffer,
      indices);
}

Value KernelBuilder::scalar(double value) {
  return arith::ConstantOp::create(*this, getFloatAttr(computeType, value));
}
Value KernelBuilder::splat(double value) {
  return arith::ConstantOp::create(
      *this,
      DenseElementsAttr::get(vectorType(), getFloatAttr(computeType, value)));
}
Value KernelBuilder::broadcast(Value scalar) {
  return vector::BroadcastOp::create(*this, vectorType(), scalar);
}
Value KernelBuilder::maxf(Value a, Value b) {
  return arith::MaximumFOp::create(*this, a, b);
}
Value KernelBuilder::fma(Value a, Value b, Value c) {
  return math::FmaOp::create(*this, a, b, c);
}

/// Combines the halves of the vector until one element is left.
static Value reducePairwise(KernelBuilder &k, Value vector,
                            function_ref<Value(Value, Value)> combine) {
  int64_t lanes = cast<VectorType>(vector.getType()).getDimSize(0);
  while (lanes > 1) {
    lanes /= 2;
    Value low = vector::ExtractStridedSliceOp::create(
        k, vector, ArrayRef<int64_t>{0}, ArrayRef<int64_t>{lanes},
        ArrayRef<int64_t>{1});
    Value high = vector::ExtractStridedSliceOp::create(
        k, vector, ArrayRef<int64_t>{lanes}, ArrayRef<int64_t>{lanes},
        ArrayRef<int64_t>{1});
    vector = combine(low, high);
  }
  return vector::ExtractOp::create(k, vector, ArrayRef<int64_t>{0});
}

Value KernelBuilder::sum(Value vector) {
  return reducePairwise(*this, vector,
                        [&](Value a, Value b) { return addf(a, b); });
}
Value KernelBuilder::maximum(Value vector) {
  return reducePairwise(*this, vector,
                        [&](Value a, Value b) { return maxf(a, b); });
}
Value KernelBuilder::inverseRms(Value x, Value row, int64_t width,
                                double epsilon) {
  Value squares = columns(width, splat(0.0), [&](Lane lane, Value acc) {
    Value v = load(x, row, lane);
    return fma(v, v, acc);
  });
  Value mean = divf(sum(squares), scalar(width));
  Value root = math::SqrtOp::create(*this, addf(mean, scalar(epsilon)));
  return divf(scalar(1.0), root);
}
Value KernelBuilder::toFloat(Value index) {
  Value integer = arith::IndexCastOp::create(*this, getI64Type(), index);
  return arith::SIToFPOp::create(*this, computeType, integer);
}

Value KernelBuilder::scratch(ArrayRef<int64_t> shape, Type elementType) {
  InsertionGuard guard(*this);
  setInsertionPointToStart(&kernel.getBody().front());
  return memref::AllocaOp::create(*this, MemRefType::get(shape, elementType),
                                  getI64IntegerAttr(64));
}
