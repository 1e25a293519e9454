//===-- AddScoring.cpp - makes a program that scores text
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoint.h"

#include "moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"

namespace mlir::moe {
#define GEN_PASS_DEF_ADDSCORING
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct AddScoring : FailablePass<moe::impl::AddScoringBase<AddScoring>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override {
    FailureOr<func::FuncOp> forward = lookupForward(module);
    if (failed(forward))
      return failure();
    FailureOr<BlockArgument> tokens = lookupInput(*forward, "tokens");
    FailureOr<Value> allLogits = lookupOutput(*forward, "logits");
    if (failed(tokens) || failed(allLogits))
      return failure();

    auto ids = cast<RankedTensorType>(tokens->getType());
    auto logitsType = cast<RankedTensorType>(allLogits->getType());
    BlockArgument labels =
        addArgument(*forward, ids, BindingKind::Input, "labels");
    OpBuilder builder(returnOf(*forward));
    Value logprobs = TokenLogprobsOp::create(
        builder, allLogits->getLoc(),
        ids.clone(preciseType(logitsType.getElementType())), *allLogits,
        labels);
    SmallVector<Value> values = {logprobs};
    SmallVector<StringRef> names = {"logprobs"};
    if (logits) {
      values.push_back(*allLogits);
      names.push_back("logits");
    }
    setOutputs(*forward, values, names);
    forward->setSymName("score");
    return success();
  }
};

} // namespace
