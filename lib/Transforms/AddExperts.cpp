//===-- AddExperts.cpp - gives layers new experts
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AddExperts.h"

#include "EntryPoint.h"

#include "mlir/IR/Builders.h"

#include <map>
#include <set>

using namespace mlir;
using namespace mlir::moe;

/// Of a layer. Published mixtures have up to 512, and a module grows by all of
/// them.
static constexpr int64_t maxExperts = 1024;

/// The common prefix of the names of an FFN's parameters, up to a dot: `P.` of
/// `P.gate_proj.weight`, `P.up_proj.weight`, ...
static StringRef commonPrefix(ArrayRef<ParameterOp> parameters) {
  StringRef prefix = ParameterOp(parameters.front()).getSymName();
  for (ParameterOp parameter : parameters) {
    StringRef name = parameter.getSymName();
    size_t same = 0;
    while (same < prefix.size() && same < name.size() &&
           prefix[same] == name[same])
      ++same;
    prefix = prefix.take_front(same);
  }
  // No dot: npos + 1 is 0, and nothing is in common.
  return prefix.take_front(prefix.rfind('.') + 1);
}

namespace {

class ExpertAdder {
public:
  ExpertAdder(ModuleOp module, const AddExpertsOptions &options)
      : symbols(module), options(options) {}

  LogicalResult check(const NewExperts &wanted);
  LogicalResult add(MutableArrayRef<NewExperts> layers);

private:
  using Parameters = SmallVector<ParameterOp>;
  FailureOr<Parameters> parametersOf(const Layer &layer, int64_t expert);
  FailureOr<SmallVector<Value>> declare(const NewExperts &wanted);
  LogicalResult widenRouterParameter(const NewExperts &wanted);
  LogicalResult freezeExperts(const Layer &layer);
  void expandFfn(const NewExperts &wanted);
  void expandMixture(const NewExperts &wanted);

  SymbolTable symbols;
  AddExpertsOptions options;
};

} // namespace

LogicalResult ExpertAdder::check(const NewExperts &wanted) {
  const Layer &layer = wanted.layer;
  if (layer.ffn && FfnOp(layer.ffn).getPreactivation())
    return FfnOp(layer.ffn).emitOpError()
           << "expected no pre-activation before differentiation";
  int64_t experts = layer.experts() + wanted.added;
  if (experts > maxExperts)
    return func::CallOp(layer.call).emitOpError()
           << "expected at most " << maxExperts
           << " experts in a layer, but got " << experts;
  if (layer.ffn || wanted.added == 0)
    return success();
  RouteOp route = layer.route;
  if (route.getForcedExpert() || route.getGroups() ||
      !route.getLogits().getDefiningOp<RouterOp>())
    return route.emitOpError()
           << "expected a route that follows its router, to add experts to";
  return success();
}

FailureOr<ExpertAdder::Parameters> ExpertAdder::parametersOf(const Layer &layer,
                                                             int64_t expert) {
  Parameters parameters;
  for (Value weight : weightsOfExpert(layer, expert)) {
    FailureOr<ParameterOp> parameter =
        parameterOf(layer, weight, "a weight of an FFN", symbols);
    if (failed(parameter))
      return failure();
    parameters.push_back(*parameter);
  }
  return parameters;
}

/// Declares the new experts of a layer, and the router of a dense one, and
/// reads them before the call. The router comes first.
FailureOr<SmallVector<Value>> ExpertAdder::declare(const NewExperts &wanted) {
  const Layer &layer = wanted.layer;
  int64_t before = layer.experts();
  FailureOr<Parameters> originals = parametersOf(layer, 0);
  FailureOr<Parameters> latest = parametersOf(layer, before - 1);
  if (failed(originals) || failed(latest))
    return failure();
  StringRef prefix = commonPrefix(*originals);
  ParameterOp last = latest->back();
  func::CallOp call = layer.call;
  OpBuilder reads(call);
  SmallVector<Value> values;
  auto declareOne = [&](Role role, StringRef name, RankedTensorType type,
                        Attribute origin) -> LogicalResult {
    FailureOr<ParameterOp> parameter = declareParameter(
        last, /*trainable=*/true, role, name, type, origin, symbols);
    if (failed(parameter))
      return failure();
    last = *parameter;
    values.push_back(GetParameterOp::create(reads, call.getLoc(), type, name));
    return success();
  };

  auto input = cast<RankedTensorType>(inputOf(layer).getType());
  if (layer.ffn &&
      failed(declareOne(
          Role::Router, routerName(prefix),
          RankedTensorType::get({before + wanted.added, input.getDimSize(2)},
                                input.getElementType()),
          options.router)))
    return failure();
  // The experts of a checkpoint are `P.experts.0.` and so on already.
  StringRef parent = prefix;
  parent.consume_back("experts.0.");
  for (int64_t e = before; e < before + wanted.added; ++e)
    for (ParameterOp original : *originals)
      if (failed(declareOne(
              Role::Expert,
              expertName(parent, e,
                         original.getSymName().drop_front(prefix.size())),
              cast<RankedTensorType>(original.getType()),
              CopyAttr::get(original.getContext(),
                            FlatSymbolRefAttr::get(original)))))
        return failure();
  return values;
}

/// Makes room for the new experts in the router of a mixture. It is drawn anew,
/// and so is the language gate.
LogicalResult ExpertAdder::widenRouterParameter(const NewExperts &wanted) {
  const Layer &layer = wanted.layer;
  RouteOp route = layer.route;
  auto router = route.getLogits().getDefiningOp<RouterOp>();
  FailureOr<ParameterOp> weight =
      parameterOf(layer, router.getWeight(), "a router", symbols);
  if (failed(weight))
    return failure();
  auto type = cast<RankedTensorType>(weight->getType());
  type = type.clone({layer.experts() + wanted.added, type.getDimSize(1)});
  weight->setType(type);
  weight->setOriginAttr(options.router);
  weight->setTrainable(true);
  func::CallOp call = layer.call;
  unsigned index = cast<BlockArgument>(router.getWeight()).getArgNumber();
  call.getOperand(index).setType(type);
  if (LanguageGateOp gate = languageGateOf(route)) {
    FailureOr<ParameterOp> classes =
        parameterOf(layer, gate.getWeight(), "a language gate", symbols);
    if (failed(classes))
      return failure();
    classes->setOriginAttr(options.router);
    classes->setTrainable(false);
  }
  return success();
}

/// The experts of earlier rounds do not train again.
LogicalResult ExpertAdder::freezeExperts(const Layer &layer) {
  for (int64_t e = 1; e < layer.experts(); ++e) {
    FailureOr<Parameters> parameters = parametersOf(layer, e);
    if (failed(parameters))
      return failure();
    for (ParameterOp parameter : *parameters) {
      parameter.setRole(Role::Backbone);
      parameter.setTrainable(false);
    }
  }
  return success();
}

/// Replaces the FFN of a layer's function by a mixture, whose router and
/// further experts are new arguments.
void ExpertAdder::expandFfn(const NewExperts &wanted) {
  Layer layer = wanted.layer;
  FfnOp ffn = layer.ffn;
  MixtureWeights weights;
  llvm::append_range(weights.experts, ffn.getWeights());
  auto width = cast<RankedTensorType>(ffn.getInput().getType());
  weights.router =
      addArgument(layer.function,
                  RankedTensorType::get({1 + wanted.added, width.getDimSize(2)},
                                        width.getElementType()));
  SmallVector<Type> each(ffn.getWeights().getTypes());
  for (int64_t e = 0; e < wanted.added; ++e)
    for (Type type : each)
      weights.experts.push_back(addArgument(layer.function, type));
  OpBuilder builder(ffn);
  ffn.getResult().replaceAllUsesWith(
      buildMixture(builder, ffn.getLoc(), ffn.getInput(), weights,
                   ffn.getForm(), ffn.getActivation(), options.topK));
  ffn.erase();
}

/// Gives the mixture of a layer's function more experts, which are new
/// arguments.
void ExpertAdder::expandMixture(const NewExperts &wanted) {
  Layer layer = wanted.layer;
  func::FuncOp function = layer.function;
  RouteOp route = layer.route;
  ExpertsOp mixture = layer.mixture;
  auto router = route.getLogits().getDefiningOp<RouterOp>();
  int64_t experts = layer.experts() + wanted.added;
  auto withLast = [](Value value, int64_t last) {
    auto type = cast<RankedTensorType>(value.getType());
    SmallVector<int64_t> shape(type.getShape());
    shape.back() = last;
    value.setType(type.clone(shape));
  };

  auto weight = cast<RankedTensorType>(router.getWeight().getType());
  router.getWeight().setType(weight.clone({experts, weight.getDimSize(1)}));
  function.setType(FunctionType::get(function.getContext(),
                                     function.getBody().getArgumentTypes(),
                                     function.getResultTypes()));
  withLast(router.getLogits(), experts);
  int64_t topK = std::min(options.topK, experts);
  RoutesType routes = route.getRoutes().getType();
  route.getRoutes().setType(RoutesType::get(function.getContext(),
                                            routes.getTokens(), experts, topK));
  withLast(route.getScores(), topK);

  SmallVector<Type> each(weightsOfExpert(layer, 0).getTypes());
  for (int64_t e = 0; e < wanted.added; ++e)
    for (Type type : each)
      mixture.getWeightsMutable().append(addArgument(function, type));
}

LogicalResult ExpertAdder::add(MutableArrayRef<NewExperts> layers) {
  std::map<Operation *, std::set<int64_t>> countsOf;
  SmallVector<SmallVector<Value>> values;
  for (NewExperts &wanted : layers) {
    countsOf[wanted.layer.function].insert(wanted.added);
    values.emplace_back();
    if (wanted.layer.mixture && failed(freezeExperts(wanted.layer)))
      return failure();
    if (wanted.added == 0)
      continue;
    FailureOr<SmallVector<Value>> declared = declare(wanted);
    if (failed(declared))
      return failure();
    values.back() = *declared;
    if (wanted.layer.mixture && failed(widenRouterParameter(wanted)))
      return failure();
  }

  // A function is rewritten in place only if all layers that call it become the
  // same. Clones are therefore always made of the original.
  std::map<std::pair<Operation *, int64_t>, func::FuncOp> expanded;
  for (auto [wanted, parameters] : llvm::zip_equal(layers, values)) {
    Layer &layer = wanted.layer;
    if (wanted.added == 0)
      continue;
    int64_t experts = layer.experts() + wanted.added;
    func::FuncOp original = layer.function;
    func::FuncOp &function = expanded[{original, wanted.added}];
    if (!function) {
      if (countsOf[original].size() > 1)
        cloneFunction(layer, ".experts" + Twine(experts), symbols);
      function = layer.function;
      if (layer.ffn)
        expandFfn(wanted);
      else
        expandMixture(wanted);
    }
    replaceCall(layer.call, function, parameters);
  }
  for (auto &[function, counts] : countsOf)
    if (counts.size() > 1 && !counts.count(0))
      symbols.erase(function);
  return success();
}

LogicalResult mlir::moe::addExperts(ModuleOp module,
                                    MutableArrayRef<NewExperts> layers,
                                    const AddExpertsOptions &options) {
  if (options.topK < 1)
    return module.emitError()
           << "expected top-k of at least 1, but got " << options.topK;
  ExpertAdder adder(module, options);
  for (const NewExperts &wanted : layers)
    if (failed(adder.check(wanted)))
      return failure();
  return adder.add(layers);
}
