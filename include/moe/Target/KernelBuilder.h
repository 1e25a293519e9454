//===-- KernelBuilder.h - writes the body of a kernel -----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The body of a moe.kernel is written with the memref, vector, scf, arith and
// math dialects. This builder gives it the few things that every kernel needs:
// buffers of the program in whatever shape suits it, loops over rows and over
// vectors of columns with a masked tail, loads that widen to the type of
// computation and stores that round back.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_KERNELBUILDER_H
#define MOE_TARGET_KERNELBUILDER_H

#include "moe/Dialect/MoE.h"
#include "moe/Target/CPU/TargetDescription.h"

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

  // What the kernel uses of the function that launches it becomes an argument
  // when it is first asked for. The view of a null buffer is null.

  /// The kernel's view of a buffer, with `shape` (its own if empty), which has
  /// as many elements.
  Value buffer(Value outside, ArrayRef<int64_t> shape = {});
  /// The same of a buffer seen as a matrix: its last dimension, and the product
  /// of all others.
  Value matrix(Value outside);
  /// The kernel's view of a number.
  Value number(Value outside) { return argument(outside); }
  /// Entry `index` of a table of buffers of `type`.
  Value tableEntry(Value outside, Value index, MemRefType type);
  /// To be called when the body is complete.
  void finish();
  /// What a launch must pass, in the order of the kernel's arguments.
  SmallVector<Value> launchArguments() const {
    return llvm::to_vector(llvm::make_first_range(arguments));
  }

  //===------------------------------------------------------------------===//
  // Indices
  //===------------------------------------------------------------------===//

  Value idx(int64_t value);
  Value add(Value a, Value b);
  Value sub(Value a, Value b);
  Value mul(Value a, Value b);
  Value div(Value a, Value b);
  Value rem(Value a, Value b);
  Value min(Value a, Value b);
  Value less(Value a, Value b);
  /// Loads an i32 and turns it into an index.
  Value loadIndex(Value buffer, ValueRange indices);
  /// Stores an index as an i32.
  void storeIndex(Value index, Value buffer, ValueRange indices);

  //===------------------------------------------------------------------===//
  // Loops
  //===------------------------------------------------------------------===//

  /// `for (i = lo; i < hi; i += step) body(i)`.
  void loop(Value lo, Value hi, int64_t step, function_ref<void(Value)> body);
  /// The same with values carried from turn to turn.
  SmallVector<Value>
  loop(Value lo, Value hi, int64_t step, ValueRange carried,
       function_ref<SmallVector<Value>(Value, ValueRange)> body);
  void ifThen(Value condition, function_ref<void()> body);
  /// The rows of this tile, out of `rows` in blocks of `rowsPerWorkItem`.
  void rowsOfWorkItem(int64_t rows, int64_t rowsPerWorkItem,
                      function_ref<void(Value)> body);

  /// A vector's worth of columns: from `column` on, those in `mask`, or all if
  /// there is none.
  struct Lane {
    Value column;
    Value mask;
  };
  /// Calls `body` for every vector of `width` columns; the last may be masked.
  void columns(int64_t width, function_ref<void(Lane)> body);
  SmallVector<Value>
  columns(int64_t width, ValueRange carried,
          function_ref<SmallVector<Value>(Lane, ValueRange)> body);

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
  /// The same past the caches, where a vector takes whole lines of them: for
  /// what is read much later.
  void stream(Value vector, Value buffer, ValueRange indices, Lane lane);
  /// The same without conversion, as integers: moves data, whatever it holds.
  Value loadBits(Value buffer, ValueRange indices, Lane lane);
  void storeBits(Value bits, Value buffer, ValueRange indices, Lane lane);
  Value loadScalar(Value buffer, ValueRange indices);
  void storeScalar(Value scalar, Value buffer, ValueRange indices);
  /// Rounds to `elementType` and back.
  Value roundTo(Value value, Type elementType);

  Value scalar(double value);
  Value splat(double value);
  Value broadcast(Value scalar);
  Value addf(Value a, Value b);
  Value subf(Value a, Value b);
  Value mulf(Value a, Value b);
  Value divf(Value a, Value b);
  Value maxf(Value a, Value b);
  Value fma(Value a, Value b, Value c);
  /// Sum of the lanes, pairwise in a fixed order.
  Value sum(Value vector);
  Value maximum(Value vector);
  /// `1 / sqrt(mean(x[row]^2) + epsilon)` over `width` columns.
  Value inverseRms(Value x, Value row, int64_t width, double epsilon);
  /// An index as a scalar of the type of computation.
  Value toFloat(Value index);

  /// Scratch memory of the thread, on its stack, allocated once per call.
  Value scratch(ArrayRef<int64_t> shape, Type elementType);

private:
  Value argument(Value outside);
  Value widen(Value value);

  KernelOp kernel;
  /// By the values of the function that launches the kernel.
  llvm::MapVector<Value, Value> arguments;
  Type computeType;
  int64_t numLanes;
  TargetDescription targetDescription;
  /// Whether the kernel ends with a fence: stores past the caches are not
  /// ordered by what tells other threads that the tile is done.
  bool needsFence = false;
};

} // namespace mlir::moe

#endif // MOE_TARGET_KERNELBUILDER_H
