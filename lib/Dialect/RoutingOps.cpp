//===-- RoutingOps.cpp - verifiers of routes
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult LanguageGateOp::verify() {
  if (failed(verifyLeading(*this, getInput(), getLogits())) ||
      failed(verifyDim(*this, "classes", 2, lastDim(getLogits()))))
    return failure();
  return verifyShape(*this, "a weight", getWeight(), {2, lastDim(getInput())});
}

LogicalResult PoolOp::verify() {
  if (!getSlots())
    return verifySameType(*this, "a result", getInput(), getResult());
  if (getKind() == PoolKind::SequenceSum)
    return emitOpError() << "expected no slots with sequence_sum, which is not "
                            "known while a sequence grows";
  ArrayRef<int64_t> shape = typeOf(getResult()).getShape();
  if (failed(verifySameElement(*this, getInput(), getResult())) ||
      failed(verifyShape(*this, "an input", getInput(),
                         {shape[0], ShapedType::kDynamic, shape[2]})))
    return failure();
  return verifyLeading(*this, getResult(), getSlots());
}

void RouteOp::build(OpBuilder &builder, OperationState &state, Value logits,
                    Value gate, int64_t topK) {
  SmallVector<int64_t> shape(typeOf(logits).getShape());
  auto routes = RoutesType::get(builder.getContext(), numTokens(logits),
                                shape.back(), topK);
  shape.back() = topK;
  build(builder, state, routes, typeOf(logits).clone(shape), logits, gate,
        /*groups=*/Value(), /*renormalize=*/true,
        /*forced_expert=*/IntegerAttr());
}

LogicalResult RouteOp::verify() {
  int64_t experts = getRoutes().getType().getExperts();
  int64_t topK = getRoutes().getType().getTopK();
  if (failed(verifyLeading(*this, getLogits(), getScores())) ||
      failed(verifyLogits(*this, getLogits(), getRoutes())) ||
      failed(verifyDim(*this, "scores", topK, lastDim(getScores()))))
    return failure();
  if (std::optional<uint64_t> forced = getForcedExpert()) {
    auto expert = static_cast<int64_t>(*forced);
    if (expert < 0 || expert >= experts)
      return emitOpError() << "expected a forced expert in [0, " << experts
                           << "), but got " << expert;
    if (topK != 1)
      return emitOpError() << "expected one expert a token, since it is "
                              "forced, but got "
                           << topK;
    if (getGate())
      return emitOpError() << "expected no gate, since the expert is forced";
  }
  if (getGroups()) {
    if (getGate() || getForcedExpert())
      return emitOpError() << "expected neither a gate nor a forced expert, "
                              "since tokens go by their groups";
    if (topK != 1)
      return emitOpError() << "expected one expert a token, since tokens go by "
                              "their groups, but got "
                           << topK;
    return verifyLeading(*this, getLogits(), getGroups());
  }
  if (!getGate())
    return success();
  if (failed(verifyLeading(*this, getLogits(), getGate())))
    return failure();
  return verifyDim(*this, "classes", 2, lastDim(getGate()));
}
