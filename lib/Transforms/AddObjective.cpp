//===-- AddObjective.cpp - makes the training objective of a stage
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoint.h"

#include "moe/Transforms/Layers.h"
#include "moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"
#include "llvm/Support/FormatVariadic.h"

#include <array>
#include <cmath>

namespace mlir::moe {
#define GEN_PASS_DEF_ADDOBJECTIVE
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

enum LossKind { Balance, Prior, Classifier, RouterCrossEntropy };
constexpr size_t numLossKinds = 4;

/// The router losses of a function and of those that it calls, by kind: the
/// classifier's for each language gate, all others for each MoE layer.
using RouterLosses = std::array<SmallVector<Value>, numLossKinds>;

/// The values that router losses read beside the logits. In @step these are
/// bound inputs, in any other function additional arguments.
struct LossInputs {
  Value old, oldWeight, microBatchWeight, positionWeight, groups;
};

/// An input of LossInputs.
using LossInput = Value LossInputs::*;

/// Which kinds of router losses there are, and in which form.
struct RouterLossOptions {
  bool balance, prior, classifier, crossEntropy;
  LossForm balanceForm, priorForm;

  /// The inputs that a function with routers takes, in order.
  SmallVector<LossInput> inputs() const {
    SmallVector<LossInput> needed;
    if (balance)
      needed.push_back(&LossInputs::microBatchWeight);
    if (prior || classifier)
      needed.push_back(&LossInputs::old);
    if (prior)
      needed.push_back(&LossInputs::oldWeight);
    if (classifier || crossEntropy)
      needed.push_back(&LossInputs::positionWeight);
    if (crossEntropy)
      needed.push_back(&LossInputs::groups);
    return needed;
  }
};

/// Adds router losses to the layers and returns them up to the entry point.
class RouterLossBuilder {
public:
  explicit RouterLossBuilder(const RouterLossOptions &options)
      : options(options) {}

  /// Adds the losses of the routers in `function`, where they read `inputs`.
  RouterLosses build(func::FuncOp function, const LossInputs &inputs);

private:
  /// How many losses of each kind a function returns in addition.
  using LossCounts = std::array<size_t, numLossKinds>;

  void buildForRoute(RouteOp route, const LossInputs &inputs,
                     RouterLosses &losses);
  void buildForCall(func::CallOp call, const LossInputs &inputs,
                    RouterLosses &losses);
  LossCounts extend(func::FuncOp function, const LossInputs &inputs);
  bool holdsRouters(func::FuncOp function);

  RouterLossOptions options;
  llvm::DenseMap<func::FuncOp, LossCounts> extended;
  llvm::DenseMap<func::FuncOp, bool> routers;
};

bool RouterLossBuilder::holdsRouters(func::FuncOp function) {
  auto known = routers.find(function);
  if (known != routers.end())
    return known->second;
  bool found = false;
  function.walk([&](Operation *op) {
    if (isa<RouteOp>(op))
      found = true;
    else if (auto call = dyn_cast<func::CallOp>(op))
      found |= holdsRouters(SymbolTable::lookupNearestSymbolFrom<func::FuncOp>(
          call, call.getCalleeAttr()));
  });
  return routers[function] = found;
}

RouterLosses RouterLossBuilder::build(func::FuncOp function,
                                      const LossInputs &inputs) {
  RouterLosses losses;
  SmallVector<Operation *> sources;
  function.walk([&](Operation *op) {
    if (isa<RouteOp, func::CallOp>(op))
      sources.push_back(op);
  });
  for (Operation *op : sources)
    if (auto route = dyn_cast<RouteOp>(op))
      buildForRoute(route, inputs, losses);
    else
      buildForCall(cast<func::CallOp>(op), inputs, losses);
  return losses;
}

void RouterLossBuilder::buildForRoute(RouteOp route, const LossInputs &inputs,
                                      RouterLosses &losses) {
  OpBuilder builder(route);
  builder.setInsertionPointAfter(route);
  MLIRContext *context = route.getContext();
  if (options.balance)
    losses[Balance].push_back(BalanceLossOp::create(
        builder, route.getLoc(), inputs.microBatchWeight.getType(),
        route.getLogits(), route.getRoutes(), inputs.microBatchWeight,
        LossFormAttr::get(context, options.balanceForm)));
  if (options.prior)
    losses[Prior].push_back(LanguagePriorLossOp::create(
        builder, route.getLoc(), inputs.oldWeight.getType(), route.getLogits(),
        inputs.old, inputs.oldWeight,
        LossFormAttr::get(context, options.priorForm)));
  if (options.classifier && route.getGate())
    losses[Classifier].push_back(ClassifierLossOp::create(
        builder, route.getLoc(), inputs.positionWeight.getType(),
        route.getGate(), inputs.old, inputs.positionWeight));
  if (options.crossEntropy)
    losses[RouterCrossEntropy].push_back(CrossEntropyOp::create(
        builder, route.getLoc(), inputs.positionWeight.getType(),
        route.getLogits(), inputs.groups, inputs.positionWeight));
}

void RouterLossBuilder::buildForCall(func::CallOp call,
                                     const LossInputs &inputs,
                                     RouterLosses &losses) {
  auto callee = SymbolTable::lookupNearestSymbolFrom<func::FuncOp>(
      call, call.getCalleeAttr());
  if (!holdsRouters(callee))
    return;
  LossCounts counts = extend(callee, inputs);
  SmallVector<Value> operands;
  for (LossInput input : options.inputs())
    operands.push_back(inputs.*input);
  ValueRange results = replaceCall(call, callee, operands);
  for (auto [ofKind, count] : llvm::zip_equal(losses, counts)) {
    llvm::append_range(ofKind, results.take_front(count));
    results = results.drop_front(count);
  }
}

RouterLossBuilder::LossCounts
RouterLossBuilder::extend(func::FuncOp function, const LossInputs &inputs) {
  auto known = extended.find(function);
  if (known != extended.end())
    return known->second;
  LossInputs inside;
  for (LossInput input : options.inputs())
    inside.*input = addArgument(function, (inputs.*input).getType());
  RouterLosses losses = build(function, inside);
  LossCounts counts;
  for (auto [ofKind, count] : llvm::zip_equal(losses, counts)) {
    addResults(function, ofKind);
    count = ofKind.size();
  }
  return extended[function] = counts;
}

struct AddObjective : FailablePass<moe::impl::AddObjectiveBase<AddObjective>> {
  using FailablePass::FailablePass;

  FailureOr<LossForm> parseForm(StringRef option, StringRef name) {
    std::optional<LossForm> form = symbolizeLossForm(name);
    if (!form)
      return getOperation().emitError()
             << "expected " << option << " to be paper or reference, but got '"
             << name << "'";
    return *form;
  }

  /// Fails if a router loss is wanted that no layer would have.
  LogicalResult checkCoefficient(StringRef option, double coefficient,
                                 bool hasRouters) {
    if (!(coefficient >= 0) || !std::isfinite(coefficient))
      return getOperation().emitError()
             << "expected " << option
             << " to be zero or a positive number, but got "
             << llvm::formatv("{0}", coefficient).str();
    if (coefficient != 0 && !hasRouters)
      return getOperation().emitError()
             << "expected a moe.route, since " << option << " is not zero";
    return success();
  }

  LogicalResult run(ModuleOp module) override {
    FailureOr<func::FuncOp> forward = lookupForward(module);
    if (failed(forward))
      return failure();
    FailureOr<BlockArgument> tokens = lookupInput(*forward, "tokens");
    FailureOr<Value> logits = lookupOutput(*forward, "logits");
    FailureOr<LossForm> balanceLossForm =
        parseForm("balance-form", balanceForm);
    FailureOr<LossForm> priorLossForm =
        parseForm("language-prior-form", languagePriorForm);
    if (failed(tokens) || failed(logits) || failed(balanceLossForm) ||
        failed(priorLossForm))
      return failure();
    bool hasRouters = false, hasGates = false;
    module.walk([&](RouteOp route) {
      hasRouters = true;
      hasGates |= bool(route.getGate());
    });
    if (failed(checkCoefficient("balance", balance, hasRouters)) ||
        failed(checkCoefficient("language-prior", languagePrior, hasRouters)) ||
        // Stage 2 is one stage for models with gates and without.
        failed(checkCoefficient("classifier", classifier,
                                /*hasRouters=*/true)) ||
        failed(checkCoefficient("router-cross-entropy", routerCrossEntropy,
                                hasRouters)) ||
        (routerCrossEntropy != 0 && failed(numGroups(module))))
      return failure();

    auto logitsType = cast<RankedTensorType>(logits->getType());
    auto scalar =
        RankedTensorType::get({}, preciseType(logitsType.getElementType()));
    auto addInput = [&](StringRef name, Type type) {
      return addArgument(*forward, type, BindingKind::Input, name);
    };
    Value labels = addInput("labels", tokens->getType());
    LossInputs inputs;
    inputs.old = addInput("old", tokens->getType());
    Value tokenWeight = addInput("token_weight", scalar);
    inputs.oldWeight = addInput("old_weight", scalar);
    inputs.microBatchWeight = addInput("micro_batch_weight", scalar);
    inputs.positionWeight = addInput("position_weight", scalar);

    if (routerCrossEntropy != 0)
      inputs.groups = getOrAddInput(*forward, tokens->getType(), "groups");

    RouterLossBuilder routerLosses(
        {balance != 0, languagePrior != 0, classifier != 0 && hasGates,
         routerCrossEntropy != 0, *balanceLossForm, *priorLossForm});
    RouterLosses losses = routerLosses.build(*forward, inputs);

    OpBuilder builder(returnOf(*forward));
    Location loc = forward->getLoc();
    // Calls were replaced: the logits may be a new value by now.
    Value current = *lookupOutput(*forward, "logits");
    SmallVector<Value> terms = {CrossEntropyOp::create(
        builder, loc, scalar, current, labels, tokenWeight)};
    SmallVector<StringRef> names = {"next_token"};
    SmallVector<double> coefficients = {1.0};
    auto addTerm = [&](StringRef name, ArrayRef<Value> layers,
                       double coefficient) {
      if (layers.empty())
        return;
      SmallVector<double> mean(layers.size(), 1.0 / layers.size());
      terms.push_back(
          WeightedSumOp::create(builder, loc, scalar, layers, mean));
      names.push_back(name);
      coefficients.push_back(coefficient);
    };
    addTerm("balance", losses[Balance], balance);
    addTerm("language_prior", losses[Prior], languagePrior);
    addTerm("classifier", losses[Classifier], classifier);
    addTerm("router_cross_entropy", losses[RouterCrossEntropy],
            routerCrossEntropy);

    Value loss =
        WeightedSumOp::create(builder, loc, scalar, terms, coefficients);
    terms.insert(terms.begin(), loss);
    names.insert(names.begin(), "loss");
    setOutputs(*forward, terms, names);
    forward->setSymName("step");
    NamedAttrList objective;
    objective.set("balance", builder.getF64FloatAttr(balance));
    objective.set("balance_form", builder.getStringAttr(balanceForm));
    objective.set("classifier",
                  builder.getF64FloatAttr(hasGates ? double(classifier) : 0.0));
    objective.set("language_prior", builder.getF64FloatAttr(languagePrior));
    objective.set("language_prior_form",
                  builder.getStringAttr(languagePriorForm));
    objective.set("router_cross_entropy",
                  builder.getF64FloatAttr(routerCrossEntropy));
    MoEDialect::ObjectiveAttrHelper(module.getContext())
        .setAttr(module, objective.getDictionary(module.getContext()));
    return success();
  }
};

} // namespace
