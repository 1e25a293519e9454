//===-- AddProbe.cpp - makes a program that measures hidden states
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoint.h"

#include "moe/Transforms/Layers.h"
#include "moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"

namespace mlir::moe {
#define GEN_PASS_DEF_ADDPROBE
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Builds what is measured of a layer, where it is made; null for a layer that
/// has nothing of the kind.
using ProbeBuilder =
    llvm::function_ref<Value(OpBuilder &, const Layer &, Value labels)>;

/// `width` numbers for each row of the batch that `labels` are for.
RankedTensorType sumType(Value labels, int64_t width, Type element) {
  auto ids = cast<RankedTensorType>(labels.getType());
  return RankedTensorType::get({ids.getDimSize(0), width}, element);
}

Value buildDirections(OpBuilder &builder, const Layer &layer, Value labels) {
  Value input = inputOf(layer);
  builder.setInsertionPointAfterValue(input);
  auto type = cast<RankedTensorType>(input.getType());
  auto result =
      sumType(labels, type.getDimSize(2), preciseType(type.getElementType()));
  return DirectionSumOp::create(builder, input.getLoc(), result, input, labels);
}

Value buildLoads(OpBuilder &builder, const Layer &layer, Value labels) {
  RouteOp route = layer.route;
  if (!route)
    return {};
  builder.setInsertionPointAfter(route);
  auto result = sumType(labels, layer.experts(), builder.getF32Type());
  return ExpertLoadOp::create(builder, route.getLoc(), result,
                              route.getRoutes(), labels);
}

struct AddProbe : FailablePass<moe::impl::AddProbeBase<AddProbe>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override {
    if (what == "directions")
      return add(module, buildDirections);
    if (what == "loads")
      return add(module, buildLoads);
    return module.emitError()
           << "expected what to be directions or loads, but got '" << what
           << "'";
  }

  LogicalResult add(ModuleOp module, ProbeBuilder build) {
    FailureOr<func::FuncOp> forward = lookupForward(module);
    if (failed(forward))
      return failure();
    FailureOr<BlockArgument> tokens = lookupInput(*forward, "tokens");
    FailureOr<SmallVector<Layer>> layers =
        findLayers(module, SymbolTable(module));
    if (failed(tokens) || failed(layers) || failed(checkExperts(*layers)))
      return failure();

    Type ids = tokens->getType();
    BlockArgument labels =
        addArgument(*forward, ids, BindingKind::Input, "labels");
    OpBuilder builder(&getContext());
    // Whether a layer's function returns a sum, once it has been looked at.
    llvm::DenseMap<func::FuncOp, bool> measured;
    SmallVector<Value> sums;
    SmallVector<std::string> names;
    for (auto [i, layer] : llvm::enumerate(*layers)) {
      auto [known, isNew] = measured.try_emplace(layer.function, false);
      if (isNew)
        if (Value sum =
                build(builder, layer, addArgument(layer.function, ids))) {
          addResults(layer.function, sum);
          known->second = true;
        }
      ValueRange added = replaceCall(layer.call, layer.function, labels);
      if (!known->second)
        continue;
      sums.push_back(added.front());
      names.push_back(what + "." + std::to_string(i));
    }
    if (sums.empty())
      return forward->emitOpError() << "expected a layer with experts whose "
                                       "load to count, but all are "
                                       "dense";
    setOutputs(*forward, sums,
               llvm::map_to_vector(
                   names, [](const std::string &n) { return StringRef(n); }));
    forward->setSymName("probe");
    return success();
  }
};

} // namespace
