//===-- FuseLoss.cpp - never holds all logits in training
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Passes.h"

#include "mlir/IR/Matchers.h"

namespace mlir::moe {
#define GEN_PASS_DEF_FUSELOSS
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// The value of a scalar that is known at compile time: a constant, or a
/// weighted sum of such.
std::optional<double> constantValue(Value value) {
  DenseFPElementsAttr constant;
  if (matchPattern(value, m_Constant(&constant)) && constant.isSplat())
    return constant.getSplatValue<APFloat>().convertToDouble();
  auto sum = value.getDefiningOp<WeightedSumOp>();
  if (!sum)
    return std::nullopt;
  double total = 0.0;
  for (auto [term, coefficient] :
       llvm::zip_equal(sum.getTerms(), sum.getCoefficients())) {
    std::optional<double> known = constantValue(term);
    if (!known)
      return std::nullopt;
    total += coefficient * *known;
  }
  return total;
}

/// An output projection with all readers of its logits.
struct Projection {
  LinearOp linear;
  SoftCapOp cap; ///< null if the loss reads the logits as they are
  CrossEntropyOp loss;
  SmallVector<CrossEntropyGradOp> gradients;
  SmallVector<SoftCapGradOp> capGradients;
  SmallVector<LinearInputGradOp> inputGradients;
  SmallVector<LinearWeightGradOp> weightGradients;
};

/// Adds the readers of a gradient of the logits. Fails if they are anything but
/// the gradients of the projection.
LogicalResult matchReaders(Projection &found, Value dlogits) {
  for (OpOperand &use : dlogits.getUses()) {
    auto input = dyn_cast<LinearInputGradOp>(use.getOwner());
    auto weight = dyn_cast<LinearWeightGradOp>(use.getOwner());
    if (use.getOperandNumber() != 0)
      return failure();
    if (input && input.getWeight() == found.linear.getWeight() &&
        input.getType() == found.linear.getInput().getType())
      found.inputGradients.push_back(input);
    else if (weight && weight.getInput() == found.linear.getInput())
      found.weightGradients.push_back(weight);
    else
      return failure();
  }
  return success();
}

/// Adds a gradient of the loss and its readers. Fails if they are anything but
/// the gradients of the soft cap and the projection, or if the loss's own
/// gradient is not one.
LogicalResult matchGradient(Projection &found, CrossEntropyGradOp grad) {
  if (grad.getLabels() != found.loss.getLabels() ||
      grad.getWeight() != found.loss.getWeight() ||
      grad->getBlock() != found.loss->getBlock() ||
      constantValue(grad.getDloss()) != 1.0)
    return failure();
  found.gradients.push_back(grad);
  if (!found.cap)
    return matchReaders(found, grad);
  for (Operation *user : grad->getUsers()) {
    auto capGrad = dyn_cast<SoftCapGradOp>(user);
    if (!capGrad || capGrad.getInput() != found.linear.getResult() ||
        capGrad.getCap() != found.cap.getCap() ||
        failed(matchReaders(found, capGrad)))
      return failure();
    found.capGradients.push_back(capGrad);
  }
  return success();
}

/// Finds the projection in front of `loss`, if its logits need not exist.
FailureOr<Projection> match(CrossEntropyOp loss) {
  Projection found;
  found.loss = loss;
  found.cap = loss.getLogits().getDefiningOp<SoftCapOp>();
  Value logits = found.cap ? found.cap.getInput() : loss.getLogits();
  found.linear = logits.getDefiningOp<LinearOp>();
  if (!found.linear || found.linear.getBias() ||
      found.linear->getBlock() != loss->getBlock())
    return failure();
  for (Operation *user : loss.getLogits().getUsers()) {
    if (user == loss)
      continue;
    auto grad = dyn_cast<CrossEntropyGradOp>(user);
    if (!grad || failed(matchGradient(found, grad)))
      return failure();
  }
  auto isOfLoss = [&](Operation *user) {
    return user == found.cap || llvm::is_contained(found.capGradients, user);
  };
  if (found.cap && !llvm::all_of(logits.getUsers(), isOfLoss))
    return failure();
  return found;
}

void fuse(RewriterBase &rewriter, const Projection &found, int64_t chunk) {
  LinearOp linear = found.linear;
  CrossEntropyOp loss = found.loss;
  SoftCapOp cap = found.cap;
  Operation *first = loss;
  for (CrossEntropyGradOp grad : found.gradients)
    if (grad->isBeforeInBlock(first))
      first = grad;
  rewriter.setInsertionPoint(first);
  auto fused = LinearCrossEntropyOp::create(
      rewriter, loss.getLoc(), loss.getType(),
      found.inputGradients.empty() ? Type() : linear.getInput().getType(),
      found.weightGradients.empty()
          ? Type()
          : LinearWeightGradOp(found.weightGradients.front()).getType(),
      linear.getInput(), linear.getWeight(), loss.getLabels(), loss.getWeight(),
      rewriter.getI64IntegerAttr(chunk), cap ? cap.getCapAttr() : FloatAttr());
  for (LinearInputGradOp grad : found.inputGradients)
    rewriter.replaceOp(grad, fused.getDx());
  for (LinearWeightGradOp grad : found.weightGradients)
    rewriter.replaceOp(grad, fused.getDweight());
  for (SoftCapGradOp grad : found.capGradients)
    rewriter.eraseOp(grad);
  for (CrossEntropyGradOp grad : found.gradients)
    rewriter.eraseOp(grad);
  rewriter.replaceOp(loss, fused.getLoss());
  if (cap)
    rewriter.eraseOp(cap);
  rewriter.eraseOp(linear);
}

struct FuseLossPass : FailablePass<moe::impl::FuseLossBase<FuseLossPass>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override {
    if (chunk <= 0)
      return module.emitError()
             << "expected a positive chunk, but got " << chunk.getValue();
    SmallVector<CrossEntropyOp> losses;
    module.walk([&](CrossEntropyOp loss) { losses.push_back(loss); });
    IRRewriter rewriter(&getContext());
    for (CrossEntropyOp loss : losses)
      if (FailureOr<Projection> found = match(loss); succeeded(found))
        fuse(rewriter, *found, chunk);
    return success();
  }
};

} // namespace
