//===-- BufferReuse.h - results in memory that exists already ---*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Two cases in which a result needs no memory of its own, found on tensors,
// where values say it all, across calls: it is only added to a gradient, or it
// may take the place of an operand that nobody reads again.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_BUFFERREUSE_H
#define MOE_TARGET_BUFFERREUSE_H

#include "moe/Dialect/MoE.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/MapVector.h"

namespace mlir::moe {

class BufferReuse {
public:
  /// Looks at all functions of `module`, whose bodies are single blocks.
  /// `writesGradients`: a gradient of one term is that term's memory.
  BufferReuse(ModuleOp module, bool writesGradients);

  /// Where every caller of private function `function` does nothing with
  /// result `result` but add it to a gradient.
  bool isOnlyAccumulated(StringRef function, unsigned result) const {
    return accumulated.contains({function, result});
  }
  /// What adds a result of `call` to a gradient, if nothing else uses it in any
  /// call of that function.
  AccumulateGradientOp accumulationOf(func::CallOp call, unsigned result) const;

  /// Whether the memory of `update`'s gradient holds nothing but what is added
  /// by it: its term may be made there.
  bool isOnlyTerm(AccumulateGradientOp update) const {
    return onlyTerms.contains(update);
  }

  /// Whether nobody reads the memory of `value` after `op`, one of its users,
  /// and it may be overwritten.
  bool diesAt(Value value, Operation *op) const;

private:
  void findOnlyTerms(ModuleOp module);
  void findAccumulated(ArrayRef<func::CallOp> calls, unsigned i);

  llvm::DenseSet<std::pair<StringRef, unsigned>> accumulated;
  llvm::DenseSet<Operation *> onlyTerms;
  /// Arguments that no caller needs any more.
  llvm::DenseSet<std::pair<StringRef, unsigned>> disposable;
};

} // namespace mlir::moe

#endif // MOE_TARGET_BUFFERREUSE_H
