//===-- Elementwise.cpp - work on each element of a buffer ----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Elementwise.h"

#include "Activation.h"

#include "mlir/Dialect/MemRef/IR/MemRef.h"

using namespace mlir;
using namespace mlir::moe;

void mlir::moe::launchCopy(KernelLowering &lowering, Operation *op, Value from,
                           Value to) {
  int64_t count = cast<MemRefType>(from.getType()).getNumElements();
  constexpr int64_t perItem = 65536;
  lowering.launch(op,
                  {.label = "copy",
                   .workItems = llvm::divideCeilSigned(count, perItem),
                   .compute = Float32Type::get(op->getContext())},
                  [&](KernelBuilder &k) {
                    Value source = k.buffer(from, {count});
                    Value target = k.buffer(to, {count});
                    k.rowsOfWorkItem(count, perItem, [&](Value i) {
                      Value element = memref::LoadOp::create(k, source, i);
                      memref::StoreOp::create(k, element, target, i);
                    });
                  });
}

/// Launches `to = value(from...)`, vector by vector, on buffers of one type.
/// `to` may be one of them.
static void launchElementwise(
    KernelLowering &lowering, Operation *op, StringRef label,
    ArrayRef<Value> from, Value to,
    function_ref<Value(KernelBuilder &, ArrayRef<Value> vectors)> value) {
  auto type = cast<MemRefType>(to.getType());
  int64_t width = type.getRank() ? type.getShape().back() : 1;
  int64_t rows = type.getNumElements() / width;
  lowering.launchRows(
      op, label, computeTypeOf(to), rows, width, [&](KernelBuilder &k) {
        auto matrix = [&](Value buffer) {
          return k.buffer(buffer, {rows, width});
        };
        SmallVector<Value> sources = llvm::map_to_vector(from, matrix);
        Value target = matrix(to);
        k.rowsOfWorkItem([&](Value row) {
          k.columns(width, [&](KernelBuilder::Lane lane) {
            auto vectors = llvm::map_to_vector(sources, [&](Value source) {
              return k.load(source, row, lane);
            });
            k.store(value(k, vectors), target, row, lane);
          });
        });
      });
}

void mlir::moe::launchFill(KernelLowering &lowering, Operation *op,
                           double value, Value to) {
  launchElementwise(
      lowering, op, "fill", {}, to,
      [&](KernelBuilder &k, ArrayRef<Value>) { return k.splat(value); });
}

void mlir::moe::launchAdd(KernelLowering &lowering, Operation *op,
                          StringRef label, Value a, Value b, Value sum) {
  launchElementwise(lowering, op, label, {a, b}, sum,
                    [](KernelBuilder &k, ArrayRef<Value> vectors) {
                      return k.addf(vectors[0], vectors[1]);
                    });
}

static void lowerScale(ScaleOp op, KernelLowering &lowering) {
  double factor = op.getFactor().convertToDouble();
  launchElementwise(lowering, op, {}, lowering.buffer(op.getInput()),
                    lowering.resultInPlaceOf(op, op.getInput(), op.getResult()),
                    [&](KernelBuilder &k, ArrayRef<Value> vectors) {
                      return k.mulf(vectors[0], k.splat(factor));
                    });
}

static void lowerSoftCap(SoftCapOp op, KernelLowering &lowering) {
  double cap = op.getCap().convertToDouble();
  launchElementwise(lowering, op, {}, lowering.buffer(op.getInput()),
                    lowering.resultInPlaceOf(op, op.getInput(), op.getResult()),
                    [&](KernelBuilder &k, ArrayRef<Value> vectors) {
                      return emitSoftCap(k, vectors[0], cap);
                    });
}

static void lowerSoftCapGrad(SoftCapGradOp op, KernelLowering &lowering) {
  double cap = op.getCap().convertToDouble();
  launchElementwise(
      lowering, op, {},
      {lowering.buffer(op.getDy()), lowering.buffer(op.getInput())},
      lowering.resultInPlaceOf(op, op.getDy(), op.getDx()),
      [&](KernelBuilder &k, ArrayRef<Value> vectors) {
        Value capped = emitSoftCap(k, vectors[1], cap);
        return k.mulf(vectors[0], emitSoftCapDerivative(k, capped, cap));
      });
}

void mlir::moe::addElementwiseLowerings(LoweringTable &table) {
  table.add(lowerScale, lowerSoftCap, lowerSoftCapGrad);
}
