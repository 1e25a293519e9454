//===-- ForceExpert.cpp - sends every token to one expert
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

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
    // From now on a token has one score and one row. Another user of them, or a
    // saved pre-activation, would no longer fit.
    for (Operation *user : route->getUsers()) {
      auto mixture = dyn_cast<ExpertsOp>(user);
      if ((mixture && !mixture.getPreactivation()) || isa<BalanceLossOp>(user))
        continue;
      InFlightDiagnostic diag = route.emitOpError()
                                << "expected only moe.experts and "
                                   "moe.balance_loss to use the routes";
      diag.attachNote(user->getLoc()) << "used here";
      return diag;
    }
    route.getGateMutable().clear();
    route.setForcedExpert(expert);
    route.setRenormalize(false);
    route.getRoutes().setType(RoutesType::get(
        &getContext(), route.getRoutes().getType().getTokens(), experts, 1));
    auto scores = cast<RankedTensorType>(route.getScores().getType());
    SmallVector<int64_t> shape(scores.getShape());
    shape.back() = 1;
    route.getScores().setType(scores.clone(shape));
    return success();
  }
};

} // namespace
