//===-- SplitExperts.cpp - a few experts at a time ------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A launch over all experts needs the weights of all packed before. Those of
// many experts are more than a cache holds, so they would travel to memory and
// back. The launch is split into launches over as many experts as the cache
// holds, and what packs their weights goes to just before each: the arena gives
// all of them the same memory.
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"
#include "moe/Target/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"

namespace mlir::moe {
#define GEN_PASS_DEF_SPLITEXPERTS
#include "moe/Target/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct SplitExperts : moe::impl::SplitExpertsBase<SplitExperts> {
  using SplitExpertsBase::SplitExpertsBase;

  void runOnOperation() override;

private:
  void split(DispatchOp launch, unsigned range);
};

/// What packs the value that only `table` reads, in the same function.
DispatchOp packingOf(Value panels, PointerTableOp table) {
  DispatchOp packing;
  for (Operation *user : panels.getUsers()) {
    auto dispatch = dyn_cast<DispatchOp>(user);
    if (dispatch && dispatch.getDerives() &&
        dispatch.getArguments().back() == panels)
      packing = dispatch;
    else if (user != table)
      return {};
  }
  return panels.getDefiningOp<memref::AllocOp>() ? packing : DispatchOp();
}

int64_t sizeInBytes(Value buffer) {
  auto type = cast<MemRefType>(buffer.getType());
  return type.getNumElements() * type.getElementTypeBitWidth() / 8;
}

/// The first expert of each launch, and their number.
SmallVector<int64_t> firstExperts(ArrayRef<int64_t> bytes, int64_t most) {
  SmallVector<int64_t> firsts{0};
  int64_t sum = 0;
  for (auto [expert, own] : llvm::enumerate(bytes)) {
    if (sum > 0 && sum + own > most) {
      firsts.push_back(static_cast<int64_t>(expert));
      sum = 0;
    }
    sum += own;
  }
  firsts.push_back(static_cast<int64_t>(bytes.size()));
  return firsts;
}

} // namespace

void SplitExperts::split(DispatchOp launch, unsigned range) {
  SmallVector<unsigned> tables;
  for (auto [i, argument] : llvm::enumerate(launch.getArguments()))
    if (isa<TableType>(argument.getType()))
      tables.push_back(i);
  auto tableOf = [&](unsigned i) {
    return launch.getArguments()[i].getDefiningOp<PointerTableOp>();
  };
  // One that the function was given cannot be cut.
  if (tables.empty() || !llvm::all_of(tables, tableOf))
    return;
  SmallVector<int64_t> bytes(tableOf(tables[0]).getBuffers().size());
  for (unsigned i : tables)
    for (auto [expert, panels] : llvm::enumerate(tableOf(i).getBuffers()))
      if (packingOf(panels, tableOf(i)))
        bytes[expert] += sizeInBytes(panels);
  // The weights of one expert alone may be too much for the cache: nothing
  // would stay there, and the rows of one expert are few tiles for all threads.
  SmallVector<int64_t> firsts = firstExperts(bytes, panelBytes);
  if (firsts.size() == 2 || 2 * *llvm::max_element(bytes) > panelBytes)
    return;

  OpBuilder builder(launch);
  Location loc = launch.getLoc();
  for (size_t n = 0; n + 1 < firsts.size(); ++n) {
    int64_t first = firsts[n], count = firsts[n + 1] - first;
    SmallVector<Value> arguments(launch.getArguments());
    for (unsigned i : tables) {
      ValueRange buffers = tableOf(i).getBuffers().slice(first, count);
      for (Value panels : buffers)
        if (DispatchOp packing = packingOf(panels, tableOf(i)))
          packing->moveBefore(launch);
      arguments[i] = PointerTableOp::create(
          builder, loc, TableType::get(&getContext()), buffers);
    }
    for (unsigned bound : {0, 1})
      arguments[range + bound] = arith::ConstantOp::create(
          builder, loc, builder.getI64IntegerAttr(firsts[n + bound]));
    DispatchOp::create(builder, loc, launch.getKernelAttr(),
                       launch.getTilesAttr(), launch.getDerivesAttr(),
                       arguments);
    ++numLaunches;
  }
  SmallVector<Operation *> unused;
  for (unsigned i : tables)
    unused.push_back(tableOf(i));
  launch.erase();
  for (Operation *table : unused)
    if (table->use_empty())
      table->erase();
}

void SplitExperts::runOnOperation() {
  SymbolTable symbols(getOperation());
  SmallVector<std::pair<DispatchOp, unsigned>> launches;
  getOperation().walk([&](DispatchOp launch) {
    auto kernel = symbols.lookup<func::FuncOp>(launch.getKernel());
    if (auto range = kernel->getAttrOfType<IntegerAttr>("moe.experts"))
      launches.push_back({launch, range.getInt()});
  });
  for (auto [launch, range] : launches)
    split(launch, range);
}
