//===-- InsertLanguageGates.cpp - puts classifiers in front of routers
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoint.h"

#include "moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringSwitch.h"

namespace mlir::moe {
#define GEN_PASS_DEF_INSERTLANGUAGEGATES
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// A call of a layer function, and the route in it; null in a dense layer.
struct Layer {
  func::CallOp call;
  func::FuncOp function;
  RouteOp route;
  bool isChosen = false;
};

struct InsertLanguageGates
    : moe::impl::InsertLanguageGatesBase<InsertLanguageGates> {
  using InsertLanguageGatesBase::InsertLanguageGatesBase;

  void runOnOperation() override {
    if (failed(run(getOperation())))
      signalPassFailure();
  }

  LogicalResult run(ModuleOp module);
  FailureOr<SmallVector<Layer>> findLayers(func::FuncOp forward,
                                           SymbolTable &symbols);
  LogicalResult choose(ModuleOp module, MutableArrayRef<Layer> layers);
  FailureOr<Value> makeParameter(const Layer &layer, SymbolTable &symbols);
  func::FuncOp insertGate(const Layer &layer, bool clone, SymbolTable &symbols);

  /// Null for the token alone.
  PoolKindAttr poolKind;
};

/// The layers in the order in which tokens pass them: calls of functions with
/// an FFN or experts.
FailureOr<SmallVector<Layer>>
InsertLanguageGates::findLayers(func::FuncOp forward, SymbolTable &symbols) {
  SmallVector<Layer> layers;
  for (auto call : forward.getOps<func::CallOp>()) {
    auto function = symbols.lookup<func::FuncOp>(call.getCallee());
    if (function.isExternal())
      continue;
    SmallVector<RouteOp> routes(function.getOps<RouteOp>());
    if (routes.size() > 1) {
      InFlightDiagnostic diag = function.emitOpError()
                                << "expected one moe.route in a layer, but got "
                                << routes.size();
      diag.attachNote(routes[1].getLoc()) << "another one is here";
      return diag;
    }
    if (routes.empty() && function.getOps<FfnOp>().empty())
      continue;
    layers.push_back(
        {call, function, routes.empty() ? RouteOp() : routes.front()});
  }
  return layers;
}

/// Marks the layers to gate.
LogicalResult InsertLanguageGates::choose(ModuleOp module,
                                          MutableArrayRef<Layer> layers) {
  for (int64_t index : this->layers) {
    if (index < 0 || index >= static_cast<int64_t>(layers.size()))
      return module.emitError() << "expected layers in [0, " << layers.size()
                                << "), but got " << index;
    Layer &layer = layers[index];
    if (layer.isChosen)
      return module.emitError()
             << "expected every layer once, but got " << index << " twice";
    if (!layer.route)
      return layer.call.emitOpError()
             << "expected experts in layer " << index << ", but it is dense";
    layer.isChosen = true;
  }
  bool any = false;
  for (Layer &layer : layers) {
    layer.isChosen |= this->layers.empty() && layer.route;
    any |= layer.isChosen;
    if (!layer.isChosen)
      continue;
    if (layer.route.getForcedExpert())
      return layer.route.emitOpError()
             << "expected a route that follows its router, but it is forced";
    if (layer.route.getGate())
      return layer.route.emitOpError()
             << "expected no language gate yet, but there is one";
    auto router = layer.route.getLogits().getDefiningOp<RouterOp>();
    if (!router || !isa<BlockArgument>(router.getWeight()))
      return layer.route.emitOpError()
             << "expected the logits of a moe.router whose weight is an "
                "argument of the layer";
  }
  if (!any)
    return module.emitError() << "expected a layer with experts to gate, but "
                                 "there is none; moe-upcycle makes them";
  return success();
}

/// Declares the gate of a layer beside its router and reads it before the call.
FailureOr<Value> InsertLanguageGates::makeParameter(const Layer &layer,
                                                    SymbolTable &symbols) {
  func::CallOp call = layer.call;
  RouteOp route = layer.route;
  auto router = route.getLogits().getDefiningOp<RouterOp>();
  unsigned index = cast<BlockArgument>(router.getWeight()).getArgNumber();
  auto get = call.getOperand(index).getDefiningOp<GetParameterOp>();
  if (!get)
    return call.emitOpError() << "expected operand " << index
                              << ", a router, to be a moe.get_parameter";
  auto parameter = symbols.lookup<ParameterOp>(get.getName());
  // `P.gate.weight` has a `P.language_gate.weight` beside it.
  auto [prefix, last] = parameter.getSymName().rsplit('.');
  prefix = prefix.take_front(prefix.rfind('.') + 1);
  std::string name = (prefix + "language_gate." + last).str();
  if (Operation *other = symbols.lookup(name)) {
    InFlightDiagnostic diag = parameter.emitOpError()
                              << "expected a new name for a language gate, but "
                                 "there is a @"
                              << name;
    diag.attachNote(other->getLoc()) << "it is here";
    return diag;
  }
  auto weight = cast<RankedTensorType>(parameter.getType());
  RankedTensorType type = weight.clone({2, weight.getDimSize(1)});
  OpBuilder builder(call);
  Value value = GetParameterOp::create(builder, call.getLoc(), type, name);
  builder.setInsertionPointAfter(parameter);
  symbols.insert(ParameterOp::create(
      builder, parameter.getLoc(), /*trainable=*/false, Role::LanguageGate,
      name, type,
      InitAttr::get(&getContext(), Initializer::XavierNormal, seed,
                    FloatAttr())));
  return value;
}

/// Puts a gate, a new argument, in front of the route of a layer function; in a
/// clone if other layers keep the original.
func::FuncOp InsertLanguageGates::insertGate(const Layer &layer, bool clone,
                                             SymbolTable &symbols) {
  func::FuncOp function = layer.function;
  RouteOp route = layer.route;
  if (clone) {
    IRMapping mapping;
    function = cast<func::FuncOp>(function->clone(mapping));
    function.setSymName((function.getSymName() + ".gated").str());
    symbols.insert(function, std::next(Block::iterator(layer.function)));
    route = cast<RouteOp>(mapping.lookup(RouteOp(layer.route).getOperation()));
  }
  auto router = route.getLogits().getDefiningOp<RouterOp>();
  auto weight = cast<RankedTensorType>(router.getWeight().getType());
  auto logits = cast<RankedTensorType>(route.getLogits().getType());
  Value gate = addArgument(function, weight.clone({2, weight.getDimSize(1)}));
  OpBuilder builder(route);
  Type type =
      logits.clone({logits.getDimSize(0), logits.getDimSize(1), int64_t(2)});
  Value classes = LanguageGateOp::create(builder, route.getLoc(), type,
                                         router.getInput(), gate);
  if (poolKind)
    classes = PoolOp::create(builder, route.getLoc(), type, classes,
                             /*slots=*/Value(), poolKind);
  route.getGateMutable().assign(classes);
  return function;
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
  FailureOr<func::FuncOp> forward = lookupForward(module);
  if (failed(forward))
    return failure();
  SymbolTable symbols(module);
  FailureOr<SmallVector<Layer>> layers = findLayers(*forward, symbols);
  if (failed(layers) || failed(choose(module, *layers)))
    return failure();

  // Layers that share a function may part: some get gates, some do not.
  llvm::MapVector<func::FuncOp, bool> isShared;
  for (const Layer &layer : *layers)
    isShared[layer.function] |= !layer.isChosen;
  llvm::DenseMap<func::FuncOp, func::FuncOp> gated;
  for (const Layer &layer : *layers) {
    if (!layer.isChosen)
      continue;
    FailureOr<Value> parameter = makeParameter(layer, symbols);
    if (failed(parameter))
      return failure();
    func::FuncOp &function = gated[layer.function];
    if (!function)
      function = insertGate(layer, isShared[layer.function], symbols);
    replaceCall(layer.call, function, *parameter);
    ++numGates;
  }
  return success();
}

} // namespace
