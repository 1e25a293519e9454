//===-- KernelBuilder.h - writes the body of a kernel -----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The body of a moe.kernel is written with the memref, vector, scf, arith and
// math dialects. This builder has what every kernel needs: buffers of the
// program in whatever shape suits the kernel, loops over rows and over vectors
// of columns with a masked tail, loads that widen to the type of computation,
// and stores that round back.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_KERNELBUILDER_H
#define MOE_TARGET_KERNELBUILDER_H

#include "moe/Dialect/MoE.h"
#include "moe/Target/CPU/TargetDescription.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "llvm/ADT/MapVector.h"

namespace mlir::moe {

class KernelBuilder : public ImplicitLocOpBuilder {
public:
  /// Starts the body of `kernel`, which is empty and computes in `computeType`.
  KernelBuilder(KernelOp kernel, Type computeType,
                const TargetDescription &target);

  //===------------------------------------------------------------------===//
  // Arguments
  //===------------------------------------------------------------------===//

  /// The number of the work item, an index.
  Value workItem() { return kernel.getWorkItem(); }

  // These take values of the function that launches the kernel (`outside`).
  // Each such value becomes one argument of the kernel, at its first use.

  /// The buffer in the kernel, reshaped to `shape` unless that is empty. Null
  /// for a null buffer.
  Value buffer(Value outside, ArrayRef<int64_t> shape = {});
  /// The buffer as a matrix whose width is its last dimension. Null for a null
  /// buffer.
  Value matrix(Value outside);
  /// The number in the kernel.
  Value number(Value outside) { return argument(outside); }
  /// Entry `index` of a table of buffers of `type`.
  Value tableEntry(Value outside, Value index, MemRefType type);
  /// Ends the body; called once, when it is complete.
  void finish();
  /// The operands of the launch, in the order of the kernel's arguments.
  SmallVector<Value> launchArguments() const {
    return llvm::to_vector(llvm::make_first_range(arguments));
  }

  //===------------------------------------------------------------------===//
  // Indices
  //===------------------------------------------------------------------===//

  Value idx(int64_t value);
  Value add(Value a, Value b) { return createOrFold<arith::AddIOp>(a, b); }
  Value sub(Value a, Value b) { return createOrFold<arith::SubIOp>(a, b); }
  Value mul(Value a, Value b) { return createOrFold<arith::MulIOp>(a, b); }
  Value div(Value a, Value b) { return createOrFold<arith::DivUIOp>(a, b); }
  Value rem(Value a, Value b) { return createOrFold<arith::RemUIOp>(a, b); }
  Value min(Value a, Value b) { return createOrFold<arith::MinSIOp>(a, b); }
  Value max(Value a, Value b) { return arith::MaxSIOp::create(*this, a, b); }
  Value less(Value a, Value b);
  Value select(Value condition, Value a, Value b) {
    return arith::SelectOp::create(*this, condition, a, b);
  }
  /// Loads an i32 and turns it into an index.
  Value loadIndex(Value buffer, ValueRange indices);
  /// Stores an index as an i32.
  void storeIndex(Value index, Value buffer, ValueRange indices);

  //===------------------------------------------------------------------===//
  // Loops
  //===------------------------------------------------------------------===//

  /// `for (i = lo; i < hi; i += step) body(i)`.
  void loop(Value lo, Value hi, int64_t step, function_ref<void(Value)> body);
  /// The same from 0 to `count` by 1.
  void loop(int64_t count, function_ref<void(Value)> body) {
    loop(idx(0), idx(count), 1, body);
  }
  /// The same with values carried from iteration to iteration.
  SmallVector<Value>
  loop(Value lo, Value hi, int64_t step, ValueRange carried,
       function_ref<SmallVector<Value>(Value, ValueRange)> body);
  Value loop(Value lo, Value hi, int64_t step, Value carried,
             function_ref<Value(Value, Value)> body);
  /// `if (condition) body() else otherwise()`.
  void ifThen(Value condition, function_ref<void()> body,
              function_ref<void()> otherwise = {});
  /// Calls `body` for each row of this work item: `rowsPerWorkItem` of all
  /// `rows`, or what is left of them.
  void rowsOfWorkItem(int64_t rows, int64_t rowsPerWorkItem,
                      function_ref<void(Value)> body);
  /// Says how many rows the launch has and how many each work item takes.
  void setRows(int64_t rows, int64_t rowsPerWorkItem) {
    launchedRows = rows, launchedRowsPerWorkItem = rowsPerWorkItem;
  }
  /// Calls `body` for each row of this work item, in a kernel that
  /// KernelLowering::launchRows launches.
  void rowsOfWorkItem(function_ref<void(Value)> body) {
    assert(launchedRowsPerWorkItem > 0 && "expected launchRows");
    rowsOfWorkItem(launchedRows, launchedRowsPerWorkItem, body);
  }

  /// One vector of columns, from `column` on: those in `mask`, or all if there
  /// is no mask.
  struct Lane {
    Value column;
    Value mask;
  };
  /// The mask of the first `count` of `lanes` lanes.
  Value mask(Value count, int64_t lanes);
  Value mask(Value count) { return mask(count, lanes()); }
  /// Calls `body` for every vector of `width` columns; the last may be masked.
  void columns(int64_t width, function_ref<void(Lane)> body);
  SmallVector<Value>
  columns(int64_t width, ValueRange carried,
          function_ref<SmallVector<Value>(Lane, ValueRange)> body);
  Value columns(int64_t width, Value carried,
                function_ref<Value(Lane, Value)> body);

  //===------------------------------------------------------------------===//
  // Vectors and scalars of the type of computation
  //===------------------------------------------------------------------===//

  Type compute() const { return computeType; }
  int64_t lanes() const { return numLanes; }
  VectorType vectorType() const;
  const TargetDescription &target() const { return targetDescription; }

  /// Loads `lane` of row `indices` (all but the last index) and widens it.
  /// Masked-off elements are zero.
  Value load(Value buffer, ValueRange indices, Lane lane);
  /// Rounds to the buffer's type and stores.
  void store(Value vector, Value buffer, ValueRange indices, Lane lane);
  /// The same, with non-temporal stores where each vector fills whole cache
  /// lines: for data that is read much later.
  void stream(Value vector, Value buffer, ValueRange indices, Lane lane);
  /// Loads `count` elements of row `indices` from `lane` on, without
  /// conversion.
  Value loadElements(Value buffer, ValueRange indices, Lane lane,
                     int64_t count);
  /// Zeroes the first `width` columns of row `indices`.
  void zeroRow(Value buffer, ValueRange indices, int64_t width);
  /// Load and store `lane` as integers, without conversion: for moving data.
  Value loadBits(Value buffer, ValueRange indices, Lane lane);
  void storeBits(Value bits, Value buffer, ValueRange indices, Lane lane);
  Value loadScalar(Value buffer, ValueRange indices);
  void storeScalar(Value scalar, Value buffer, ValueRange indices);
  /// Rounds to `elementType` and back.
  Value roundTo(Value value, Type elementType);

  Value scalar(double value);
  Value splat(double value);
  Value broadcast(Value scalar);
  Value addf(Value a, Value b) { return arith::AddFOp::create(*this, a, b); }
  Value subf(Value a, Value b) { return arith::SubFOp::create(*this, a, b); }
  Value mulf(Value a, Value b) { return arith::MulFOp::create(*this, a, b); }
  Value divf(Value a, Value b) { return arith::DivFOp::create(*this, a, b); }
  Value maxf(Value a, Value b);
  Value fma(Value a, Value b, Value c);
  /// Sum of the lanes, pairwise in a fixed order.
  Value sum(Value vector);
  Value maximum(Value vector);
  /// `1 / sqrt(mean(x[row]^2) + epsilon)` over `width` columns.
  Value inverseRms(Value x, Value row, int64_t width, double epsilon);
  /// An index as a scalar of the type of computation.
  Value toFloat(Value index);

  /// A scratch buffer, on the stack of the thread, allocated once per call.
  Value scratch(ArrayRef<int64_t> shape, Type elementType);

private:
  Value argument(Value outside);
  Value widen(Value value);

  KernelOp kernel;
  /// The kernel's arguments, by the values of the launching function.
  llvm::MapVector<Value, Value> arguments;
  Type computeType;
  int64_t numLanes;
  TargetDescription targetDescription;
  int64_t launchedRows = 0, launchedRowsPerWorkItem = 0;
  /// Whether the kernel must end with a fence: the signal that tells other
  /// threads that the work item is done does not order non-temporal stores.
  bool needsFence = false;
};

} // namespace mlir::moe

#endif // MOE_TARGET_KERNELBUILDER_H
