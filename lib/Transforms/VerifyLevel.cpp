//===-- VerifyLevel.cpp - checks the contract of a level
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/SetVector.h"

#include <functional>
#include <map>

namespace mlir::moe {
#define GEN_PASS_DEF_VERIFYLEVEL
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

bool belongs(Operation *op, Level level) {
  // Any op may be part of a kernel; that no tensor is left is checked by type.
  if (level == Level::Kernels)
    return true;
  if (auto own = dyn_cast<LevelOpInterface>(op))
    return own.getFirstLevel() <= level && level <= own.getLastLevel();
  // The gradient of the loss with respect to itself is a constant.
  if (isa<arith::ConstantOp>(op))
    return level >= Level::Step;
  return isa<ModuleOp, func::FuncOp, func::CallOp, func::ReturnOp>(op);
}

/// The arguments and parameters on which a result of a function depends in a
/// way that has a derivative.
struct Influences {
  llvm::BitVector arguments;
  llvm::SetVector<StringAttr> parameters;
};

/// Finds the parameters that influence the loss, from the loss upwards.
class InfluenceAnalysis {
public:
  explicit InfluenceAnalysis(ModuleOp module) : symbols(module) {}

  const Influences &influencesOn(func::FuncOp function, unsigned result);

private:
  void visit(Value value, Influences &influences,
             SmallVectorImpl<Value> &worklist);

  SymbolTable symbols;
  std::map<std::pair<Operation *, unsigned>, Influences> known;
};

/// Whether a value can have a derivative; token ids and routes cannot.
bool isContinuous(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && isa<FloatType>(type.getElementType());
}

void InfluenceAnalysis::visit(Value value, Influences &influences,
                              SmallVectorImpl<Value> &worklist) {
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    influences.arguments.set(argument.getArgNumber());
    return;
  }
  Operation *op = value.getDefiningOp();
  if (auto get = dyn_cast<GetParameterOp>(op)) {
    influences.parameters.insert(get.getNameAttr().getAttr());
    return;
  }
  if (auto call = dyn_cast<func::CallOp>(op)) {
    auto callee = symbols.lookup<func::FuncOp>(call.getCallee());
    if (callee.isExternal())
      return;
    const Influences &inner =
        influencesOn(callee, cast<OpResult>(value).getResultNumber());
    influences.parameters.insert(inner.parameters.begin(),
                                 inner.parameters.end());
    for (unsigned index : inner.arguments.set_bits())
      worklist.push_back(call.getOperand(index));
    return;
  }
  // The score of a forced expert, or of a group's, is 1 whatever the logits
  // are, and the decision of a gate has no derivative.
  if (auto route = dyn_cast<RouteOp>(op)) {
    if (!route.getForcedExpert() && !route.getGroups())
      worklist.push_back(route.getLogits());
    return;
  }
  llvm::append_range(worklist, op->getOperands());
}

const Influences &InfluenceAnalysis::influencesOn(func::FuncOp function,
                                                  unsigned result) {
  auto [entry, isNew] = known.try_emplace({function, result});
  Influences &influences = entry->second;
  if (!isNew)
    return influences;
  influences.arguments.resize(function.getNumArguments());
  llvm::DenseSet<Value> seen;
  SmallVector<Value> worklist = {
      function.getBody().front().getTerminator()->getOperand(result)};
  while (!worklist.empty()) {
    Value value = worklist.pop_back_val();
    if (isContinuous(value) && seen.insert(value).second)
      visit(value, influences, worklist);
  }
  return influences;
}

struct VerifyLevel : FailablePass<moe::impl::VerifyLevelBase<VerifyLevel>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override {
    std::optional<Level> parsed = symbolizeLevel(level);
    if (!parsed)
      return module.emitError() << "expected level to be model, objective, "
                                   "step, fused or kernels, but got '"
                                << level << "'";
    return verify(*parsed);
  }

  LogicalResult verify(Level wanted);
  LogicalResult verifyTypes(Operation *op, TypeRange types, Level wanted);
  LogicalResult verifyBindings(func::FuncOp function);
  LogicalResult verifyGradients();
  LogicalResult verifyCalls();
};

LogicalResult VerifyLevel::verifyTypes(Operation *op, TypeRange types,
                                       Level wanted) {
  for (Type type : types) {
    auto routes = dyn_cast<RoutesType>(type);
    if (routes && wanted != Level::Model && !routes.hasStaticShape())
      return op->emitOpError() << "expected a static number of tokens at level "
                               << level << ", but got " << routes;
    auto tensor = dyn_cast<TensorType>(type);
    if (!tensor)
      continue;
    if (wanted == Level::Kernels)
      return op->emitOpError() << "expected no tensor at level " << level
                               << ", but got " << tensor;
    if (!tensor.hasRank())
      return op->emitOpError()
             << "expected a ranked tensor, but got " << tensor;
    ArrayRef<int64_t> shape = tensor.getShape();
    if (wanted == Level::Model)
      shape = shape.drop_front(std::min<size_t>(2, shape.size()));
    if (ShapedType::isDynamicShape(shape))
      return op->emitOpError()
             << "expected a static shape"
             << (wanted == Level::Model ? " but for its two leading dimensions"
                                        : "")
             << " at level " << level << ", but got " << tensor;
  }
  return success();
}

/// Every argument and result of an entry point is bound.
LogicalResult VerifyLevel::verifyBindings(func::FuncOp function) {
  if (function.isPrivate())
    return success();
  for (unsigned i = 0; i < function.getNumArguments(); ++i)
    if (!BindingAttr::ofArgument(function, i))
      return function.emitOpError()
             << "expected argument " << i << " of an entry point to be bound";
  for (unsigned i = 0; i < function.getNumResults(); ++i)
    if (!BindingAttr::ofResult(function, i))
      return function.emitOpError()
             << "expected result " << i << " of an entry point to be bound";
  return success();
}

/// Every trainable parameter that influences the loss gets a gradient. The
/// verifier of moe.accumulate_gradient checks that a frozen one gets none.
LogicalResult VerifyLevel::verifyGradients() {
  ModuleOp module = getOperation();
  auto step = module.lookupSymbol<func::FuncOp>("step");
  if (!step || step.isExternal() || step.getNumResults() == 0)
    return success();
  llvm::DenseSet<StringAttr> accumulated;
  module.walk([&](AccumulateGradientOp op) {
    accumulated.insert(op.getNameAttr().getAttr());
  });
  InfluenceAnalysis analysis(module);
  const Influences &influences = analysis.influencesOn(step, /*result=*/0);
  for (auto parameter : module.getOps<ParameterOp>())
    if (parameter.getTrainable() &&
        influences.parameters.contains(parameter.getSymNameAttr()) &&
        !accumulated.contains(parameter.getSymNameAttr()))
      return parameter.emitOpError()
             << "expected a moe.accumulate_gradient, since it trains and "
                "influences the loss";
  return success();
}

/// No function calls itself, directly or through others.
LogicalResult VerifyLevel::verifyCalls() {
  SymbolTable symbols(getOperation());
  enum class State { Unseen, Open, Done };
  llvm::DenseMap<Operation *, State> states;
  std::function<LogicalResult(func::FuncOp)> visit =
      [&](func::FuncOp function) -> LogicalResult {
    states[function] = State::Open;
    WalkResult result = function.walk([&](func::CallOp call) -> WalkResult {
      auto callee = symbols.lookup<func::FuncOp>(call.getCallee());
      if (!callee || states[callee] == State::Done)
        return WalkResult::advance();
      if (states[callee] == State::Open)
        return call.emitOpError() << "expected no recursion, but @"
                                  << call.getCallee() << " calls itself";
      return visit(callee);
    });
    states[function] = State::Done;
    return failure(result.wasInterrupted());
  };
  for (auto function : getOperation().getOps<func::FuncOp>())
    if (states[function] == State::Unseen && failed(visit(function)))
      return failure();
  return success();
}

LogicalResult VerifyLevel::verify(Level wanted) {
  WalkResult result = getOperation().walk<WalkOrder::PreOrder>(
      [&](Operation *op) -> WalkResult {
        if (!belongs(op, wanted))
          return op->emitOpError() << "does not belong to level " << level;
        if (failed(verifyTypes(op, op->getOperandTypes(), wanted)) ||
            failed(verifyTypes(op, op->getResultTypes(), wanted)))
          return WalkResult::interrupt();
        if (isa<GetParameterOp>(op) &&
            op->getParentOfType<func::FuncOp>().isPrivate())
          return op->emitOpError()
                 << "expected to be in an entry point: functions that layers "
                    "share take parameters as arguments";
        auto function = dyn_cast<func::FuncOp>(op);
        if (!function)
          return WalkResult::advance();
        if (failed(verifyTypes(op, function.getArgumentTypes(), wanted)) ||
            failed(verifyTypes(op, function.getResultTypes(), wanted)) ||
            (wanted != Level::Kernels && failed(verifyBindings(function))))
          return WalkResult::interrupt();
        return WalkResult::advance();
      });
  if (result.wasInterrupted() || failed(verifyCalls()))
    return failure();
  if (wanted == Level::Step)
    return verifyGradients();
  return success();
}

} // namespace
