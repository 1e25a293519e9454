//===-- AddLanguage.cpp - gives a further language an expert
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoint.h"

#include "moe/Transforms/Layers.h"
#include "moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"
#include "llvm/ADT/MapVector.h"

namespace mlir::moe {
#define GEN_PASS_DEF_ADDLANGUAGE
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// A layer with experts and the ops that another expert changes.
struct Mixture {
  Layer layer;
  RouterOp router;
  ExpertsOp experts;
  /// The arguments that the router's weight is made of, in order of rows.
  SmallVector<Value> routerParts;

  /// Weights of one expert.
  int64_t each() {
    return FfnLayout(experts.getForm(), experts.getActivation(),
                     experts.getWeights())
        .each();
  }
};

struct AddLanguage : FailablePass<moe::impl::AddLanguageBase<AddLanguage>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override;
  FailureOr<Mixture> match(Layer layer);
  FailureOr<Attribute> rowOrigin(Mixture &mixture, const SymbolTable &symbols);
  FailureOr<SmallVector<Value>> makeParameters(Mixture &mixture,
                                               SymbolTable &symbols);
  void addExpert(Mixture &mixture);

  /// How many groups there are, and experts, before the pass.
  int64_t count = 0;
};

FailureOr<Mixture> AddLanguage::match(Layer layer) {
  RouteOp route = layer.route;
  if (layer.experts() != count)
    return route.emitOpError()
           << "expected an expert for each of " << count
           << " groups of languages and no other, but got " << layer.experts();
  if (route.getForcedExpert() || route.getGate() || route.getGroups())
    return route.emitOpError() << "expected a route that follows its router";
  Mixture mixture{layer, route.getLogits().getDefiningOp<RouterOp>(), {}, {}};
  for (Operation *user : route->getUsers())
    if (auto experts = dyn_cast<ExpertsOp>(user))
      mixture.experts = experts;
  if (!mixture.router || !route.getLogits().hasOneUse() || !mixture.experts ||
      !route.getRoutes().hasOneUse() || mixture.experts.getPreactivation())
    return route.emitOpError() << "expected a moe.router before it and one "
                                  "moe.experts after it";
  mixture.routerParts = routerParts(layer);
  return mixture;
}

/// Where row `expert` of a router comes from: it is a part of its own, or a
/// row of a tensor in a checkpoint.
FailureOr<Attribute> AddLanguage::rowOrigin(Mixture &mixture,
                                            const SymbolTable &symbols) {
  int64_t row = expert;
  Value part;
  for (Value candidate : mixture.routerParts) {
    part = candidate;
    int64_t rows = cast<RankedTensorType>(part.getType()).getDimSize(0);
    if (row < rows)
      break;
    row -= rows;
  }
  FailureOr<ParameterOp> parameter =
      parameterOf(mixture.layer, part, "a router", symbols);
  if (failed(parameter))
    return failure();
  if (cast<RankedTensorType>(parameter->getType()).getDimSize(0) == 1)
    return Attribute(
        CopyAttr::get(&getContext(), FlatSymbolRefAttr::get(*parameter)));
  auto origin = dyn_cast<CheckpointAttr>(parameter->getOrigin());
  if (!origin)
    return parameter->emitOpError()
           << "expected a router that has trained, of which a row can be "
              "copied, but its values are not in a checkpoint";
  if (DenseI64ArrayAttr rows = origin.getRows())
    row = rows[0] + row / rows[1] * rows[2] + row % rows[1];
  // The parameter has one row, so the stride leads nowhere.
  return Attribute(CheckpointAttr::get(
      &getContext(), origin.getFile(), origin.getKey(),
      DenseI64ArrayAttr::get(&getContext(), {row, 1, row + 1})));
}

/// Declares the row of the router and the weights of the new expert, and reads
/// them before the call.
FailureOr<SmallVector<Value>>
AddLanguage::makeParameters(Mixture &mixture, SymbolTable &symbols) {
  Layer &layer = mixture.layer;
  FailureOr<ParameterOp> router =
      parameterOf(layer, mixture.routerParts.front(), "a router", symbols);
  FailureOr<Attribute> origin = rowOrigin(mixture, symbols);
  if (failed(router) || failed(origin))
    return failure();
  // `P.` of `P.gate.weight`.
  auto [prefix, last] = router->getSymName().rsplit("gate.");
  OpBuilder reads(layer.call);
  SmallVector<Value> values;
  ParameterOp neighbor = *router;
  auto declare = [&](Role role, StringRef name, RankedTensorType type,
                     Attribute from) -> LogicalResult {
    FailureOr<ParameterOp> parameter = declareParameter(
        neighbor, /*trainable=*/true, role, name, type, from, symbols);
    if (failed(parameter))
      return failure();
    neighbor = *parameter;
    values.push_back(
        GetParameterOp::create(reads, layer.call.getLoc(), type, name));
    return success();
  };
  auto routerType = cast<RankedTensorType>(router->getType());
  if (failed(declare(Role::Router, routerRowName(prefix, count),
                     routerType.clone({1, routerType.getDimSize(1)}), *origin)))
    return failure();

  int64_t each = mixture.each();
  for (Value weight : mixture.experts.getWeights().slice(expert * each, each)) {
    FailureOr<ParameterOp> source =
        parameterOf(layer, weight, "a weight of an expert", symbols);
    if (failed(source))
      return failure();
    StringRef part = source->getSymName();
    part.consume_front(prefix);
    if (part.consume_front("experts."))
      part = part.split('.').second;
    if (failed(declare(
            Role::Expert, expertName(prefix, count, part),
            cast<RankedTensorType>(source->getType()),
            CopyAttr::get(&getContext(), FlatSymbolRefAttr::get(*source)))))
      return failure();
  }
  return values;
}

/// Gives the function of a layer a further expert, whose row of the router and
/// weights are new arguments.
void AddLanguage::addExpert(Mixture &mixture) {
  func::FuncOp function = mixture.layer.function;
  RouteOp route = mixture.layer.route;
  RouterOp router = mixture.router;
  auto weight = cast<RankedTensorType>(router.getWeight().getType());
  SmallVector<Value> parts = mixture.routerParts;
  parts.push_back(
      addArgument(function, weight.clone({1, weight.getDimSize(1)})));
  OpBuilder builder(router);
  Value joined = ConcatRowsOp::create(
      builder, router.getLoc(), weight.clone({count + 1, weight.getDimSize(1)}),
      parts);
  Operation *before = router.getWeight().getDefiningOp();
  router.getWeightMutable().assign(joined);
  if (before && before->use_empty())
    before->erase();
  auto logits = cast<RankedTensorType>(router.getLogits().getType());
  SmallVector<int64_t> shape(logits.getShape());
  shape.back() = count + 1;
  router.getLogits().setType(logits.clone(shape));
  RoutesType routes = route.getRoutes().getType();
  route.getRoutes().setType(RoutesType::get(&getContext(), routes.getTokens(),
                                            count + 1, routes.getTopK()));

  int64_t each = mixture.each();
  SmallVector<Type> types(
      mixture.experts.getWeights().take_front(each).getTypes());
  for (Type type : types)
    mixture.experts.getWeightsMutable().append(addArgument(function, type));
}

LogicalResult AddLanguage::run(ModuleOp module) {
  FailureOr<int64_t> groups = moe::numGroups(module);
  if (failed(groups))
    return failure();
  count = *groups;
  MoEDialect::GroupsAttrHelper helper(&getContext());
  NamedAttrList groupOf(helper.getAttr(module));
  if (language.empty() || groupOf.get(language))
    return module.emitError()
           << "expected the code of a language that is in no group yet, but "
              "got '"
           << language << "'";
  if (expert < 0 || expert >= count)
    return module.emitError() << "expected an expert in [0, " << count
                              << "), but got " << expert.getValue()
                              << "; moe-run profile perplexity measures which "
                                 "suits the language";
  SymbolTable symbols(module);
  FailureOr<SmallVector<Layer>> layers = findLayers(module, symbols);
  if (failed(layers))
    return failure();

  SmallVector<ParameterOp> known(module.getOps<ParameterOp>());
  llvm::MapVector<Operation *, Mixture> mixtures;
  SmallVector<SmallVector<Value>> parameters;
  llvm::erase_if(*layers, [](const Layer &layer) { return !layer.route; });
  if (layers->empty())
    return module.emitError()
           << "expected a layer with experts, but there is none";
  for (const Layer &layer : *layers) {
    FailureOr<Mixture> mixture = match(layer);
    if (failed(mixture))
      return failure();
    FailureOr<SmallVector<Value>> made = makeParameters(*mixture, symbols);
    if (failed(made))
      return failure();
    parameters.push_back(*made);
    mixtures.try_emplace(layer.function, *mixture);
  }
  for (auto &[function, mixture] : mixtures)
    addExpert(mixture);
  for (auto [layer, values] : llvm::zip_equal(*layers, parameters)) {
    replaceCall(layer.call, layer.function, values);
    ++numLayers;
  }
  // What was there is what the new language finds.
  for (ParameterOp parameter : known) {
    parameter.setTrainable(false);
    parameter.setRole(Role::Backbone);
  }
  groupOf.set(language,
              IntegerAttr::get(IntegerType::get(&getContext(), 64), count));
  helper.setAttr(module, groupOf.getDictionary(&getContext()));
  return success();
}

} // namespace
