//===-- RouteByGroup.cpp - sends tokens to the experts of their groups
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoint.h"

#include "moe/Transforms/Layers.h"
#include "moe/Transforms/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_ROUTEBYGROUP
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct RouteByGroup : FailablePass<moe::impl::RouteByGroupBase<RouteByGroup>> {
  LogicalResult run(ModuleOp module) override {
    SymbolTable symbols(module);
    FailureOr<func::FuncOp> forward = lookupForward(module);
    FailureOr<SmallVector<Layer>> layers = findLayers(module, symbols);
    if (failed(forward) || failed(layers) || failed(numGroups(module)))
      return failure();
    FailureOr<BlockArgument> tokens = lookupInput(*forward, "tokens");
    if (failed(tokens))
      return failure();
    llvm::erase_if(*layers, [](const Layer &layer) { return !layer.route; });
    if (layers->empty())
      return module.emitError() << "expected a layer with experts to route to, "
                                   "but there is none";

    Value groups = getOrAddInput(*forward, tokens->getType(), "groups");
    llvm::DenseSet<func::FuncOp> changed;
    for (Layer &layer : *layers) {
      if (changed.insert(layer.function).second && failed(change(layer)))
        return failure();
      replaceCall(layer.call, layer.function, groups);
      ++numRoutes;
    }
    return success();
  }

  /// Makes the route of a layer's function read groups, a new argument.
  LogicalResult change(const Layer &layer) {
    RouteOp route = layer.route;
    if (route.getForcedExpert() || route.getGroups())
      return route.emitOpError()
             << "expected a route that follows its router, but "
             << (route.getGroups() ? "it goes by groups already"
                                   : "its expert is forced");
    if (failed(routeToOne(route)))
      return failure();
    auto logits = cast<RankedTensorType>(route.getLogits().getType());
    func::FuncOp function = layer.function;
    route.getGroupsMutable().assign(addArgument(
        function, RankedTensorType::get(logits.getShape().drop_back(),
                                        IntegerType::get(&getContext(), 32))));
    return success();
  }
};

} // namespace
