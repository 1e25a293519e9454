//===-- Facts.cpp - what a model costs ------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Facts.h"

#include "moe/Import/Module.h"
#include "moe/Transforms/Passes.h"

#include "mlir/Pass/PassManager.h"

using namespace mlir;
using namespace mlir::moe;

namespace polymoe {

namespace {

/// What is known of a value: whether a trainable parameter influences it, and
/// whether it is one.
struct ValueFacts {
  bool isActive = false;
  bool isParameter = false;
};

/// Adds up what the ops cost, function by function as they are called.
class CostWalk {
public:
  CostWalk(ModuleOp module, double tokens, ModelFacts &facts)
      : symbols(module), tokens(tokens), facts(facts) {}

  SmallVector<ValueFacts> run(func::FuncOp function,
                              ArrayRef<ValueFacts> arguments) {
    DenseMap<Value, ValueFacts> values;
    for (auto [argument, known] :
         llvm::zip_equal(function.getArguments(), arguments))
      values[argument] = known;
    auto of = [&](ValueRange range) {
      SmallVector<ValueFacts> known;
      for (Value value : range)
        known.push_back(values.lookup(value));
      return known;
    };
    Block &body = function.getBody().front();
    for (Operation &op : body.without_terminator()) {
      SmallVector<ValueFacts> results;
      if (auto call = dyn_cast<func::CallOp>(op)) {
        results = run(symbols.lookup<func::FuncOp>(call.getCallee()),
                      of(op.getOperands()));
      } else if (auto get = dyn_cast<GetParameterOp>(op)) {
        auto parameter = symbols.lookup<ParameterOp>(get.getName());
        results = {{parameter.getTrainable(), true}};
      } else {
        count(&op, values);
        ValueFacts known = {
            llvm::any_of(of(op.getOperands()),
                         [](ValueFacts operand) { return operand.isActive; })};
        results.assign(op.getNumResults(), known);
      }
      for (auto [result, known] : llvm::zip_equal(op.getResults(), results))
        values[result] = known;
    }
    return of(body.getTerminator()->getOperands());
  }

private:
  void count(Operation *op, const DenseMap<Value, ValueFacts> &values) {
    if (auto ffn = dyn_cast<FfnOp>(op))
      facts.layers.push_back({1, 1, values.lookup(op->getOperand(1)).isActive});
    else if (auto experts = dyn_cast<ExpertsOp>(op))
      countExperts(experts, values);
    auto costs = dyn_cast<CostOpInterface>(op);
    if (!costs)
      return;
    bool readsActive = llvm::any_of(op->getOperands(), [&](Value operand) {
      ValueFacts known = values.lookup(operand);
      return known.isActive && !known.isParameter;
    });
    for (const MatrixProduct &product : costs.getProducts()) {
      double flops = product.flops / tokens;
      bool trains = values.lookup(product.weight).isActive;
      // What a weight of an FFN multiplies may depend on another one of it.
      bool isInputActive = readsActive || (trains && isa<FfnOp, ExpertsOp>(op));
      facts.forwardFlops += flops;
      facts.backwardFlops +=
          flops * (isInputActive + (product.weight ? trains : readsActive));
      if (product.weight)
        facts.activeElements += flops / 2;
    }
  }

  void countExperts(ExpertsOp experts,
                    const DenseMap<Value, ValueFacts> &values) {
    RoutesType routes = experts.getRoutes().getType();
    int64_t trainable = 0;
    FfnLayout layout(experts.getForm(), experts.getActivation(),
                     experts.getWeights());
    for (auto [i, weight] : llvm::enumerate(experts.getWeights()))
      trainable += values.lookup(weight).isActive &&
                   static_cast<int64_t>(i) % layout.each() == 0;
    auto route = experts.getRoutes().getDefiningOp<RouteOp>();
    facts.layers.push_back({routes.getExperts(), routes.getTopK(), trainable,
                            route && route.getGate()});
  }

  SymbolTable symbols;
  double tokens; ///< that the module is for
  ModelFacts &facts;
};

} // namespace

RoleFacts ModelFacts::total() const {
  RoleFacts sum;
  for (const RoleFacts &role : roles) {
    sum.tensors += role.tensors;
    sum.elements += role.elements;
    sum.bytes += role.bytes;
    sum.trainableTensors += role.trainableTensors;
    sum.trainableElements += role.trainableElements;
  }
  return sum;
}

ModelFacts factsOf(ModuleOp module, int64_t length) {
  ModelFacts facts;
  for (auto parameter : module.getOps<ParameterOp>()) {
    auto type = cast<RankedTensorType>(parameter.getType());
    RoleFacts &role = facts.roles[static_cast<size_t>(parameter.getRole())];
    ++role.tensors;
    role.elements += type.getNumElements();
    role.bytes += sizeInBytes(type);
    if (parameter.getTrainable()) {
      ++role.trainableTensors;
      role.trainableElements += type.getNumElements();
    }
  }
  OwningOpRef<ModuleOp> fixed = module.clone();
  PassManager pm(module.getContext());
  pm.addPass(createSpecializeShapes({/*rows=*/1, length}));
  diagnose(*module.getContext(), [&] { return pm.run(*fixed); });
  auto forward = fixed->lookupSymbol<func::FuncOp>("forward");
  auto tokens = cast<RankedTensorType>(forward.getArgumentTypes().front());
  CostWalk walk(*fixed, static_cast<double>(tokens.getNumElements()), facts);
  walk.run(forward, SmallVector<ValueFacts>(forward.getNumArguments()));
  return facts;
}

} // namespace polymoe
