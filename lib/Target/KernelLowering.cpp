//===-- KernelLowering.cpp - ops to kernel launches -----------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Target/KernelLowering.h"

#include "BufferReuse.h"
#include "Kernels/RoutesView.h"
#include "ParameterValues.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"

using namespace mlir;
using namespace mlir::moe;

int64_t mlir::moe::rowsOf(Value tensor) {
  ArrayRef<int64_t> shape = cast<RankedTensorType>(tensor.getType()).getShape();
  return ShapedType::getNumElements(shape.drop_back());
}

int64_t mlir::moe::widthOf(Value tensor) {
  return cast<RankedTensorType>(tensor.getType()).getShape().back();
}

Type mlir::moe::elementOf(Value values) {
  return cast<ShapedType>(values.getType()).getElementType();
}

Type mlir::moe::computeTypeOf(Value tensor) {
  return preciseType(elementOf(tensor));
}

int64_t mlir::moe::rowsPerWorkItem(int64_t rows, int64_t width) {
  // Starting a work item costs well under a microsecond, and its 16k elements
  // take a few. The number depends on shapes only, so partial sums have the
  // same order on any number of threads.
  return std::clamp<int64_t>(16384 / std::max<int64_t>(width, 1), 1,
                             std::max<int64_t>(rows, 1));
}

const LoweringTable::Function *LoweringTable::find(Operation *op) const {
  auto it = functions.find(op->getName().getStringRef());
  return it == functions.end() ? nullptr : &it->second;
}

KernelLowering::KernelLowering(ModuleOp module, const TargetDescription &target,
                               const BufferReuse &reuse,
                               const ParameterValues &packedOnce,
                               const ParameterValues &quantised)
    : module(module), targetDescription(target), opBuilder(module.getContext()),
      reuse(reuse), packedOnce(packedOnce), quantised(quantised) {}

MemRefType KernelLowering::bufferType(Type type) const {
  if (auto routes = dyn_cast<RoutesType>(type))
    return RoutesView::typeInMemory(routes);
  auto tensor = cast<RankedTensorType>(type);
  return MemRefType::get(tensor.getShape(), tensor.getElementType());
}

bool KernelLowering::isPackedOnce(Value weight) const {
  return packedOnce.contains(weight);
}

bool KernelLowering::isQuantised(Value weight) const {
  return quantised.contains(weight);
}

Value KernelLowering::buffer(Value value) {
  return value ? buffers.lookup(value) : Value();
}

Value KernelLowering::result(Value value) {
  if (!value)
    return {};
  if (Value existing = buffers.lookupOrNull(value))
    return existing;
  Value fresh = memref::AllocOp::create(opBuilder, value.getLoc(),
                                        bufferType(value.getType()));
  buffers.map(value, fresh);
  return fresh;
}

Value KernelLowering::resultInPlaceOf(Operation *op, Value operand,
                                      Value result) {
  if (!buffers.contains(result) && operand.getType() == result.getType() &&
      reuse.diesAt(operand, op))
    buffers.map(result, buffers.lookup(operand));
  return this->result(result);
}

Value KernelLowering::takeSum(Value result) {
  Value sum = offered.lookup(result);
  if (sum)
    added.insert(result);
  return sum;
}

Value KernelLowering::temporary(ArrayRef<int64_t> shape, Type elementType) {
  return memref::AllocOp::create(opBuilder, opBuilder.getUnknownLoc(),
                                 MemRefType::get(shape, elementType));
}

Value KernelLowering::table(ValueRange buffers) {
  return PointerTableOp::create(opBuilder, opBuilder.getUnknownLoc(),
                                TableType::get(opBuilder.getContext()),
                                buffers);
}

Value KernelLowering::constant(int64_t value) {
  return arith::ConstantIndexOp::create(opBuilder, opBuilder.getUnknownLoc(),
                                        value);
}

/// Whether two kernels have equal arguments and bodies.
static bool areEqual(KernelOp a, KernelOp b) {
  return OperationEquivalence::isRegionEquivalentTo(
      &a.getBody(), &b.getBody(), OperationEquivalence::IgnoreLocations);
}

void KernelLowering::launch(Operation *op, const Launch &launch,
                            function_ref<void(KernelBuilder &)> body) {
  std::string name = op->getName().stripDialect().str();
  if (!launch.label.empty())
    name += "_" + launch.label.str();
  SmallVector<KernelOp> &known = kernels[name];
  auto end = OpBuilder::atBlockEnd(module.getBody());
  size_t number = known.size();
  while (module.lookupSymbol(name + "_" + std::to_string(number)))
    ++number;
  auto kernel =
      KernelOp::create(end, op->getLoc(), name + "_" + std::to_string(number),
                       APFloat(launch.flops), /*bytes=*/APFloat(0.0));
  KernelBuilder kernelBuilder(kernel, launch.compute, targetDescription);
  body(kernelBuilder);
  kernelBuilder.finish();
  SmallVector<Value> arguments = kernelBuilder.launchArguments();
  int64_t bytes = 0;
  for (Type type : ValueRange(arguments).getTypes())
    bytes += sizeInBytes(type);
  kernel.setBytes(APFloat(static_cast<double>(bytes)));

  auto equal = llvm::find_if(
      known, [&](KernelOp other) { return areEqual(kernel, other); });
  if (equal == known.end()) {
    known.push_back(kernel);
  } else {
    kernel.erase();
    kernel = *equal;
  }
  StringAttr derives;
  if (!launch.derives.empty())
    derives = opBuilder.getStringAttr(launch.derives);
  DispatchOp::create(opBuilder, op->getLoc(), FlatSymbolRefAttr::get(kernel),
                     opBuilder.getI64IntegerAttr(launch.workItems), derives,
                     arguments);
}

void KernelLowering::launchRows(Operation *op, StringRef label, Type compute,
                                int64_t rows, int64_t width,
                                function_ref<void(KernelBuilder &)> body) {
  int64_t perItem = rowsPerWorkItem(rows, width);
  launch(op,
         {.label = label,
          .workItems = llvm::divideCeilSigned(rows, perItem),
          .compute = compute},
         [&](KernelBuilder &k) {
           k.setRows(rows, perItem);
           body(k);
         });
}
