//===-- AllocateExperts.cpp - gives layers the experts that a profile asks for
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AddExperts.h"
#include "LayerProfile.h"

#include "moe/Transforms/Allocation.h"
#include "moe/Transforms/Passes.h"

#include "llvm/Support/FormatVariadic.h"

#include <cmath>

namespace mlir::moe {
#define GEN_PASS_DEF_ALLOCATEEXPERTS
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct AllocateExperts
    : FailablePass<moe::impl::AllocateExpertsBase<AllocateExperts>> {
  using FailablePass::FailablePass;

  /// The delta of the formula: what is given, or what fits the budget.
  FailureOr<double> findDelta(ModuleOp module, ArrayRef<double> similarity) {
    bool hasDelta = delta.hasValue(), hasBudget = budget.hasValue();
    if (hasDelta == hasBudget)
      return module.emitError() << "expected delta or budget, but got "
                                << (hasDelta ? "both" : "neither");
    if (hasBudget && budget < 0)
      return module.emitError()
             << "expected a budget of at least 0 new experts, but got "
             << budget.getValue();
    if (hasBudget)
      return largestDelta(similarity, budget);
    if (!(delta > 0) || !std::isfinite(delta))
      return module.emitError() << "expected a positive delta, but got "
                                << llvm::formatv("{0}", double(delta)).str();
    return double(delta);
  }

  LogicalResult run(ModuleOp module) override {
    FailureOr<SmallVector<Layer>> layers =
        findLayers(module, SymbolTable(module));
    if (failed(layers))
      return failure();
    FailureOr<SmallVector<double>> similarity =
        readLayerSimilarity(module, *layers, profile, /*isExpanded=*/false);
    if (failed(similarity))
      return failure();
    FailureOr<double> found = findDelta(module, *similarity);
    if (failed(found))
      return failure();

    SmallVector<NewExperts> wanted;
    for (auto [layer, count] :
         llvm::zip_equal(*layers, allocateByInverse(*similarity, *found))) {
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
