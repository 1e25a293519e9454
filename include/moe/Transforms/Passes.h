//===-- Passes.h - the passes of the moe dialect ----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TRANSFORMS_PASSES_H
#define MOE_TRANSFORMS_PASSES_H

#include "moe/Dialect/MoE.h"

#include "mlir/Pass/Pass.h"

namespace mlir::moe {

/// A pass over modules, with the base class `BaseT` that its definition gives,
/// which fails where `run` does.
template <typename BaseT> struct FailablePass : BaseT {
  using BaseT::BaseT;
  virtual LogicalResult run(ModuleOp module) = 0;
  void runOnOperation() final {
    if (failed(run(this->getOperation())))
      this->signalPassFailure();
  }
};

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moe/Transforms/Passes.h.inc"

/// The text of the model that moe-embed-model put into a program; empty if none
/// is.
std::string embeddedModel(ModuleOp module);

} // namespace mlir::moe

#endif // MOE_TRANSFORMS_PASSES_H
