//===-- Facts.cpp - what a model costs ------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Facts.h"

#include "llvm/ADT/TypeSwitch.h"

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
  CostWalk(ModuleOp module, int64_t length, ModelFacts &facts)
      : symbols(module), length(length), facts(facts) {}

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
        SmallVector<ValueFacts> operands = of(op.getOperands());
        count(&op, operands);
        ValueFacts known = {llvm::any_of(
            operands, [](ValueFacts operand) { return operand.isActive; })};
        results.assign(op.getNumResults(), known);
      }
      for (auto [result, known] : llvm::zip_equal(op.getResults(), results))
        values[result] = known;
    }
    return of(body.getTerminator()->getOperands());
  }

private:
  static double elements(Value value) {
    return static_cast<double>(
        cast<RankedTensorType>(value.getType()).getNumElements());
  }

  /// A product of a token with a matrix, `share` of the tokens taking part.
  void product(Value weight, bool isInputActive, bool isWeightTrainable,
               double share = 1) {
    double flops = 2 * elements(weight) * share;
    facts.forwardFlops += flops;
    facts.backwardFlops += flops * (isInputActive + isWeightTrainable);
    facts.activeElements += elements(weight) * share;
  }

  void count(Operation *op, ArrayRef<ValueFacts> operands) {
    llvm::TypeSwitch<Operation *>(op)
        .Case([&](LinearOp linear) {
          product(linear.getWeight(), operands[0].isActive,
                  operands[1].isActive);
        })
        .Case<RouterOp, LanguageGateOp>([&](auto linear) {
          product(linear.getWeight(), operands[0].isActive,
                  operands[1].isActive);
        })
        .Case([&](FfnOp ffn) {
          bool trains = operands[1].isActive;
          for (auto [i, weight] : llvm::enumerate(ffn.getWeights()))
            if (isMatrix(weight))
              product(weight, operands[0].isActive || trains,
                      operands[1 + i].isActive);
          facts.layers.push_back({1, 1, trains});
        })
        .Case([&](ExpertsOp experts) { countExperts(experts, operands); })
        .Case([&](AttentionOp attention) {
          // A query sees half of the row on the average, or its window.
          double seen = (length + 1) / 2.0;
          if (std::optional<uint64_t> window = attention.getWindow())
            seen = std::min(seen, static_cast<double>(*window));
          double width = static_cast<double>(
              cast<RankedTensorType>(attention.getQuery().getType())
                  .getDimSize(2));
          double flops = 2 * 2 * seen * width;
          facts.forwardFlops += flops;
          if (operands[0].isActive)
            facts.backwardFlops += 2 * flops;
        });
  }

  void countExperts(ExpertsOp experts, ArrayRef<ValueFacts> operands) {
    RoutesType routes = experts.getRoutes().getType();
    int64_t perExpert = weightsPerExpert(experts.getForm());
    int64_t trainable = 0;
    // Each expert is taken to get its share of the routes.
    double share = static_cast<double>(routes.getTopK()) / routes.getExperts();
    ArrayRef<ValueFacts> weights = operands.drop_front(3);
    for (auto [i, weight] : llvm::enumerate(experts.getWeights())) {
      trainable += weights[i].isActive && i % perExpert == 0;
      if (isMatrix(weight))
        product(weight,
                operands[0].isActive || operands[1].isActive ||
                    weights[i].isActive,
                weights[i].isActive, share);
    }
    auto route = experts.getRoutes().getDefiningOp<RouteOp>();
    facts.layers.push_back({routes.getExperts(), routes.getTopK(), trainable,
                            route && route.getGate()});
  }

  static bool isMatrix(Value value) {
    return cast<RankedTensorType>(value.getType()).getRank() == 2;
  }

  SymbolTable symbols;
  int64_t length;
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
    int64_t elements = type.getNumElements();
    ++role.tensors;
    role.elements += elements;
    role.bytes += elements * type.getElementTypeBitWidth() / 8;
    if (parameter.getTrainable()) {
      ++role.trainableTensors;
      role.trainableElements += elements;
    }
  }
  CostWalk walk(module, length, facts);
  auto forward = module.lookupSymbol<func::FuncOp>("forward");
  walk.run(forward, SmallVector<ValueFacts>(forward.getNumArguments()));
  return facts;
}

} // namespace polymoe
