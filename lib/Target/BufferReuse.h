//===-- BufferReuse.h - results in memory that exists already ---*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Finds results that need no buffer of their own: a result whose only use is to
// be added to a gradient, and one that can reuse the buffer of an operand that
// is not read again. The analysis is of tensors, where the uses of a value are
// all there is to know, and goes across calls.
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
  /// Analyses all functions of `module`, whose bodies are single blocks. With
  /// `writesGradients`, a gradient of one term shares the buffer of that term.
  BufferReuse(ModuleOp module, bool writesGradients);

  /// Whether every caller of private function `function` uses result `result`
  /// only to add it to a gradient.
  bool isOnlyAccumulated(StringRef function, unsigned result) const {
    return accumulated.contains({function, result});
  }
  /// The op that adds a result of `call` to a gradient, if isOnlyAccumulated;
  /// else null.
  AccumulateGradientOp accumulationOf(func::CallOp call, unsigned result) const;

  /// Whether `update` adds the only term of its gradient, so that the term may
  /// be computed in the gradient's buffer.
  bool isOnlyTerm(AccumulateGradientOp update) const {
    return onlyTerms.contains(update);
  }

  /// Whether `op`, one of its users, is the last that reads `value`, whose
  /// buffer may then be overwritten.
  bool diesAt(Value value, Operation *op) const;

private:
  void findOnlyTerms(ModuleOp module);
  void findAccumulated(ArrayRef<func::CallOp> calls, unsigned i);

  llvm::DenseSet<std::pair<StringRef, unsigned>> accumulated;
  llvm::DenseSet<Operation *> onlyTerms;
  /// Arguments that no caller reads after the call.
  llvm::DenseSet<std::pair<StringRef, unsigned>> disposable;
};

} // namespace mlir::moe

#endif // MOE_TARGET_BUFFERREUSE_H
