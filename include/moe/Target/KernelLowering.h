//===-- KernelLowering.h - ops to kernel launches ---------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What convert-moe-to-kernels gives to the lowering of each op, and the table
// of lowerings, one function per op, by family under lib/Target/Kernels.
//
// A lowering launches kernels, and their bodies ask for the buffers of the op's
// operands and results. Launches whose kernels turn out equal, op by op, share
// one, however many layers or experts there are.
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
#include <optional>

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

  // Of an operand or result that is optional and not there, the buffer is null.

  /// The buffer that holds `value`, a tensor or routes.
  Value buffer(Value value);
  /// The buffer for a result of the op being lowered: the caller's, where the
  /// function returns it, else fresh memory, reclaimed after its last use.
  Value result(Value value);
  /// The memory of `operand` for `result`, if `op` is the last to read it, else
  /// as result() gives. For ops that write only where they have read.
  Value resultInPlaceOf(Operation *op, Value operand, Value result);
  /// The gradient that `result` is only made to be added to, if so: the op adds
  /// it there and makes no other result.
  Value takeSum(Value result);
  bool offersSum(Value result) const { return offered.contains(result); }
  /// Lets the op that makes `value` take `sum` for it.
  void offerSum(Value value, Value sum) { offered[value] = sum; }
  /// Whether the op that made `value` took the sum.
  bool isAdded(Value value) const { return added.contains(value); }
  /// Fresh memory for the duration of the op.
  Value temporary(ArrayRef<int64_t> shape, Type elementType);
  /// Makes `value` live in `buffer`.
  void bind(Value value, Value buffer) { buffers.map(value, buffer); }
  /// A table of buffers.
  Value table(ValueRange buffers);
  /// A number to pass to kernels, an index.
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
    /// Of its products, for profiles; a fused multiply-add counts two.
    double flops = 0;
    /// What the kernel makes of all other arguments in the last, which nothing
    /// else writes; empty where that is not so.
    std::string derives = {};
  };
  void launch(Operation *op, const Launch &launch,
              function_ref<void(KernelBuilder &)> body);

  OpBuilder &builder() { return opBuilder; }
  const TargetDescription &target() const { return targetDescription; }
  /// Whether what is packed of `weight` is packed once, beside the program.
  bool isPackedOnce(Value weight) const;
  /// Whether products take `weight` as integers with scales.
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
  /// The kernels of each name, without its number.
  llvm::StringMap<SmallVector<KernelOp>> kernels;
};

/// Rows of a tensor seen as a matrix: the product of all dimensions but the
/// last.
int64_t rowsOf(Value tensor);
/// The last dimension of a tensor.
int64_t widthOf(Value tensor);
/// Of a tensor or a buffer.
Type elementOf(Value values);
/// The type in which work on `tensor` is done: f32, or f64 for f64.
Type computeTypeOf(Value tensor);

/// Rows per tile so that row-wise work of `width` columns is worth a launch.
int64_t rowsPerWorkItem(int64_t rows, int64_t width);

/// Lowerings by op name.
class LoweringTable {
public:
  using Function =
      std::function<LogicalResult(Operation *op, KernelLowering &lowering)>;

  template <typename OpT>
  void add(LogicalResult (*lower)(OpT, KernelLowering &)) {
    functions[OpT::getOperationName()] = [lower](Operation *op,
                                                 KernelLowering &lowering) {
      return lower(cast<OpT>(op), lowering);
    };
  }
  /// The lowering of `op`, or null.
  const Function *find(Operation *op) const;

private:
  llvm::StringMap<Function> functions;
};

// Those that are written once for all targets are in lib/Target/Kernels.
void addRowLowerings(LoweringTable &table);
void addRoutingLowerings(LoweringTable &table);
void addLossLowerings(LoweringTable &table);

// Matrix products and attention have a schedule for each kind of target. Those
// of a CPU are in lib/Target/CPU/Kernels.
void addMatmulLowerings(LoweringTable &table);
void addRoutedMatmulLowerings(LoweringTable &table);
void addRoutedMatmulGradLowerings(LoweringTable &table);
void addRoutedParameterGradLowerings(LoweringTable &table);
void addAttentionLowerings(LoweringTable &table);
void addAttentionGradLowerings(LoweringTable &table);
void addLinearCrossEntropyLowering(LoweringTable &table);

} // namespace mlir::moe

#endif // MOE_TARGET_KERNELLOWERING_H
