//===-- RoutingOps.cpp - routers, routes and experts ----------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Interpreter.h"

#include "moe/Runtime/Error.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <limits>

using namespace mlir;
using namespace mlir::moe;

namespace polymoe {

Results evaluate(RouterOp op, Frame &frame) {
  return {at::linear(toPrecise(frame[op.getInput()]),
                     toPrecise(frame[op.getWeight()]))};
}

Results evaluate(LanguageGateOp op, Frame &frame) {
  return {at::linear(toPrecise(frame[op.getInput()]),
                     toPrecise(frame[op.getWeight()]))};
}

Results evaluate(PoolOp op, Frame &frame) {
  const at::Tensor &logits = frame[op.getInput()];
  if (op.getSlots())
    fail("moe.pool: expected an op of the model level, but got one with a "
         "cache");
  if (op.getKind() == PoolKind::SequenceSum)
    return {logits.sum(1, /*keepdim=*/true).expand_as(logits)};
  at::Tensor count =
      at::arange(1, logits.size(1) + 1, logits.options().requires_grad(false));
  return {logits.cumsum(1) / count.unsqueeze(-1)};
}

Results evaluate(RouteOp op, Frame &frame) {
  const at::Tensor &logits = frame[op.getLogits()];
  int64_t topK = op.getRoutes().getType().getTopK();
  if (std::optional<uint64_t> forced = op.getForcedExpert()) {
    std::vector<int64_t> shape = {logits.size(0), logits.size(1), 1};
    at::Tensor selected =
        at::full(shape, static_cast<int64_t>(*forced),
                 logits.options().dtype(at::kLong).requires_grad(false));
    frame.record({logits, selected, at::Tensor()});
    return {selected, at::ones(shape, logits.options().requires_grad(false))};
  }
  if (op.getGroups()) {
    at::Tensor groups = frame[op.getGroups()].to(at::kLong).unsqueeze(-1);
    at::Tensor isExpert = (groups >= 0) & (groups < logits.size(-1));
    at::Tensor selected = groups.masked_fill(isExpert.logical_not(), 0);
    at::Tensor scores =
        at::ones(groups.sizes(), logits.options().requires_grad(false))
            .masked_fill(isExpert.logical_not(),
                         std::numeric_limits<double>::quiet_NaN());
    frame.record({logits, selected, at::Tensor()});
    return {selected, scores};
  }
  at::Tensor probabilities = at::softmax(logits, -1);
  // at::topk does not specify the order of equal values; in a stable sort the
  // lower index wins.
  at::Tensor order =
      std::get<1>(at::sort(probabilities.detach(), /*stable=*/true, /*dim=*/-1,
                           /*descending=*/true));
  at::Tensor selected = order.narrow(-1, 0, topK);
  at::Tensor scores = probabilities.gather(-1, selected);
  if (op.getRenormalize() && topK > 1)
    scores = scores / scores.sum(-1, /*keepdim=*/true);
  at::Tensor gate = frame.optional(op.getGate());
  if (gate.defined()) {
    // The choices of an old token: expert 0 with a score of 1, then missing
    // routes.
    at::Tensor old = (gate.select(-1, 0) >= gate.select(-1, 1)).unsqueeze(-1);
    at::Tensor choice = at::arange(topK, selected.options());
    at::Tensor only =
        at::where(choice == 0, 0, op.getRoutes().getType().getExperts());
    selected = at::where(old, only, selected);
    scores = at::where(old, (choice == 0).to(scores.scalar_type()), scores);
  }
  frame.record({logits, selected, gate});
  return {selected, scores};
}

Results evaluate(ExpertsOp op, Frame &frame) {
  const at::Tensor &input = frame[op.getInput()];
  at::Tensor scores = frame[op.getScores()].flatten(0, 1).unsqueeze(-1);
  at::Tensor rows = input.flatten(0, 1);
  int64_t topK = scores.size(1);
  // Route t * K + k goes to expert assigned[t * K + k].
  at::Tensor assigned = frame[op.getRoutes()].flatten();

  int64_t perExpert =
      FfnLayout(op.getForm(), op.getActivation(), op.getWeights()).each();
  int64_t experts = op.getRoutes().getType().getExperts();
  std::vector<at::Tensor> outputs, routes;
  for (int64_t expert = 0; expert < experts; ++expert) {
    at::Tensor own = at::nonzero(assigned == expert).flatten();
    if (own.numel() == 0)
      continue;
    SmallVector<at::Tensor> weights;
    for (Value weight : op.getWeights().slice(expert * perExpert, perExpert))
      weights.push_back(frame[weight]);
    at::Tensor tokens = own.floor_divide(topK);
    outputs.push_back(feedForward(rows.index_select(0, tokens), weights,
                                  op.getForm(), op.getActivation()));
    routes.push_back(own);
  }
  // A missing route, to expert E, adds nothing.
  at::Tensor results = toPrecise(at::cat(outputs));
  at::Tensor byToken = at::zeros({assigned.numel(), results.size(1)},
                                 results.options().requires_grad(false))
                           .index_copy(0, at::cat(routes), results)
                           .unflatten(0, {-1, topK});
  at::Tensor weighted = byToken * scores;
  at::Tensor sum = weighted.select(1, 0);
  for (int64_t k = 1; k < topK; ++k)
    sum = sum + weighted.select(1, k);
  return {sum.to(input.scalar_type()).view(input.sizes())};
}

} // namespace polymoe
