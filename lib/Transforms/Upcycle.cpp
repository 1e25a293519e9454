//===-- Upcycle.cpp - turns FFNs into mixtures of copies
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AddExperts.h"

#include "moe/Transforms/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_UPCYCLE
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct Upcycle : FailablePass<moe::impl::UpcycleBase<Upcycle>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override {
    FailureOr<SmallVector<Layer>> layers =
        findLayers(module, SymbolTable(module));
    if (failed(layers))
      return failure();
    llvm::erase_if(*layers, [](const Layer &layer) { return !layer.ffn; });
    if (layers->empty())
      return module.lookupSymbol("forward")->emitOpError()
             << "expected calls of layers with a moe.ffn, but there is none";
    if (!counts.empty() && counts.size() != layers->size())
      return module.emitError()
             << "expected a count for each of " << layers->size()
             << " layers, but got " << counts.size();
    SmallVector<NewExperts> wanted;
    for (auto [i, layer] : llvm::enumerate(*layers)) {
      int64_t count = counts.empty() ? experts : counts[i];
      if (count < 1)
        return module.emitError() << "expected at least 1 expert in layer " << i
                                  << ", but got " << count;
      wanted.push_back({layer, count - 1});
      numLayers += count > 1;
      numExperts += count - 1;
    }
    return addExperts(
        module, wanted,
        {topK, InitAttr::get(&getContext(), Initializer::XavierNormal, seed,
                             FloatAttr())});
  }
};

} // namespace
