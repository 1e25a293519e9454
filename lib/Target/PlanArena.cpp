//===-- PlanArena.cpp - one arena for all buffers of a function -----------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Function bodies are straight-line code, so the lifetime of a buffer is an
// interval of ops. Buffers get their offsets greedily, the largest first, each
// the lowest one where memory is free during its whole lifetime.
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"
#include "moe/Target/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "llvm/ADT/DenseMap.h"

namespace mlir::moe {
#define GEN_PASS_DEF_PLANARENA
#include "moe/Target/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// A cache line, and the width of the widest vector.
constexpr int64_t alignment = 64;

struct Lifetime {
  Value buffer;
  int64_t size;
  int64_t first, last;
  int64_t offset = -1;
};

struct PlanArena : moe::impl::PlanArenaBase<PlanArena> {
  using PlanArenaBase::PlanArenaBase;

  void runOnOperation() override;

private:
  void plan(func::FuncOp function, SymbolTable &symbols);

  llvm::DenseMap<Operation *, int64_t> arenaBytes;
};

/// The last op that uses `value`, also through tables and views.
int64_t lastUse(Value value,
                const llvm::DenseMap<Operation *, int64_t> &order) {
  int64_t last = 0;
  for (Operation *user : value.getUsers()) {
    last = std::max(last, order.lookup(user));
    for (Value result : user->getResults())
      last = std::max(last, lastUse(result, order));
  }
  return last;
}

/// Assigns offsets and returns the size of the arena.
int64_t assignOffsets(MutableArrayRef<Lifetime> lifetimes) {
  SmallVector<Lifetime *> order;
  for (Lifetime &lifetime : lifetimes)
    order.push_back(&lifetime);
  llvm::sort(order, [](const Lifetime *a, const Lifetime *b) {
    return std::pair(-a->size, a) < std::pair(-b->size, b);
  });
  int64_t total = 0;
  SmallVector<Lifetime *> placed;
  for (Lifetime *lifetime : order) {
    SmallVector<std::pair<int64_t, int64_t>> taken;
    for (Lifetime *other : placed)
      if (other->first <= lifetime->last && lifetime->first <= other->last)
        taken.push_back({other->offset, other->offset + other->size});
    llvm::sort(taken);
    int64_t offset = 0;
    for (auto [begin, end] : taken) {
      if (offset + lifetime->size <= begin)
        break;
      offset = std::max(offset, end);
    }
    lifetime->offset = offset;
    total = std::max(total, offset + lifetime->size);
    placed.push_back(lifetime);
  }
  return total;
}

} // namespace

void PlanArena::plan(func::FuncOp function, SymbolTable &symbols) {
  if (arenaBytes.contains(function))
    return;
  Block &block = function.getBody().front();
  OpBuilder builder(function);
  Type byte = builder.getI8Type();

  // A callee's arena is a buffer of its caller, alive during the call.
  SmallVector<func::CallOp> calls(block.getOps<func::CallOp>());
  for (func::CallOp call : calls) {
    auto callee = symbols.lookup<func::FuncOp>(call.getCallee());
    plan(callee, symbols);
    if (int64_t bytes = arenaBytes[callee]) {
      builder.setInsertionPoint(call);
      Value arena = memref::AllocOp::create(builder, call.getLoc(),
                                            MemRefType::get({bytes}, byte));
      call.getOperandsMutable().append(arena);
    }
  }

  llvm::DenseMap<Operation *, int64_t> order;
  for (auto [i, op] : llvm::enumerate(block))
    order[&op] = i;
  SmallVector<Lifetime> lifetimes;
  int64_t naive = 0;
  auto add = [&](Value buffer, int64_t last) {
    // A lifetime begins at the first use, not at the allocation.
    int64_t first = std::numeric_limits<int64_t>::max();
    for (Operation *user : buffer.getUsers())
      first = std::min(first, order.lookup(user));
    int64_t size = llvm::alignTo(
        std::max<int64_t>(sizeInBytes(buffer.getType()), 1), alignment);
    lifetimes.push_back({buffer, size, first, last});
    naive += size;
  };
  for (auto alloc : block.getOps<memref::AllocOp>())
    add(alloc, lastUse(alloc, order));
  // Gradients of a step are read after it, so they live to the end.
  for (auto [i, argument] : llvm::enumerate(function.getArguments()))
    if (auto binding = BindingAttr::ofArgument(function, i))
      if (binding.getKind() == BindingKind::StepGradient)
        add(argument, static_cast<int64_t>(order.size()));
  int64_t bytes = assignOffsets(lifetimes);
  arenaBytes[function] = bytes;
  if (bytes > static_cast<int64_t>(numBytes)) {
    numBytes = bytes;
    numNaive = naive;
  }
  if (bytes == 0)
    return;

  BindingAttr binding;
  if (!function.isPrivate())
    binding = BindingAttr::get(&getContext(), BindingKind::Arena,
                               builder.getStringAttr("arena"));
  Value arena = addArgument(function, MemRefType::get({bytes}, byte), binding);
  for (Lifetime &lifetime : lifetimes) {
    if (auto argument = dyn_cast<BlockArgument>(lifetime.buffer)) {
      unsigned i = argument.getArgNumber();
      auto binding = BindingAttr::ofArgument(function, i);
      function.setArgAttrs(i,
                           BindingAttr::get(&getContext(), binding.getKind(),
                                            binding.getName(), lifetime.offset)
                               .asAttributes());
      continue;
    }
    auto alloc = lifetime.buffer.getDefiningOp<memref::AllocOp>();
    builder.setInsertionPoint(alloc);
    Location loc = alloc.getLoc();
    Value offset =
        arith::ConstantIndexOp::create(builder, loc, lifetime.offset);
    Value view = memref::ViewOp::create(builder, loc, alloc.getType(), arena,
                                        offset, ValueRange());
    alloc.replaceAllUsesWith(view);
    alloc.erase();
  }
}

void PlanArena::runOnOperation() {
  SymbolTable symbols(getOperation());
  arenaBytes.clear();
  for (auto function : getOperation().getOps<func::FuncOp>())
    plan(function, symbols);
}
