//===-- InsertLanguageGates.cpp - puts classifiers in front of routers
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoint.h"
#include "LayerProfile.h"

#include "moe/Transforms/Allocation.h"
#include "moe/Transforms/Layers.h"
#include "moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"
#include "llvm/ADT/BitVector.h"
#include "llvm/ADT/StringSwitch.h"

namespace mlir::moe {
#define GEN_PASS_DEF_INSERTLANGUAGEGATES
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct InsertLanguageGates
    : FailablePass<moe::impl::InsertLanguageGatesBase<InsertLanguageGates>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override;
  FailureOr<SmallVector<int64_t>> chooseSimilar(ModuleOp module,
                                                ArrayRef<Layer> layers);
  FailureOr<llvm::BitVector> choose(ModuleOp module, ArrayRef<Layer> layers);
  FailureOr<Value> makeParameter(const Layer &layer, SymbolTable &symbols);
  void insertGate(func::FuncOp function, RouteOp route);

  /// Null for a gate that looks at the token alone.
  PoolKindAttr poolKind;
};

/// The layers with experts in which languages are most alike.
FailureOr<SmallVector<int64_t>>
InsertLanguageGates::chooseSimilar(ModuleOp module, ArrayRef<Layer> layers) {
  FailureOr<SmallVector<double>> similarity =
      readLayerSimilarity(module, layers, profile, /*isExpanded=*/true);
  if (failed(similarity))
    return failure();
  SmallVector<int64_t> mixtures;
  SmallVector<double> ofMixtures;
  for (auto [i, layer] : llvm::enumerate(layers))
    if (layer.route) {
      mixtures.push_back(i);
      ofMixtures.push_back((*similarity)[i]);
    }
  if (mostSimilar < 1 || mostSimilar > static_cast<int64_t>(mixtures.size()))
    return module.emitError()
           << "expected most-similar of 1 to " << mixtures.size()
           << ", the layers with experts, but got " << mostSimilar.getValue();
  return llvm::map_to_vector(mostSimilarLayers(ofMixtures, mostSimilar),
                             [&](int64_t i) { return mixtures[i]; });
}

/// Which layers to gate.
FailureOr<llvm::BitVector> InsertLanguageGates::choose(ModuleOp module,
                                                       ArrayRef<Layer> layers) {
  SmallVector<int64_t> wanted(this->layers.begin(), this->layers.end());
  if (!profile.empty()) {
    if (!wanted.empty())
      return module.emitError() << "expected layers or profile, but got both";
    FailureOr<SmallVector<int64_t>> similar = chooseSimilar(module, layers);
    if (failed(similar))
      return failure();
    wanted = *similar;
  }
  llvm::BitVector chosen(layers.size());
  for (int64_t index : wanted) {
    if (index < 0 || index >= static_cast<int64_t>(layers.size()))
      return module.emitError() << "expected layers in [0, " << layers.size()
                                << "), but got " << index;
    if (chosen.test(index))
      return module.emitError()
             << "expected every layer once, but got " << index << " twice";
    if (func::CallOp call = layers[index].call; !layers[index].route)
      return call.emitOpError()
             << "expected experts in layer " << index << ", but it is dense";
    chosen.set(index);
  }
  for (auto [i, layer] : llvm::enumerate(layers))
    if (wanted.empty() && layer.route)
      chosen.set(i);
  if (chosen.none())
    return module.emitError() << "expected a layer with experts to gate, but "
                                 "there is none; moe-upcycle makes them";
  for (unsigned index : chosen.set_bits()) {
    RouteOp route = layers[index].route;
    if (route.getForcedExpert())
      return route.emitOpError()
             << "expected a route that follows its router, but it is forced";
    if (route.getGate())
      return route.emitOpError()
             << "expected no language gate yet, but there is one";
    if (!route.getLogits().getDefiningOp<RouterOp>())
      return route.emitOpError() << "expected the logits of a moe.router";
  }
  return chosen;
}

/// Declares the gate of a layer beside its router and reads it before the call.
FailureOr<Value> InsertLanguageGates::makeParameter(const Layer &layer,
                                                    SymbolTable &symbols) {
  RouteOp route = layer.route;
  func::CallOp call = layer.call;
  auto router = route.getLogits().getDefiningOp<RouterOp>();
  FailureOr<ParameterOp> weight =
      parameterOf(layer, router.getWeight(), "a router", symbols);
  if (failed(weight))
    return failure();
  auto type = cast<RankedTensorType>(weight->getType());
  type = type.clone({2, type.getDimSize(1)});
  FailureOr<ParameterOp> gate =
      declareParameter(*weight, /*trainable=*/false, Role::LanguageGate,
                       languageGateName(weight->getSymName()), type,
                       InitAttr::get(&getContext(), Initializer::XavierNormal,
                                     seed, FloatAttr()),
                       symbols);
  if (failed(gate))
    return failure();
  OpBuilder builder(call);
  return GetParameterOp::create(builder, call.getLoc(), type,
                                gate->getSymName())
      .getResult();
}

/// Puts a gate, a new argument, in front of the route of a layer function.
void InsertLanguageGates::insertGate(func::FuncOp function, RouteOp route) {
  auto router = route.getLogits().getDefiningOp<RouterOp>();
  auto weight = cast<RankedTensorType>(router.getWeight().getType());
  Value gate = addArgument(function, weight.clone({2, weight.getDimSize(1)}));
  OpBuilder builder(route);
  route.getGateMutable().assign(buildLanguageGate(
      builder, route.getLoc(), router.getInput(), gate, poolKind));
}

LogicalResult InsertLanguageGates::run(ModuleOp module) {
  auto kind = llvm::StringSwitch<std::optional<PoolKind>>(pool)
                  .Case("causal-mean", PoolKind::CausalMean)
                  .Case("sequence-sum", PoolKind::SequenceSum)
                  .Default(std::nullopt);
  if (!kind && pool != "token")
    return module.emitError() << "expected pool to be token, causal-mean or "
                                 "sequence-sum, but got '"
                              << pool << "'";
  poolKind = kind ? PoolKindAttr::get(&getContext(), *kind) : PoolKindAttr();
  SymbolTable symbols(module);
  FailureOr<SmallVector<Layer>> layers = findLayers(module, symbols);
  if (failed(layers))
    return failure();
  FailureOr<llvm::BitVector> chosen = choose(module, *layers);
  if (failed(chosen))
    return failure();

  // Of layers that share a function some may get gates and some not.
  llvm::DenseSet<func::FuncOp> kept;
  for (auto [i, layer] : llvm::enumerate(*layers))
    if (!chosen->test(i))
      kept.insert(layer.function);
  llvm::DenseMap<func::FuncOp, func::FuncOp> gated;
  for (unsigned index : chosen->set_bits()) {
    Layer &layer = (*layers)[index];
    FailureOr<Value> parameter = makeParameter(layer, symbols);
    if (failed(parameter))
      return failure();
    func::FuncOp &function = gated[layer.function];
    if (!function) {
      if (kept.contains(layer.function))
        cloneFunction(layer, ".gated", symbols);
      function = layer.function;
      insertGate(function, layer.route);
    }
    replaceCall(layer.call, function, *parameter);
    ++numGates;
  }
  return success();
}

} // namespace
