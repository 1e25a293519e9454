//===-- InsertCache.cpp - makes a program that extends sequences
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoint.h"

#include "moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"
#include "llvm/ADT/SetVector.h"

namespace mlir::moe {
#define GEN_PASS_DEF_INSERTCACHE
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// What changed in the signature of a function: the caches that it takes, and
/// the arguments that nothing in it reads any more.
struct Extension {
  SmallVector<Type> caches;
  llvm::BitVector unread;
};

/// Gives every attention its caches, as arguments from the entry point down.
class CacheBuilder {
public:
  explicit CacheBuilder(int64_t capacity) : capacity(capacity) {}

  /// `makeCache` adds an argument for each cache: keys, values, keys, ...
  /// Returns the arguments that were read for segments only.
  llvm::BitVector build(func::FuncOp function,
                        llvm::function_ref<Value(Type)> makeCache);

private:
  Value insert(AttentionOp attention,
               llvm::function_ref<Value(Type)> makeCache);
  const Extension &extend(func::FuncOp function);

  int64_t capacity;
  llvm::DenseMap<func::FuncOp, Extension> extensions;
};

/// Puts an attention behind a cache. Returns the segments that it read.
Value CacheBuilder::insert(AttentionOp attention,
                           llvm::function_ref<Value(Type)> makeCache) {
  OpBuilder builder(attention);
  for (OpOperand *rows :
       {&attention.getKeyMutable(), &attention.getValueMutable()}) {
    auto type = cast<RankedTensorType>(rows->get().getType());
    auto cached =
        type.clone({type.getDimSize(0), capacity, type.getDimSize(2)});
    rows->set(CacheUpdateOp::create(builder, attention.getLoc(), cached,
                                    makeCache(cached), rows->get(),
                                    attention.getSlots()));
  }
  // A cache holds one sequence a row.
  Value segments = attention.getSegments();
  attention.getSegmentsMutable().clear();
  return segments;
}

llvm::BitVector CacheBuilder::build(func::FuncOp function,
                                    llvm::function_ref<Value(Type)> makeCache) {
  SmallVector<Operation *> readers;
  function.walk([&](Operation *op) {
    if (isa<AttentionOp, func::CallOp>(op))
      readers.push_back(op);
  });
  llvm::SmallSetVector<Value, 4> dropped;
  for (Operation *op : readers) {
    if (auto attention = dyn_cast<AttentionOp>(op)) {
      dropped.insert(insert(attention, makeCache));
      continue;
    }
    auto call = cast<func::CallOp>(op);
    auto callee = SymbolTable::lookupNearestSymbolFrom<func::FuncOp>(
        call, call.getCalleeAttr());
    const Extension &extension = extend(callee);
    if (extension.caches.empty())
      continue;
    for (unsigned index : extension.unread.set_bits())
      dropped.insert(call.getOperand(index));
    call->eraseOperands(extension.unread);
    SmallVector<Value> caches;
    for (Type type : extension.caches)
      caches.push_back(makeCache(type));
    replaceCall(call, callee, caches);
  }

  llvm::BitVector unread(function.getNumArguments());
  for (Value value : dropped)
    if (auto argument = dyn_cast_if_present<BlockArgument>(value))
      if (argument.use_empty())
        unread.set(argument.getArgNumber());
  return unread;
}

const Extension &CacheBuilder::extend(func::FuncOp function) {
  auto known = extensions.find(function);
  if (known != extensions.end())
    return known->second;
  Extension extension;
  if (!function.isExternal()) {
    extension.unread = build(function, [&](Type type) {
      extension.caches.push_back(type);
      return addArgument(function, type);
    });
    LogicalResult erased = function.eraseArguments(extension.unread);
    assert(succeeded(erased) && "nothing reads these arguments");
    (void)erased;
    // The operands of a call, which do not have the caches yet.
    extension.unread.resize(extension.unread.size() - extension.caches.size());
  }
  return extensions[function] = extension;
}

/// Makes whatever leads to the logits token by token, the final norm and the
/// output projection, work on the last token alone. Returns the new logits.
Value keepLastToken(Value logits) {
  SmallVector<Operation *> head;
  Value hidden = logits;
  while (Operation *op = hidden.getDefiningOp()) {
    if (!isa<LinearOp, RmsNormOp, LayerNormOp>(op) || !hidden.hasOneUse())
      break;
    head.push_back(op);
    hidden = op->getOperand(0);
  }
  auto lastOf = [](Value value) {
    auto type = cast<RankedTensorType>(value.getType());
    return type.clone({type.getDimSize(0), 1, type.getDimSize(2)});
  };
  OpBuilder builder(logits.getContext());
  builder.setInsertionPointAfterValue(hidden);
  Value last =
      LastTokenOp::create(builder, hidden.getLoc(), lastOf(hidden), hidden);
  for (Operation *op : llvm::reverse(head)) {
    op->setOperand(0, last);
    op->getResult(0).setType(lastOf(op->getResult(0)));
    last = op->getResult(0);
  }
  return last;
}

struct InsertCache : moe::impl::InsertCacheBase<InsertCache> {
  using InsertCacheBase::InsertCacheBase;

  void runOnOperation() override {
    if (failed(run(getOperation())))
      signalPassFailure();
  }

  LogicalResult run(ModuleOp module) {
    if (capacity < 1)
      return module.emitError() << "expected a capacity of at least 1, but got "
                                << capacity.getValue();
    FailureOr<func::FuncOp> forward = lookupForward(module);
    if (failed(forward) || failed(lookupOutput(*forward, "logits")))
      return failure();

    unsigned numCaches = 0;
    CacheBuilder builder(capacity);
    llvm::BitVector unread = builder.build(*forward, [&](Type type) {
      std::string name = (numCaches % 2 == 0 ? "keys." : "values.") +
                         std::to_string(numCaches / 2);
      ++numCaches;
      return addArgument(*forward, type, BindingKind::State, name);
    });
    if (numCaches == 0)
      return forward->emitOpError()
             << "expected a moe.attention to give a cache to";
    if (failed(forward->eraseArguments(unread)))
      return failure();
    setOutputs(*forward, keepLastToken(*lookupOutput(*forward, "logits")),
               {"logits"});
    forward->setSymName("extend");
    return success();
  }
};

} // namespace
