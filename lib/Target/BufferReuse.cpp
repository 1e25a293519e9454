//===-- BufferReuse.cpp - results in memory that exists already -----------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "BufferReuse.h"

using namespace mlir;
using namespace mlir::moe;

/// Whether an op of the function makes `value`, in memory that does not outlive
/// the program.
static bool isMadeHere(Value value) {
  return value.getDefiningOp() &&
         !isa<GetParameterOp, CacheUpdateOp>(value.getDefiningOp());
}

BufferReuse::BufferReuse(ModuleOp module, bool writesGradients) {
  if (writesGradients)
    findOnlyTerms(module);
  // Callers are analysed before their callees, so that `disposable` has an
  // argument before it is passed on.
  llvm::MapVector<StringRef, SmallVector<func::CallOp>> calls;
  SmallVector<func::FuncOp> pending;
  for (auto function : module.getOps<func::FuncOp>())
    if (!function.isPrivate())
      pending.push_back(function);
  llvm::StringMap<func::FuncOp> functions;
  llvm::StringMap<unsigned> callsLeft;
  for (auto function : module.getOps<func::FuncOp>()) {
    functions[function.getName()] = function;
    for (auto call : function.getOps<func::CallOp>())
      ++callsLeft[call.getCallee()];
  }
  while (!pending.empty()) {
    func::FuncOp function = pending.pop_back_val();
    StringRef name = function.getName();
    ArrayRef<func::CallOp> own = calls[name];
    for (unsigned i = 0; i < function.getNumResults() && !own.empty(); ++i)
      findAccumulated(own, i);
    for (unsigned i = 0; i < function.getNumArguments() && !own.empty(); ++i)
      if (llvm::all_of(own, [&](func::CallOp call) {
            return diesAt(call.getOperand(i), call);
          }))
        disposable.insert({name, i});
    for (auto call : function.getOps<func::CallOp>()) {
      calls[call.getCallee()].push_back(call);
      if (--callsLeft[call.getCallee()] == 0)
        pending.push_back(functions.lookup(call.getCallee()));
    }
  }
}

/// Decides whether a function with these calls writes or adds its result `i`.
/// It writes it if each call makes the only term of a gradient, and adds it if
/// each call's result is added to one.
void BufferReuse::findAccumulated(ArrayRef<func::CallOp> calls, unsigned i) {
  SmallVector<Operation *> updates;
  for (func::CallOp call : calls) {
    Value result = call.getResult(i);
    if (!result.hasOneUse() || !isa<AccumulateGradientOp>(*result.user_begin()))
      return;
    // Two results that are added to one gradient must not both be added where
    // they are made: work items would add to the same elements.
    auto update = cast<AccumulateGradientOp>(*result.user_begin());
    if (llvm::any_of(call.getResults(), [&](Value other) {
          return other != result &&
                 llvm::any_of(other.getUsers(), [&](Operation *user) {
                   auto also = dyn_cast<AccumulateGradientOp>(user);
                   return also && also.getName() == update.getName();
                 });
        }))
      return;
    updates.push_back(update);
  }
  if (llvm::all_of(updates, [&](Operation *update) {
        return onlyTerms.contains(update);
      }))
    return;
  func::CallOp first = calls.front();
  accumulated.insert({first.getCallee(), i});
  for (Operation *update : updates)
    onlyTerms.erase(update);
}

/// Finds the terms that are the only one of their gradient and whose buffer can
/// be chosen.
void BufferReuse::findOnlyTerms(ModuleOp module) {
  llvm::MapVector<StringAttr, SmallVector<AccumulateGradientOp>> terms;
  module.walk([&](AccumulateGradientOp update) {
    terms[update.getNameAttr().getAttr()].push_back(update);
  });
  for (auto &[name, updates] : terms) {
    Value term = updates.front().getValue();
    if (updates.size() == 1 && isMadeHere(term) &&
        llvm::count_if(term.getUsers(), llvm::IsaPred<AccumulateGradientOp>) ==
            1)
      onlyTerms.insert(updates.front());
  }
}

AccumulateGradientOp BufferReuse::accumulationOf(func::CallOp call,
                                                 unsigned result) const {
  if (!isOnlyAccumulated(call.getCallee(), result))
    return {};
  return cast<AccumulateGradientOp>(*call.getResult(result).user_begin());
}

bool BufferReuse::diesAt(Value value, Operation *op) const {
  for (OpOperand &use : value.getUses()) {
    Operation *user = use.getOwner();
    if (onlyTerms.contains(user))
      return false; // the gradient itself
    if (user == op ? &use != &*llvm::find_if(op->getOpOperands(),
                                             [&](OpOperand &operand) {
                                               return operand.get() == value;
                                             })
                   : !user->isBeforeInBlock(op))
      return false;
  }
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    auto function = cast<func::FuncOp>(argument.getOwner()->getParentOp());
    return disposable.contains({function.getName(), argument.getArgNumber()});
  }
  return isMadeHere(value);
}
