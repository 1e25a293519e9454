//===-- FuseRoutedMatmuls.cpp - turns FFNs and experts into grouped matmuls
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Passes.h"

#include "llvm/ADT/TypeSwitch.h"

namespace mlir::moe {
#define GEN_PASS_DEF_FUSEROUTEDMATMULS
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}

/// The weights of an FFN or of all experts, by their use. A position is the
/// index of a weight inside its expert.
class Weights {
public:
  Weights(ValueRange all, FfnForm form, ActivationKind activation)
      : all(all), layout(form, activation, all) {}

  bool isGated() const { return layout.gated; }
  bool haveBiases() const { return layout.biased; }
  int64_t each() const { return layout.each(); }
  int64_t down() const { return layout.down(); }
  /// The positions of the activation's scalars.
  auto scalarPositions() const { return llvm::seq(layout.scalars(), each()); }
  int64_t numExperts() const { return all.size() / each(); }
  int64_t hidden() const { return typeOf(all.front()).getDimSize(0); }
  int64_t width() const { return typeOf(all.front()).getDimSize(1); }
  Type elementType() const { return typeOf(all.front()).getElementType(); }

  /// The weights of the up projection: gate, up; or up and its bias.
  SmallVector<Value> intoHidden() const { return select(0, down()); }
  /// The weights of the down projection: down and its bias.
  SmallVector<Value> outOfHidden() const {
    return select(down(), layout.scalars());
  }
  /// The scalars of the activation.
  SmallVector<Value> scalars() const {
    return select(layout.scalars(), each());
  }
  /// The matrices that read the input: gate, up; or up.
  SmallVector<Value> onInput() const { return select(0, isGated() ? 2 : 1); }

private:
  /// The weights of all experts at positions [first, last).
  SmallVector<Value> select(int64_t first, int64_t last) const {
    SmallVector<Value> selected;
    for (int64_t e = 0; e < numExperts(); ++e)
      llvm::append_range(selected, all.slice(e * each() + first, last - first));
    return selected;
  }

  ValueRange all;
  FfnLayout layout;
};

/// Replaces `op`, a moe.ffn (without `routes` and `scores`) or moe.experts.
LogicalResult fuseForward(RewriterBase &rewriter, Operation *op,
                          TypedValue<RankedTensorType> input, Value routes,
                          Value scores, ValueRange weights, FfnFormAttr form,
                          ActivationKindAttr activation, Value result,
                          Value preactivation) {
  RankedTensorType type = input.getType();
  if (!type.hasStaticShape())
    return op->emitOpError() << "expected a static shape, but got " << type;
  Location loc = op->getLoc();
  rewriter.setInsertionPoint(op);
  Weights parts(weights, form.getValue(), activation.getValue());
  int64_t rows = routes ? cast<RoutesType>(routes.getType()).getRows()
                        : type.getDimSize(0) * type.getDimSize(1);
  Type element = type.getElementType();
  bool saves = preactivation && !preactivation.use_empty();

  auto up = RoutedUpOp::create(
      rewriter, loc, RankedTensorType::get({rows, parts.hidden()}, element),
      saves ? preactivation.getType() : Type(), input, routes,
      parts.intoHidden(), parts.scalars(), form, activation);
  if (saves)
    rewriter.replaceAllUsesWith(preactivation, up.getPreactivation());
  // Where a backward recomputes the pre-activation, nothing reads the result.
  if (!result.use_empty()) {
    Type rowsType = RankedTensorType::get({rows, parts.width()}, element);
    Value output = RoutedDownOp::create(
        rewriter, loc, routes ? rowsType : result.getType(), up.getHidden(),
        routes, parts.outOfHidden(), form);
    if (routes)
      output = CombineOp::create(rewriter, loc, result.getType(), output,
                                 routes, scores);
    rewriter.replaceAllUsesWith(result, output);
  }
  if (up->use_empty())
    rewriter.eraseOp(up);
  rewriter.eraseOp(op);
  return success();
}

/// Replaces a moe.experts_grad by one op for each kind of gradient in it.
class BackwardFusion {
public:
  BackwardFusion(RewriterBase &rewriter, ExpertsGradOp op)
      : rewriter(rewriter), op(op), loc(op.getLoc()),
        weights(op.getWeights(), op.getForm(), op.getActivation()) {}

  void run();

private:
  /// The gradients, with their experts, of the weights at a position.
  struct Wanted {
    SmallVector<int64_t> experts;
    SmallVector<Value> gradients;
    SmallVector<Type> types;
  };
  Wanted wanted(int64_t position);

  void fuseWeights(int64_t position, Value lhs, Value rhs, int64_t offset);
  void fuseBiases(int64_t position, Value dy, Value scores);

  RewriterBase &rewriter;
  ExpertsGradOp op;
  Location loc;
  Weights weights;
};

BackwardFusion::Wanted BackwardFusion::wanted(int64_t position) {
  Wanted found;
  int64_t each = weights.each();
  size_t next = 0;
  for (auto [i, isWanted] : llvm::enumerate(op.getWanted())) {
    if (!isWanted)
      continue;
    Value gradient = op.getDweights()[next++];
    if (static_cast<int64_t>(i) % each != position || gradient.use_empty())
      continue;
    found.experts.push_back(i / each);
    found.gradients.push_back(gradient);
    found.types.push_back(gradient.getType());
  }
  return found;
}

void BackwardFusion::fuseWeights(int64_t position, Value lhs, Value rhs,
                                 int64_t offset) {
  Wanted matrices = wanted(position);
  if (matrices.experts.empty())
    return;
  auto grad = RoutedWeightGradOp::create(
      rewriter, loc, matrices.types, lhs, rhs, op.getRoutes(),
      rewriter.getDenseI64ArrayAttr(matrices.experts),
      rewriter.getI64IntegerAttr(offset));
  rewriter.replaceAllUsesWith(matrices.gradients, grad.getDweights());
}

void BackwardFusion::fuseBiases(int64_t position, Value dy, Value scores) {
  Wanted biases = wanted(position);
  if (biases.experts.empty())
    return;
  auto grad = RoutedBiasGradOp::create(
      rewriter, loc, biases.types, dy, op.getRoutes(), scores,
      rewriter.getDenseI64ArrayAttr(biases.experts));
  rewriter.replaceAllUsesWith(biases.gradients, grad.getDbiases());
}

void BackwardFusion::run() {
  rewriter.setInsertionPoint(op);
  RankedTensorType preactivation = op.getPreactivation().getType();
  bool needsScaled = !wanted(weights.down()).experts.empty();
  bool needsScores = op.getDscores() && !op.getDscores().use_empty();
  SmallVector<Type> scalarTypes;
  if (llvm::any_of(weights.scalarPositions(), [&](int64_t position) {
        return !wanted(position).experts.empty();
      }))
    scalarTypes.append(
        weights.scalarPositions().size(),
        RankedTensorType::get({preactivation.getDimSize(0), 1},
                              preciseType(preactivation.getElementType())));
  Type scaledType =
      RankedTensorType::get({preactivation.getDimSize(0), weights.hidden()},
                            preactivation.getElementType());
  auto down = RoutedDownGradOp::create(
      rewriter, loc, preactivation, needsScaled ? scaledType : Type(),
      needsScores ? op.getDscores().getType() : Type(), scalarTypes, op.getDy(),
      op.getScores(), op.getRoutes(), op.getPreactivation(),
      weights.outOfHidden(), weights.scalars(), op.getFormAttr(),
      op.getActivationAttr());
  if (needsScores)
    rewriter.replaceAllUsesWith(op.getDscores(), down.getDscores());

  if (needsScaled)
    fuseWeights(weights.down(), op.getDy(), down.getScaled(), /*offset=*/0);
  fuseWeights(0, down.getDz(), op.getInput(), /*offset=*/0);
  if (weights.isGated()) {
    fuseWeights(1, down.getDz(), op.getInput(), /*offset=*/weights.hidden());
  } else if (weights.haveBiases()) {
    fuseBiases(1, down.getDz(), /*scores=*/Value());
    fuseBiases(weights.down() + 1, op.getDy(), op.getScores());
  }

  for (auto [position, rows] :
       llvm::zip(weights.scalarPositions(), down.getDscalars()))
    fuseBiases(position, rows, /*scores=*/Value());

  if (Value dx = op.getDx(); dx && !dx.use_empty()) {
    Type rowsType =
        RankedTensorType::get({preactivation.getDimSize(0), weights.width()},
                              typeOf(dx).getElementType());
    Value gradient = RoutedInputGradOp::create(
        rewriter, loc, op.getRoutes() ? rowsType : dx.getType(), down.getDz(),
        op.getRoutes(), weights.onInput(), op.getFormAttr());
    if (op.getRoutes())
      gradient = CombineOp::create(rewriter, loc, dx.getType(), gradient,
                                   op.getRoutes(), /*scores=*/Value());
    rewriter.replaceAllUsesWith(dx, gradient);
  }
  if (down->use_empty())
    rewriter.eraseOp(down);
  rewriter.eraseOp(op);
}

struct FuseRoutedMatmulsPass
    : public moe::impl::FuseRoutedMatmulsBase<FuseRoutedMatmulsPass> {
  void runOnOperation() override {
    // Users are fused before the ops that they use: then a result that only a
    // dead gradient read is known to be dead.
    SmallVector<Operation *> ops;
    getOperation().walk([&](Operation *op) {
      if (isa<FfnOp, ExpertsOp, ExpertsGradOp>(op))
        ops.push_back(op);
    });
    IRRewriter rewriter(&getContext());
    for (Operation *op : llvm::reverse(ops)) {
      LogicalResult fused =
          llvm::TypeSwitch<Operation *, LogicalResult>(op)
              .Case([&](FfnOp ffn) {
                return fuseForward(rewriter, op, ffn.getInput(), Value(),
                                   Value(), ffn.getWeights(), ffn.getFormAttr(),
                                   ffn.getActivationAttr(), ffn.getResult(),
                                   ffn.getPreactivation());
              })
              .Case([&](ExpertsOp experts) {
                return fuseForward(
                    rewriter, op, experts.getInput(), experts.getRoutes(),
                    experts.getScores(), experts.getWeights(),
                    experts.getFormAttr(), experts.getActivationAttr(),
                    experts.getResult(), experts.getPreactivation());
              })
              .Case([&](ExpertsGradOp grad) {
                BackwardFusion(rewriter, grad).run();
                return success();
              });
      if (failed(fused))
        return signalPassFailure();
    }
  }
};

} // namespace
