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
#include "llvm/ADT/StringMap.h"

namespace mlir::moe {
#define GEN_PASS_DEF_INSERTCACHE
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// A cache: its kind, which is the first part of its binding's name, and type.
struct Cache {
  StringRef kind;
  Type type;
};
using MakeCache = llvm::function_ref<Value(const Cache &)>;

/// How the signature of a function changed: the caches that it takes in
/// addition, and the arguments that it no longer takes since nothing reads
/// them.
struct CachedSignature {
  SmallVector<Cache> caches;
  llvm::BitVector unread;
};

/// Gives every attention, and every gate that looks back, caches of its own,
/// which are arguments from the entry point down.
class CacheBuilder {
public:
  explicit CacheBuilder(int64_t capacity) : capacity(capacity) {}

  /// Calls `makeCache` to add an argument for each cache. Returns the arguments
  /// that were read as segments only, so that nothing reads them now.
  llvm::BitVector build(func::FuncOp function, MakeCache makeCache);

  /// Whether there was an error: a gate looks ahead, or its layer has no
  /// attention, whose slots it needs.
  bool hasFailed() const { return failed; }

private:
  Value insert(AttentionOp attention, MakeCache makeCache);
  void insert(PoolOp pool, MakeCache makeCache);
  Value cache(StringRef kind, Value rows, Value slots, OpBuilder &builder,
              MakeCache makeCache);
  const CachedSignature &extend(func::FuncOp function);

  int64_t capacity;
  bool failed = false;
  llvm::DenseMap<func::FuncOp, CachedSignature> signatures;
};

/// Makes a cache and writes `rows` into it. Returns the updated cache.
Value CacheBuilder::cache(StringRef kind, Value rows, Value slots,
                          OpBuilder &builder, MakeCache makeCache) {
  auto type = cast<RankedTensorType>(rows.getType());
  auto cached = type.clone({type.getDimSize(0), capacity, type.getDimSize(2)});
  return CacheUpdateOp::create(builder, rows.getLoc(), cached,
                               makeCache({kind, cached}), rows, slots);
}

/// Makes an attention read its keys and values from caches. Returns the
/// segments that it read.
Value CacheBuilder::insert(AttentionOp attention, MakeCache makeCache) {
  OpBuilder builder(attention);
  Value slots = attention.getSlots();
  attention.getKeyMutable().assign(
      cache("keys", attention.getKey(), slots, builder, makeCache));
  attention.getValueMutable().assign(
      cache("values", attention.getValue(), slots, builder, makeCache));
  // A row of a cache holds one sequence, so segments are not needed.
  Value segments = attention.getSegments();
  attention.getSegmentsMutable().clear();
  return segments;
}

/// Makes a pool read its logits from a cache. Its tokens have the slots that
/// the attention of the layer has.
void CacheBuilder::insert(PoolOp pool, MakeCache makeCache) {
  if (pool.getKind() == PoolKind::SequenceSum) {
    pool.emitOpError()
        << "expected a language gate that looks back, but "
           "sequence_sum looks at tokens that are not there yet; "
           "pool=token and pool=causal-mean can generate";
    failed = true;
    return;
  }
  auto attentions = pool->getBlock()->getOps<AttentionOp>();
  if (attentions.empty()) {
    pool.emitOpError() << "expected a moe.attention in its layer, whose slots "
                          "its tokens stand in";
    failed = true;
    return;
  }
  Value slots = (*attentions.begin()).getSlots();
  OpBuilder builder(pool);
  pool.getInputMutable().assign(
      cache("gates", pool.getInput(), slots, builder, makeCache));
  pool.getSlotsMutable().assign(slots);
}

llvm::BitVector CacheBuilder::build(func::FuncOp function,
                                    MakeCache makeCache) {
  SmallVector<Operation *> readers;
  function.walk([&](Operation *op) {
    if (isa<AttentionOp, PoolOp, func::CallOp>(op))
      readers.push_back(op);
  });
  llvm::SmallSetVector<Value, 4> dropped;
  for (Operation *op : readers) {
    if (auto attention = dyn_cast<AttentionOp>(op)) {
      dropped.insert(insert(attention, makeCache));
      continue;
    }
    if (auto pool = dyn_cast<PoolOp>(op)) {
      insert(pool, makeCache);
      continue;
    }
    auto call = cast<func::CallOp>(op);
    auto callee = SymbolTable::lookupNearestSymbolFrom<func::FuncOp>(
        call, call.getCalleeAttr());
    const CachedSignature &signature = extend(callee);
    if (signature.caches.empty())
      continue;
    for (unsigned index : signature.unread.set_bits())
      dropped.insert(call.getOperand(index));
    call->eraseOperands(signature.unread);
    SmallVector<Value> caches;
    for (const Cache &each : signature.caches)
      caches.push_back(makeCache(each));
    replaceCall(call, callee, caches);
  }

  llvm::BitVector unread(function.getNumArguments());
  for (Value value : dropped)
    if (auto argument = dyn_cast_if_present<BlockArgument>(value))
      if (argument.use_empty())
        unread.set(argument.getArgNumber());
  return unread;
}

const CachedSignature &CacheBuilder::extend(func::FuncOp function) {
  auto known = signatures.find(function);
  if (known != signatures.end())
    return known->second;
  CachedSignature signature;
  if (!function.isExternal()) {
    signature.unread = build(function, [&](const Cache &cache) {
      signature.caches.push_back(cache);
      return addArgument(function, cache.type);
    });
    LogicalResult erased = function.eraseArguments(signature.unread);
    assert(succeeded(erased) && "nothing reads these arguments");
    (void)erased;
    // Callers do not pass the caches yet: drop their bits.
    signature.unread.resize(signature.unread.size() - signature.caches.size());
  }
  return signatures[function] = signature;
}

/// Makes the ops that end in the logits and work token by token, the final
/// norm, the output projection and what scales or caps, work on the last token
/// alone. Returns the logits.
Value keepLastToken(Value logits) {
  SmallVector<Operation *> head;
  Value hidden = logits;
  while (Operation *op = hidden.getDefiningOp()) {
    if (!isa<LinearOp, RmsNormOp, LayerNormOp, ScaleOp, SoftCapOp>(op) ||
        !hidden.hasOneUse())
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

struct InsertCache : FailablePass<moe::impl::InsertCacheBase<InsertCache>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override {
    if (capacity < 1)
      return module.emitError() << "expected a capacity of at least 1, but got "
                                << capacity.getValue();
    FailureOr<func::FuncOp> forward = lookupForward(module);
    if (failed(forward) || failed(lookupOutput(*forward, "logits")))
      return failure();

    WalkResult fits = module.walk([&](RotaryTableOp table) {
      return WalkResult(table.verifyLength(capacity));
    });
    if (fits.wasInterrupted())
      return failure();

    llvm::StringMap<unsigned> numCaches;
    CacheBuilder builder(capacity);
    llvm::BitVector unread = builder.build(*forward, [&](const Cache &cache) {
      std::string name =
          cache.kind.str() + "." + std::to_string(numCaches[cache.kind]++);
      return addArgument(*forward, cache.type, BindingKind::State, name);
    });
    if (builder.hasFailed())
      return failure();
    if (numCaches["keys"] == 0)
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
