//===-- ForceExpert.cpp - sends every token to one expert
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Layers.h"
#include "moe/Transforms/Passes.h"

#include "mlir/IR/BuiltinOps.h"

namespace mlir::moe {
#define GEN_PASS_DEF_FORCEEXPERT
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct ForceExpert : FailablePass<moe::impl::ForceExpertBase<ForceExpert>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override {
    WalkResult result =
        module.walk([&](RouteOp route) { return WalkResult(force(route)); });
    return failure(result.wasInterrupted());
  }

  LogicalResult force(RouteOp route) {
    int64_t experts = route.getRoutes().getType().getExperts();
    if (expert < 0 || expert >= experts)
      return route.emitOpError() << "expected an expert in [0, " << experts
                                 << "), but got " << expert.getValue();
    if (failed(routeToOne(route)))
      return failure();
    route.setForcedExpert(expert);
    return success();
  }
};

} // namespace
