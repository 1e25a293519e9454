//===-- DropUntrainedGates.cpp - routes without gates that nobody trained
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Layers.h"
#include "moe/Transforms/Passes.h"

#include "mlir/IR/BuiltinOps.h"

namespace mlir::moe {
#define GEN_PASS_DEF_DROPUNTRAINEDGATES
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct DropUntrainedGates
    : FailablePass<moe::impl::DropUntrainedGatesBase<DropUntrainedGates>> {
  LogicalResult run(ModuleOp module) override {
    SymbolTable symbols(module);
    WalkResult result = module.walk([&](RouteOp route) -> WalkResult {
      if (!route.getGate())
        return WalkResult::advance();
      FailureOr<bool> trained = isGateTrained(route, symbols);
      if (failed(trained))
        return WalkResult::interrupt();
      if (*trained)
        return WalkResult::advance();
      Operation *op = route.getGate().getDefiningOp();
      route.getGateMutable().clear();
      // Erase the ops that only this route read. A gate whose loss is computed
      // stays.
      while (op && op->use_empty() && isa<PoolOp, LanguageGateOp>(op)) {
        Operation *source = op->getOperand(0).getDefiningOp();
        op->erase();
        op = source;
      }
      ++numDropped;
      return WalkResult::advance();
    });
    return failure(result.wasInterrupted());
  }

  /// Whether the weights of a route's gate train or have trained. A gate of
  /// unknown origin counts as trained.
  FailureOr<bool> isGateTrained(RouteOp route, const SymbolTable &symbols) {
    LanguageGateOp gate = languageGateOf(route);
    auto weight =
        gate ? dyn_cast<BlockArgument>(gate.getWeight()) : BlockArgument();
    auto function = dyn_cast<func::FuncOp>(route->getParentOp());
    if (!weight || !function)
      return true;
    std::optional<bool> trained;
    std::optional<SymbolTable::UseRange> uses =
        function.getSymbolUses(getOperation());
    for (const SymbolTable::SymbolUse &use : *uses) {
      auto call = dyn_cast<func::CallOp>(use.getUser());
      ParameterOp parameter =
          call ? parameterOf(call, weight.getArgNumber(), symbols)
               : ParameterOp();
      if (!parameter)
        return true;
      bool isOwnTrained = isTrained(parameter);
      if (trained && *trained != isOwnTrained)
        return route.emitOpError()
               << "expected the gates of layers that share a function to be "
                  "trained together, but @"
               << parameter.getSymName() << " differs from others";
      trained = isOwnTrained;
    }
    return trained.value_or(true);
  }
};

} // namespace
