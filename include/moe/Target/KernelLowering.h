//===-- KernelLowering.h - ops to kernel launches ---------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The interface between convert-moe-to-kernels and the lowerings of ops, and
// the table of lowerings, one function per op.
//
// A lowering takes the buffers of its op's operands and results and launches
// kernels on them, whose bodies it builds. Launches whose kernels come out
// equal, op by op, share one kernel, so the number of kernels does not grow
// with the number of layers or experts.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_KERNELLOWERING_H
#define MOE_TARGET_KERNELLOWERING_H

#include "moe/Dialect/MoE.h"
#include "moe/Target/KernelBuilder.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/StringMap.h"

#include <functional>

namespace mlir::moe {

class BufferReuse;
class ParameterValues;

class KernelLowering {
public:
  KernelLowering(ModuleOp module, const TargetDescription &target,
                 const BufferReuse &reuse, const ParameterValues &packedOnce,
                 const ParameterValues &quantised);

  //===------------------------------------------------------------------===//
  // Buffers
  //===------------------------------------------------------------------===//

  // The buffer of an optional operand or result that is absent is null.

  /// The buffer that holds `value`, a tensor or routes.
  Value buffer(Value value);
  /// The buffer for a result of the op being lowered: the caller's where the
  /// function returns the result, else a new one.
  Value result(Value value);
  /// The buffer of `operand`, reused for `result`, if `op` is the last to read
  /// it; else as result() gives. For ops that write an element only after they
  /// have read it.
  Value resultInPlaceOf(Operation *op, Value operand, Value result);
  /// If the only use of `result` is to be added to a gradient: the buffer of
  /// that gradient, to which the op adds in place of writing a result. Else
  /// null.
  Value takeSum(Value result);
  /// Whether takeSum would give a buffer.
  bool offersSum(Value result) const { return offered.contains(result); }
  /// Makes takeSum give `sum` to the op that makes `value`.
  void offerSum(Value value, Value sum) { offered[value] = sum; }
  /// Whether the op that made `value` called takeSum and got a buffer.
  bool isAdded(Value value) const { return added.contains(value); }
  /// A new buffer for launches of the op being lowered.
  Value temporary(ArrayRef<int64_t> shape, Type elementType);
  /// Makes `buffer` the buffer of `value`.
  void bind(Value value, Value buffer) { buffers.map(value, buffer); }
  /// A table of buffers.
  Value table(ValueRange buffers);
  /// An index to pass to kernels.
  Value constant(int64_t value);
  /// The buffer type of a tensor or routes.
  MemRefType bufferType(Type type) const;

  //===------------------------------------------------------------------===//
  // Launches
  //===------------------------------------------------------------------===//

  struct Launch {
    /// Tells kernels of one op apart; part of the kernel's name.
    StringRef label = {};
    int64_t workItems;
    /// Type of computation.
    Type compute;
    /// Floating-point operations of the matrix products, for profiles; a
    /// multiply-add counts as two.
    double flops = 0;
    /// Names what the kernel computes from all other arguments and writes to
    /// the last, which no other launch writes. Empty for any other kernel.
    std::string derives = {};
  };
  void launch(Operation *op, const Launch &launch,
              function_ref<void(KernelBuilder &)> body);
  /// Launches a kernel whose work items take some of `rows` each: as many as
  /// rowsPerWorkItem() says, where a row takes `width` operations or more.
  void launchRows(Operation *op, StringRef label, Type compute, int64_t rows,
                  int64_t width, function_ref<void(KernelBuilder &)> body);
  void launchRows(Operation *op, Type compute, int64_t rows, int64_t width,
                  function_ref<void(KernelBuilder &)> body) {
    launchRows(op, /*label=*/{}, compute, rows, width, body);
  }

  OpBuilder &builder() { return opBuilder; }
  const TargetDescription &target() const { return targetDescription; }
  /// Whether `weight` is packed once, outside the program.
  bool isPackedOnce(Value weight) const;
  /// Whether products read `weight` as integers with scales.
  bool isQuantised(Value weight) const;

private:
  ModuleOp module;
  TargetDescription targetDescription;
  OpBuilder opBuilder;
  const BufferReuse &reuse;
  const ParameterValues &packedOnce, &quantised;
  IRMapping buffers;
  llvm::DenseMap<Value, Value> offered;
  llvm::DenseSet<Value> added;
  /// The kernels so far, by their name without its number.
  llvm::StringMap<SmallVector<KernelOp>> kernels;
};

/// Rows of a tensor seen as a matrix: the product of all dimensions but the
/// last.
int64_t rowsOf(Value tensor);
/// The last dimension of a tensor.
int64_t widthOf(Value tensor);
/// The element type of a tensor or a buffer.
Type elementOf(Value values);
/// The type in which work on `tensor` is done: f32, or f64 for f64.
Type computeTypeOf(Value tensor);

/// Rows of `width` columns for each work item, enough to be worth its launch.
int64_t rowsPerWorkItem(int64_t rows, int64_t width);

/// Lowerings by op name.
class LoweringTable {
public:
  using Function = std::function<void(Operation *op, KernelLowering &lowering)>;

  /// Adds functions, each for the op that it takes.
  template <typename... OpTs>
  void add(void (*...lower)(OpTs, KernelLowering &)) {
    (addOne(lower), ...);
  }
  /// The lowering of `op`, or null.
  const Function *find(Operation *op) const;

private:
  template <typename OpT> void addOne(void (*lower)(OpT, KernelLowering &)) {
    functions[OpT::getOperationName()] = [lower](Operation *op,
                                                 KernelLowering &lowering) {
      lower(cast<OpT>(op), lowering);
    };
  }

  llvm::StringMap<Function> functions;
};

// Lowerings that are written once for all targets: lib/Target/Kernels.
void addRowLowerings(LoweringTable &table);
void addRoutingLowerings(LoweringTable &table);
void addLossLowerings(LoweringTable &table);
void addProbeLowerings(LoweringTable &table);

// Lowerings of matrix products and attention, which each target schedules in
// its own way: lib/Target/CPU/Kernels for a CPU.
void addMatmulLowerings(LoweringTable &table);
void addRoutedMatmulLowerings(LoweringTable &table);
void addRoutedMatmulGradLowerings(LoweringTable &table);
void addRoutedParameterGradLowerings(LoweringTable &table);
void addAttentionLowerings(LoweringTable &table);
void addAttentionGradLowerings(LoweringTable &table);
void addLinearCrossEntropyLowering(LoweringTable &table);

} // namespace mlir::moe

#endif // MOE_TARGET_KERNELLOWERING_H
