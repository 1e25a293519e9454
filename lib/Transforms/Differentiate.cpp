//===-- Differentiate.cpp - adds the backward of @step
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/Dominance.h"
#include "mlir/Transforms/CSE.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"

#include <map>

namespace mlir::moe {
#define GEN_PASS_DEF_DIFFERENTIATE
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Where the caller finds a value that a backward reads: among the operands or
/// the results of its call to the forward.
struct Source {
  bool isArgument;
  unsigned index;
};

/// The forward and the backward of a function for one pattern of active
/// arguments and wanted results. Both are null if no gradient reaches an
/// argument.
struct FunctionPair {
  func::FuncOp forward, backward;
  /// The leading operands of the backward; the gradients of results follow.
  SmallVector<Source> sources;
  /// The argument that each result of the backward is the gradient of.
  SmallVector<unsigned> gradients;
};

/// A callee with the activity of its arguments.
using Activity = std::pair<Operation *, SmallVector<bool>>;
/// A callee with the activity of its arguments and the types of its results'
/// gradients, null where there is none.
using Pattern =
    std::tuple<Operation *, SmallVector<bool>, SmallVector<const void *>>;

/// Reverse-mode differentiation of the functions of a module.
class Differentiator {
public:
  Differentiator(ModuleOp module) : module(module), symbols(module) {}

  LogicalResult differentiate(func::FuncOp step);

  /// The pair that replaces the callee of `call`, made at the first request.
  FailureOr<const FunctionPair *> getPair(func::CallOp call,
                                          ArrayRef<bool> activeArguments,
                                          ArrayRef<Type> gradientTypes);

  int64_t numFunctions = 0;
  int64_t numSaved = 0;

private:
  FailureOr<func::FuncOp> lookupCallee(func::CallOp call);
  LogicalResult mark(Block &block, DenseSet<Value> &active);
  FailureOr<SmallVector<bool>> activeResults(func::CallOp call,
                                             ArrayRef<bool> activeArguments);
  LogicalResult buildPair(FunctionPair &pair, func::FuncOp original,
                          ArrayRef<bool> activeArguments,
                          ArrayRef<Type> gradientTypes);
  void connect(FunctionPair &pair);
  void eraseUnused();

  ModuleOp module;
  SymbolTable symbols;
  /// The active results of callees; null while they are being computed.
  std::map<Activity, std::optional<SmallVector<bool>>> activities;
  std::map<Pattern, FunctionPair> pairs;
  DenseMap<func::FuncOp, unsigned> numPatterns;
  /// Functions that may have lost uses; each comes before its users.
  llvm::SetVector<func::FuncOp> touched;
};

/// The reverse sweep over a block, from the gradients of its results to those
/// of its arguments and parameters.
class Sweep {
public:
  Sweep(Differentiator &parent, Block &forward, const DenseSet<Value> &active,
        OpBuilder &backward)
      : parent(parent), forward(forward), active(active), backward(backward) {}

  /// Adds `gradient` to the gradient of `value`, if that is active.
  LogicalResult addGradient(Value value, Value gradient);
  LogicalResult run();

  /// The gradient of an active value, null if it is zero.
  Value gradientOf(Value value) const { return gradients.lookup(value); }

private:
  LogicalResult differentiate(Operation *op, ArrayRef<Value> resultGradients,
                              ArrayRef<bool> wanted);
  LogicalResult differentiateCall(func::CallOp call,
                                  ArrayRef<Value> resultGradients,
                                  ArrayRef<bool> wanted);

  Differentiator &parent;
  Block &forward;
  const DenseSet<Value> &active;
  OpBuilder &backward;
  DenseMap<Value, Value> gradients;
};

bool canHaveGradient(Type type) {
  auto tensor = dyn_cast<RankedTensorType>(type);
  return tensor && isa<FloatType>(tensor.getElementType());
}

bool isTrainable(GetParameterOp get, SymbolTable &symbols) {
  auto parameter = symbols.lookup<ParameterOp>(get.getName());
  return parameter && parameter.getTrainable();
}

/// Erases dead ops of `block`, users before the ops that they use.
void eraseDeadOps(Block &block) {
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(block)))
    if (isOpTriviallyDead(&op))
      op.erase();
}

//===----------------------------------------------------------------------===//
// Activity
//===----------------------------------------------------------------------===//

FailureOr<func::FuncOp> Differentiator::lookupCallee(func::CallOp call) {
  auto callee = symbols.lookup<func::FuncOp>(call.getCallee());
  if (!callee || !callee.getBody().hasOneBlock())
    return call.emitOpError()
           << "expected a callee with a body of one block, since its gradient "
              "is wanted, but got @"
           << call.getCallee();
  return callee;
}

/// Adds to `active` the values that the active ones influence.
LogicalResult Differentiator::mark(Block &block, DenseSet<Value> &active) {
  for (Operation &op : block.without_terminator()) {
    SmallVector<bool> operands;
    for (Value operand : op.getOperands())
      operands.push_back(active.contains(operand));
    if (!llvm::is_contained(operands, true))
      continue;
    auto call = dyn_cast<func::CallOp>(op);
    SmallVector<bool> results(op.getNumResults(), true);
    if (call) {
      FailureOr<SmallVector<bool>> known = activeResults(call, operands);
      if (failed(known))
        return failure();
      results = *known;
    }
    for (auto [result, isActive] : llvm::zip_equal(op.getResults(), results))
      if (isActive && canHaveGradient(result.getType()))
        active.insert(result);
  }
  return success();
}

FailureOr<SmallVector<bool>>
Differentiator::activeResults(func::CallOp call,
                              ArrayRef<bool> activeArguments) {
  FailureOr<func::FuncOp> callee = lookupCallee(call);
  if (failed(callee))
    return failure();
  // Not llvm::to_vector, which makes {true, true} of any range of bool.
  auto [entry, isNew] = activities.try_emplace(
      Activity(*callee, SmallVector<bool>(activeArguments)), std::nullopt);
  if (!isNew) {
    if (!entry->second)
      return call.emitOpError() << "expected no recursion, but @"
                                << call.getCallee() << " calls itself";
    return *entry->second;
  }
  Block &body = callee->getBody().front();
  DenseSet<Value> active;
  for (auto [argument, isActive] :
       llvm::zip_equal(body.getArguments(), activeArguments))
    if (isActive)
      active.insert(argument);
  if (failed(mark(body, active)))
    return failure();
  SmallVector<bool> results;
  for (Value result : body.getTerminator()->getOperands())
    results.push_back(active.contains(result));
  entry->second = results;
  return results;
}

//===----------------------------------------------------------------------===//
// The reverse sweep over a block
//===----------------------------------------------------------------------===//

LogicalResult Sweep::addGradient(Value value, Value gradient) {
  if (!gradient || !active.contains(value))
    return success();
  Value &sum = gradients[value];
  if (!sum) {
    sum = gradient;
    return success();
  }
  if (sum.getType() != gradient.getType())
    return emitError(value.getLoc())
           << "expected gradients of one type for a value, but got "
           << sum.getType() << " and " << gradient.getType();
  sum = AddOp::create(backward, value.getLoc(), sum.getType(), sum, gradient);
  return success();
}

LogicalResult Sweep::run() {
  SmallVector<Operation *> ops;
  for (Operation &op : forward.without_terminator())
    ops.push_back(&op);
  for (Operation *op : llvm::reverse(ops)) {
    SmallVector<Value> resultGradients;
    for (Value result : op->getResults())
      resultGradients.push_back(gradientOf(result));
    SmallVector<bool> wanted;
    for (Value operand : op->getOperands())
      wanted.push_back(active.contains(operand));
    if (llvm::none_of(resultGradients, [](Value v) { return !!v; }) ||
        !llvm::is_contained(wanted, true))
      continue;
    // Differentiation may replace the op, so its results stand for nothing.
    for (Value result : op->getResults())
      gradients.erase(result);
    auto call = dyn_cast<func::CallOp>(op);
    if (failed(call ? differentiateCall(call, resultGradients, wanted)
                    : differentiate(op, resultGradients, wanted)))
      return failure();
  }
  return success();
}

LogicalResult Sweep::differentiate(Operation *op,
                                   ArrayRef<Value> resultGradients,
                                   ArrayRef<bool> wanted) {
  auto differentiable = dyn_cast<DifferentiableOpInterface>(op);
  if (!differentiable)
    return op->emitOpError() << "expected a derivative, since a trainable "
                                "parameter influences the loss through this "
                                "op, but it has none";
  IRRewriter rewriter(op);
  Operation *saving = differentiable.saveForBackward(rewriter);
  SmallVector<Value> operandGradients(wanted.size());
  cast<DifferentiableOpInterface>(saving).buildVjp(backward, resultGradients,
                                                   wanted, operandGradients);
  for (auto [operand, gradient] :
       llvm::zip_equal(saving->getOperands(), operandGradients))
    if (failed(addGradient(operand, gradient)))
      return failure();
  return success();
}

LogicalResult Sweep::differentiateCall(func::CallOp call,
                                       ArrayRef<Value> resultGradients,
                                       ArrayRef<bool> wanted) {
  SmallVector<Type> gradientTypes;
  for (Value gradient : resultGradients)
    gradientTypes.push_back(gradient ? gradient.getType() : Type());
  FailureOr<const FunctionPair *> found =
      parent.getPair(call, wanted, gradientTypes);
  if (failed(found))
    return failure();
  const FunctionPair &pair = **found;
  if (!pair.backward)
    return success();

  OpBuilder builder(call);
  auto forwardCall = func::CallOp::create(builder, call.getLoc(), pair.forward,
                                          call.getOperands());
  call.replaceAllUsesWith(
      forwardCall.getResults().take_front(call.getNumResults()));
  call.erase();

  SmallVector<Value> operands;
  for (const Source &source : pair.sources)
    operands.push_back(source.isArgument ? forwardCall.getOperand(source.index)
                                         : forwardCall.getResult(source.index));
  for (Value gradient : resultGradients)
    if (gradient)
      operands.push_back(gradient);
  auto backwardCall = func::CallOp::create(backward, forwardCall.getLoc(),
                                           pair.backward, operands);
  for (auto [argument, gradient] :
       llvm::zip_equal(pair.gradients, backwardCall.getResults()))
    if (failed(addGradient(forwardCall.getOperand(argument), gradient)))
      return failure();
  return success();
}

//===----------------------------------------------------------------------===//
// Functions
//===----------------------------------------------------------------------===//

FailureOr<const FunctionPair *>
Differentiator::getPair(func::CallOp call, ArrayRef<bool> activeArguments,
                        ArrayRef<Type> gradientTypes) {
  FailureOr<func::FuncOp> callee = lookupCallee(call);
  if (failed(callee))
    return failure();
  SmallVector<const void *> types;
  for (Type type : gradientTypes)
    types.push_back(type.getAsOpaquePointer());
  auto [entry, isNew] =
      pairs.try_emplace(Pattern(*callee, activeArguments, types));
  if (isNew &&
      failed(buildPair(entry->second, *callee, activeArguments, gradientTypes)))
    return failure();
  return &entry->second;
}

LogicalResult Differentiator::buildPair(FunctionPair &pair,
                                        func::FuncOp original,
                                        ArrayRef<bool> activeArguments,
                                        ArrayRef<Type> gradientTypes) {
  auto forward = cast<func::FuncOp>(original->clone());
  Block &body = forward.getBody().front();
  DenseSet<Value> active;
  for (auto [argument, isActive] :
       llvm::zip_equal(body.getArguments(), activeArguments))
    if (isActive)
      active.insert(argument);
  if (failed(mark(body, active))) {
    forward.erase();
    return failure();
  }

  OpBuilder builder(module.getContext());
  auto backward = func::FuncOp::create(builder, original.getLoc(), "backward",
                                       builder.getFunctionType({}, {}));
  Block *backwardBody = backward.addEntryBlock();
  builder.setInsertionPointToStart(backwardBody);
  Sweep sweep(*this, body, active, builder);
  LogicalResult swept = success();
  for (auto [result, type] :
       llvm::zip_equal(body.getTerminator()->getOperands(), gradientTypes))
    if (type && succeeded(swept))
      swept = sweep.addGradient(
          result, backwardBody->addArgument(type, original.getLoc()));
  if (succeeded(swept))
    swept = sweep.run();

  SmallVector<Value> results;
  for (BlockArgument argument : body.getArguments())
    if (Value gradient = sweep.gradientOf(argument)) {
      results.push_back(gradient);
      pair.gradients.push_back(argument.getArgNumber());
    }
  if (failed(swept) || results.empty()) {
    backward.erase();
    forward.erase();
    return swept;
  }
  func::ReturnOp::create(builder, original.getLoc(), results);

  // One pair for each pattern: f.forward, f.forward_1, and so on.
  unsigned number = numPatterns[original]++;
  std::string suffix = number == 0 ? "" : "_" + std::to_string(number);
  forward.setName((original.getName() + ".forward" + suffix).str());
  backward.setName((original.getName() + ".backward" + suffix).str());
  for (func::FuncOp function : {forward, backward}) {
    function.setPrivate();
    symbols.insert(function, Block::iterator(original));
  }
  MoEDialect::BackwardAttrHelper(module.getContext())
      .setAttr(forward, FlatSymbolRefAttr::get(backward));
  pair.forward = forward;
  pair.backward = backward;
  connect(pair);
  // The forward names the backward, so it is erased first.
  touched.insert(backward);
  touched.insert(forward);
  touched.insert(original);
  ++numFunctions;
  return success();
}

/// Makes the values that the backward reads from the forward arguments of the
/// backward and, unless they are arguments of the forward, results of it.
void Differentiator::connect(FunctionPair &pair) {
  Block &body = pair.forward.getBody().front();
  Block &backwardBody = pair.backward.getBody().front();
  eraseDeadOps(backwardBody);

  llvm::SetVector<Value> read;
  for (Operation &op : backwardBody)
    for (Value operand : op.getOperands())
      if (operand.getParentBlock() != &backwardBody)
        read.insert(operand);
  auto isInside = [&](OpOperand &use) {
    return use.getOwner()->getBlock() == &backwardBody;
  };

  // Constants and parameters cost nothing, so the backward gets its own ops.
  OpBuilder builder = OpBuilder::atBlockBegin(&backwardBody);
  SmallVector<Value> captured;
  for (Value value : read) {
    Operation *op = value.getDefiningOp();
    if (op &&
        (isa<GetParameterOp>(op) || op->hasTrait<OpTrait::ConstantLike>()))
      value.replaceUsesWithIf(builder.clone(*op)->getResult(0), isInside);
    else
      captured.push_back(value);
  }
  llvm::sort(captured, [](Value a, Value b) {
    Operation *opA = a.getDefiningOp(), *opB = b.getDefiningOp();
    if (opA && opB && opA != opB)
      return opA->isBeforeInBlock(opB);
    if (!opA != !opB)
      return !opA;
    return opA ? cast<OpResult>(a).getResultNumber() <
                     cast<OpResult>(b).getResultNumber()
               : cast<BlockArgument>(a).getArgNumber() <
                     cast<BlockArgument>(b).getArgNumber();
  });

  Operation *terminator = body.getTerminator();
  for (auto [i, value] : llvm::enumerate(captured)) {
    if (auto argument = dyn_cast<BlockArgument>(value)) {
      pair.sources.push_back({true, argument.getArgNumber()});
    } else {
      auto returned = llvm::find(terminator->getOperands(), value);
      unsigned index = returned - terminator->operand_begin();
      if (returned == terminator->operand_end()) {
        (void)pair.forward.insertResult(index, value.getType(), {});
        terminator->insertOperands(index, value);
        ++numSaved;
      }
      pair.sources.push_back({false, index});
    }
    Value argument =
        backwardBody.insertArgument(i, value.getType(), value.getLoc());
    value.replaceUsesWithIf(argument, isInside);
  }
  pair.backward.setFunctionType(
      builder.getFunctionType(backwardBody.getArgumentTypes(),
                              backwardBody.getTerminator()->getOperandTypes()));
}

/// Erases functions that are no longer called.
void Differentiator::eraseUnused() {
  for (func::FuncOp function : llvm::reverse(touched))
    if (function.isPrivate() &&
        SymbolTable::symbolKnownUseEmpty(function, module))
      symbols.erase(function);
}

LogicalResult Differentiator::differentiate(func::FuncOp step) {
  Block &body = step.getBody().front();

  // Each trainable parameter is read once, so that it has one gradient.
  llvm::MapVector<StringRef, GetParameterOp> parameters;
  DenseSet<Value> active;
  for (auto get : llvm::make_early_inc_range(body.getOps<GetParameterOp>())) {
    if (!isTrainable(get, symbols))
      continue;
    auto [entry, isNew] = parameters.insert({get.getName(), get});
    if (isNew) {
      active.insert(get.getResult());
    } else {
      get.replaceAllUsesWith(entry->second.getResult());
      get.erase();
    }
  }
  if (failed(mark(body, active)))
    return failure();

  Operation *terminator = body.getTerminator();
  Value loss = terminator->getOperand(0);
  if (!active.contains(loss))
    return step.emitOpError() << "expected a trainable parameter that "
                                 "influences the loss, but there is none";
  OpBuilder builder(terminator);
  auto lossType = cast<RankedTensorType>(loss.getType());
  Value seed = arith::ConstantOp::create(
      builder, loss.getLoc(), lossType,
      DenseElementsAttr::get(
          lossType, builder.getFloatAttr(lossType.getElementType(), 1.0)));
  Sweep sweep(*this, body, active, builder);
  if (failed(sweep.addGradient(loss, seed)) || failed(sweep.run()))
    return failure();

  // Gradients are accumulated in the order in which they are complete.
  SmallVector<std::pair<GetParameterOp, OpResult>> gradients;
  for (auto [name, get] : parameters)
    if (Value gradient = sweep.gradientOf(get.getResult()))
      gradients.push_back({get, cast<OpResult>(gradient)});
  llvm::sort(gradients, [](const auto &a, const auto &b) {
    Operation *opA = a.second.getOwner(), *opB = b.second.getOwner();
    if (opA != opB)
      return opA->isBeforeInBlock(opB);
    if (a.second != b.second)
      return a.second.getResultNumber() < b.second.getResultNumber();
    return a.first != b.first && a.first->isBeforeInBlock(b.first);
  });
  // The loop goes backward because each op is inserted right after the one that
  // makes its gradient: gradients of one op end up in order.
  for (auto [get, gradient] : llvm::reverse(gradients)) {
    builder.setInsertionPointAfter(gradient.getOwner());
    AccumulateGradientOp::create(builder, get.getLoc(), get.getName(),
                                 gradient);
  }

  eraseDeadOps(body);
  eraseUnused();
  IRRewriter rewriter(module.getContext());
  DominanceInfo dominance(module);
  eliminateCommonSubExpressions(rewriter, dominance, module);
  return success();
}

/// Checks the preconditions that the description of the pass names.
LogicalResult checkPreconditions(ModuleOp module, func::FuncOp step,
                                 SymbolTable &symbols) {
  if (!step || !step.getBody().hasOneBlock())
    return module.emitError() << "expected a function @step of one block";
  if (step.getNumResults() == 0)
    return step.emitOpError() << "expected a loss, but got no result";
  auto loss = dyn_cast<RankedTensorType>(step.getResultTypes().front());
  if (!loss || loss.getRank() != 0 || !isa<FloatType>(loss.getElementType()))
    return step.emitOpError() << "expected a scalar loss, but got "
                              << step.getResultTypes().front();
  WalkResult walked = module.walk([&](Operation *op) -> WalkResult {
    auto function = dyn_cast<func::FuncOp>(op);
    TypeRange types = function ? TypeRange(function.getArgumentTypes())
                               : TypeRange(op->getResultTypes());
    for (Type type : types)
      if (auto shaped = dyn_cast<ShapedType>(type);
          shaped && !shaped.hasStaticShape())
        return op->emitOpError() << "expected a static shape, but got " << type;
    auto get = dyn_cast<GetParameterOp>(op);
    if (get && get->getParentOp() != step && isTrainable(get, symbols))
      return get.emitOpError()
             << "expected a trainable parameter to be read in @step "
                "and passed to the functions that need it, but got "
             << get.getNameAttr();
    return WalkResult::advance();
  });
  return failure(walked.wasInterrupted());
}

struct DifferentiatePass
    : public moe::impl::DifferentiateBase<DifferentiatePass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    SymbolTable symbols(module);
    auto step = symbols.lookup<func::FuncOp>("step");
    if (failed(checkPreconditions(module, step, symbols)))
      return signalPassFailure();
    Differentiator differentiator(module);
    if (failed(differentiator.differentiate(step)))
      return signalPassFailure();
    numFunctions += differentiator.numFunctions;
    numSaved += differentiator.numSaved;
  }
};

} // namespace
