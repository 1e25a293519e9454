//===-- PlanActivations.cpp - chooses what to save and what to recompute
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/SetVector.h"

namespace mlir::moe {
#define GEN_PASS_DEF_PLANACTIVATIONS
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

//===----------------------------------------------------------------------===//
// Costs
//===----------------------------------------------------------------------===//

/// The arithmetic of an op, roughly: all but matrix products is about one
/// operation for each element.
double numOperations(Operation *op) {
  // The softmax between the products of attention costs about as much as they.
  if (isa<AttentionOp>(op))
    return 2 * flopsOf(op);
  if (isa<CostOpInterface>(op))
    return flopsOf(op);
  int64_t elements = 0;
  for (Type type : op->getResultTypes())
    if (auto tensor = dyn_cast<RankedTensorType>(type))
      elements += tensor.getNumElements();
  return op->getNumOperands() == 0 ? 0 : static_cast<double>(elements);
}

//===----------------------------------------------------------------------===//
// One forward and its backward
//===----------------------------------------------------------------------===//

/// What a backward does to have values again: ops of the forward, in order,
/// and the arguments of the forward that it must be given for that.
struct Recomputation {
  llvm::SetVector<Operation *> ops;
  llvm::SetVector<BlockArgument> arguments;
};

/// A forward and its backward, with what passes between them at every place
/// where both are called.
class ActivationPlan {
public:
  /// Finds what is saved. Fails where a backward cannot be told to belong to
  /// one forward beside it, as in a function that is itself half of a pair.
  static FailureOr<ActivationPlan> find(func::FuncOp forward,
                                        func::FuncOp backward,
                                        ArrayRef<func::CallOp> calls);

  int64_t numSites() const { return sites.size(); }
  /// The saved values that were not dropped, in the order of the forward.
  SmallVector<Value> getRemaining() const {
    return llvm::to_vector(llvm::make_filter_range(
        saved, [&](Value value) { return !dropped.contains(value); }));
  }
  /// Bytes held from the forward to the backward, at one place.
  int64_t bytesHeld() const;

  /// The recomputation of all that was dropped and `more`, null if a value
  /// cannot be made again.
  std::optional<Recomputation> plan(ArrayRef<Value> more) const;
  /// What plan(more) adds to the current plan: bytes freed, operations.
  struct Change {
    int64_t bytes;
    double operations;
  };
  std::optional<Change> change(ArrayRef<Value> more) const;
  /// Whether `value` follows by cheap ops from what the backward has anyway.
  bool isCheap(Value value) const;
  void drop(ArrayRef<Value> values);

  /// Rewrites both functions and their calls. Returns how many values are
  /// recomputed.
  int64_t apply();

private:
  struct Site {
    func::CallOp forward, backward;
  };

  Block &body() const { return func::FuncOp(forward).getBody().front(); }
  bool addTo(Recomputation &plan, Value value,
             const DenseSet<Value> &dropped) const;
  bool isFree(BlockArgument argument) const;
  int64_t bytesOf(const Recomputation &plan) const;
  void recompute(const Recomputation &plan);
  void shrinkForward();

  func::FuncOp forward, backward;
  SmallVector<Site> sites;
  /// Where the backward has values of the forward: its argument.
  DenseMap<Value, unsigned> known;
  /// Results of the forward that only the backward reads, in order.
  llvm::SetVector<Value> saved;
  llvm::SetVector<Value> dropped;
};

FailureOr<ActivationPlan> ActivationPlan::find(func::FuncOp forward,
                                               func::FuncOp backward,
                                               ArrayRef<func::CallOp> calls) {
  ActivationPlan pair;
  pair.forward = forward;
  pair.backward = backward;
  for (func::CallOp call : calls) {
    if (call.getCallee() != backward.getName())
      continue;
    llvm::SetVector<Operation *> forwards;
    for (Value operand : call.getOperands())
      if (auto made = operand.getDefiningOp<func::CallOp>();
          made && made.getCallee() == forward.getName())
        forwards.insert(made);
    if (forwards.empty())
      return failure();
    // The input of a layer is the output of the one before, which may be a
    // call of the same function: the own forward comes last.
    Operation *own = forwards.front();
    for (Operation *other : forwards)
      if (own->isBeforeInBlock(other))
        own = other;
    pair.sites.push_back({cast<func::CallOp>(own), call});
  }
  if (pair.sites.empty())
    return failure();

  Operation *terminator = pair.body().getTerminator();
  DenseSet<Value> readElsewhere;
  for (func::CallOp call : calls) {
    if (call.getCallee() != forward.getName())
      continue;
    auto site = llvm::find_if(
        pair.sites, [&](const Site &site) { return site.forward == call; });
    for (OpResult result : call.getResults())
      for (Operation *user : result.getUsers())
        if (site == pair.sites.end() || user != site->backward)
          readElsewhere.insert(
              terminator->getOperand(result.getResultNumber()));
  }
  for (unsigned i = 0, e = backward.getNumArguments(); i < e; ++i) {
    // The one value of the forward that is passed here, at every place.
    auto isPassed = [&](auto &&passedAt) {
      return llvm::all_of(pair.sites, [&](Site &site) {
        return site.backward.getOperand(i) == passedAt(site.forward);
      });
    };
    for (auto [k, value] : llvm::enumerate(terminator->getOperands()))
      if (!pair.known.contains(value) &&
          isPassed([k = k](func::CallOp call) { return call.getResult(k); })) {
        pair.known[value] = i;
        if (isa<OpResult>(value) && !readElsewhere.contains(value))
          pair.saved.insert(value);
        break;
      }
    for (BlockArgument argument : pair.body().getArguments())
      if (!pair.known.contains(argument) && isPassed([&](func::CallOp call) {
            return call.getOperand(argument.getArgNumber());
          }))
        pair.known[argument] = i;
  }
  return pair;
}

/// Whether an argument is there anyway: a parameter, an input of the step, or
/// the same value for every layer.
bool ActivationPlan::isFree(BlockArgument argument) const {
  unsigned number = argument.getArgNumber();
  auto passed = [&](const Site &site) {
    return func::CallOp(site.forward).getOperand(number);
  };
  Value first = passed(sites.front());
  bool isShared = sites.size() > 1 && llvm::all_of(sites, [&](const Site &s) {
                    return passed(s) == first;
                  });
  return isShared || llvm::all_of(sites, [&](const Site &site) {
           Operation *op = passed(site).getDefiningOp();
           return !op || isa<GetParameterOp>(op) ||
                  op->hasTrait<OpTrait::ConstantLike>();
         });
}

/// Bytes that a plan holds which no plan without it would.
int64_t ActivationPlan::bytesOf(const Recomputation &plan) const {
  int64_t bytes = 0;
  for (BlockArgument argument : plan.arguments)
    if (!isFree(argument))
      bytes += sizeInBytes(argument.getType());
  return bytes;
}

int64_t ActivationPlan::bytesHeld() const {
  int64_t bytes = bytesOf(*plan({}));
  for (auto [value, argument] : known) {
    auto argumentOfForward = dyn_cast<BlockArgument>(value);
    if (!dropped.contains(value) &&
        (!argumentOfForward || !isFree(argumentOfForward)))
      bytes += sizeInBytes(value.getType());
  }
  return bytes;
}

bool ActivationPlan::addTo(Recomputation &plan, Value value,
                           const DenseSet<Value> &without) const {
  if (known.contains(value) && !without.contains(value))
    return true;
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    plan.arguments.insert(argument);
    return true;
  }
  Operation *op = value.getDefiningOp();
  if (plan.ops.contains(op))
    return true;
  // A call's backward would need what the call saved.
  if (!isMemoryEffectFree(op) || op->getNumRegions() != 0)
    return false;
  for (Value operand : op->getOperands())
    if (!addTo(plan, operand, without))
      return false;
  plan.ops.insert(op);
  return true;
}

std::optional<Recomputation> ActivationPlan::plan(ArrayRef<Value> more) const {
  DenseSet<Value> without(more.begin(), more.end());
  without.insert(dropped.begin(), dropped.end());
  Recomputation result;
  for (Value value : saved)
    if (without.contains(value) && !addTo(result, value, without))
      return std::nullopt;
  return result;
}

std::optional<ActivationPlan::Change>
ActivationPlan::change(ArrayRef<Value> more) const {
  std::optional<Recomputation> before = plan({}), after = plan(more);
  if (!after)
    return std::nullopt;
  Change change = {bytesOf(*before) - bytesOf(*after), 0};
  for (Value value : more)
    change.bytes += sizeInBytes(value.getType());
  for (Operation *op : after->ops)
    if (!before->ops.contains(op))
      change.operations += numOperations(op);
  return change;
}

bool ActivationPlan::isCheap(Value value) const {
  std::optional<Recomputation> after = plan(value);
  return after && bytesOf(*after) == bytesOf(*plan({})) &&
         llvm::all_of(after->ops, [](Operation *op) {
           return op->getNumOperands() == 0 || op->hasTrait<CheapToRecompute>();
         });
}

void ActivationPlan::drop(ArrayRef<Value> values) {
  dropped.insert(values.begin(), values.end());
}

int64_t ActivationPlan::apply() {
  if (dropped.empty())
    return 0;
  recompute(*plan({}));
  shrinkForward();
  return dropped.size();
}

/// Makes the backward compute what was dropped.
void ActivationPlan::recompute(const Recomputation &plan) {
  Block &backwardBody = backward.getBody().front();
  IRMapping mapping;
  for (auto [value, argument] : known)
    if (!dropped.contains(value))
      mapping.map(value, backwardBody.getArgument(argument));
  // Further arguments of the forward are appended; arguments are referred to
  // as values from here on, since their numbers change.
  SmallVector<std::pair<Value, BlockArgument>> replaced;
  for (Value value : dropped)
    replaced.push_back({value, backwardBody.getArgument(known[value])});
  for (BlockArgument argument : plan.arguments) {
    mapping.map(argument, addArgument(backward, argument.getType()));
    for (Site &site : sites)
      site.backward.getOperandsMutable().append(
          site.forward.getOperand(argument.getArgNumber()));
  }

  // Every op of the forward that is needed, put before its first user.
  SmallVector<Operation *> clones;
  OpBuilder builder = OpBuilder::atBlockBegin(&backwardBody);
  for (Operation &op : body()) {
    if (!plan.ops.contains(&op))
      continue;
    SmallVector<Value> kept;
    for (Value result : op.getResults())
      kept.push_back(mapping.lookupOrNull(result));
    clones.push_back(builder.clone(op, mapping));
    for (auto [result, value] : llvm::zip_equal(op.getResults(), kept))
      if (value)
        mapping.map(result, value);
  }
  llvm::BitVector erased(backward.getNumArguments());
  for (auto [value, argument] : replaced) {
    argument.replaceAllUsesWith(mapping.lookup(value));
    erased.set(argument.getArgNumber());
  }
  for (Operation *clone : llvm::reverse(clones)) {
    Operation *first = backwardBody.getTerminator();
    for (Operation *user : clone->getUsers())
      if (user->isBeforeInBlock(first))
        first = user;
    clone->moveBefore(first);
  }
  (void)backward.eraseArguments(erased);
  for (Site &site : sites)
    site.backward->eraseOperands(erased);
}

/// Takes what was dropped from the results of the forward.
void ActivationPlan::shrinkForward() {
  Operation *terminator = body().getTerminator();
  llvm::BitVector erased(forward.getNumResults());
  for (auto [i, value] : llvm::enumerate(terminator->getOperands()))
    if (dropped.contains(value))
      erased.set(i);
  terminator->eraseOperands(erased);
  (void)forward.eraseResults(erased);
  for (Site &site : sites) {
    OpBuilder builder(site.forward);
    auto call = func::CallOp::create(builder, site.forward.getLoc(), forward,
                                     site.forward.getOperands());
    unsigned next = 0;
    for (OpResult result : site.forward.getResults())
      if (!erased.test(result.getResultNumber()))
        result.replaceAllUsesWith(call.getResult(next++));
    site.forward.erase();
    site.forward = call;
  }
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(body()))) {
    auto attention = dyn_cast<AttentionOp>(op);
    if (isOpTriviallyDead(&op)) {
      op.erase();
    } else if (attention && attention.getLse() &&
               attention.getLse().use_empty()) {
      IRRewriter rewriter(attention);
      auto plain = AttentionOp::create(
          rewriter, attention.getLoc(), attention.getResult().getType(),
          attention->getOperands(), attention->getAttrs());
      attention.getResult().replaceAllUsesWith(plain.getResult());
      attention.erase();
    }
  }
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

/// Drops values, most bytes freed per operation first, until all pairs hold at
/// most `budget` bytes or nothing more can be freed.
void fitBudget(MutableArrayRef<ActivationPlan> pairs, int64_t budget) {
  int64_t held = 0;
  for (ActivationPlan &pair : pairs)
    held += pair.bytesHeld() * pair.numSites();
  while (held > budget) {
    ActivationPlan *bestPair = nullptr;
    SmallVector<Value> bestValues;
    ActivationPlan::Change best = {0, 1};
    auto consider = [&](ActivationPlan &pair, ArrayRef<Value> values) {
      std::optional<ActivationPlan::Change> change = pair.change(values);
      if (!change || change->bytes <= 0)
        return;
      // One more, so that what costs nothing can be compared too.
      double score =
          static_cast<double>(change->bytes) / (change->operations + 1);
      double bestScore =
          static_cast<double>(best.bytes) / (best.operations + 1);
      if (bestPair && score <= bestScore)
        return;
      bestPair = &pair;
      bestValues = llvm::to_vector(values);
      best = *change;
    };
    for (ActivationPlan &pair : pairs)
      for (Value value : pair.getRemaining())
        consider(pair, value);
    // Values that only together are worth an argument kept for them.
    if (!bestPair)
      for (ActivationPlan &pair : pairs)
        consider(pair, pair.getRemaining());
    if (!bestPair)
      return;
    bestPair->drop(bestValues);
    held -= best.bytes * bestPair->numSites();
  }
}

struct PlanActivationsPass
    : FailablePass<moe::impl::PlanActivationsBase<PlanActivationsPass>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override {
    if (memoryBudget < 0)
      return module.emitError()
             << "expected a memory budget of at least 0, but got "
             << memoryBudget.getValue();
    SymbolTable symbols(module);
    SmallVector<func::CallOp> calls;
    module.walk([&](func::CallOp call) { calls.push_back(call); });
    SmallVector<ActivationPlan> pairs;
    MoEDialect::BackwardAttrHelper backwardOf(&getContext());
    for (auto forward : module.getOps<func::FuncOp>()) {
      FlatSymbolRefAttr name = backwardOf.getAttr(forward);
      if (!name)
        continue;
      auto backward = symbols.lookup<func::FuncOp>(name.getAttr());
      if (!backward || !forward.getBody().hasOneBlock() ||
          !backward.getBody().hasOneBlock())
        continue;
      FailureOr<ActivationPlan> pair =
          ActivationPlan::find(forward, backward, calls);
      if (succeeded(pair))
        pairs.push_back(std::move(*pair));
    }

    for (ActivationPlan &pair : pairs)
      for (Value value : pair.getRemaining())
        if (pair.isCheap(value))
          pair.drop(value);
    if (memoryBudget > 0)
      fitBudget(pairs, memoryBudget * 1024 * 1024);
    for (ActivationPlan &pair : pairs)
      numRecomputed += pair.apply();
    return success();
  }
};

} // namespace
