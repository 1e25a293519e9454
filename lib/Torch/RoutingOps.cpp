//===-- RoutingOps.cpp - routers, routes and experts ----------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Interpreter.h"

#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>

using namespace mlir;
using namespace mlir::moe;

namespace polymoe {

Results evaluate(RouterOp op, Frame &frame) {
  return {at::linear(toPrecise(frame[op.getInput()]),
                     toPrecise(frame[op.getWeight()]))};
}

Results evaluate(RouteOp op, Frame &frame) {
  const at::Tensor &logits = frame[op.getLogits()];
  int64_t topK = op.getRoutes().getType().getTopK();
  if (std::optional<uint64_t> forced = op.getForcedExpert()) {
    std::vector<int64_t> shape = {logits.size(0), logits.size(1), 1};
    at::Tensor selected =
        at::full(shape, static_cast<int64_t>(*forced),
                 logits.options().dtype(at::kLong).requires_grad(false));
    frame.record({logits, selected});
    return {selected, at::ones(shape, logits.options().requires_grad(false))};
  }
  at::Tensor probabilities = at::softmax(logits, -1);
  // at::topk leaves the order of equal values open; a stable sort lets the
  // lower index win.
  at::Tensor order =
      std::get<1>(at::sort(probabilities.detach(), /*stable=*/true, /*dim=*/-1,
                           /*descending=*/true));
  at::Tensor selected = order.narrow(-1, 0, topK);
  at::Tensor scores = probabilities.gather(-1, selected);
  if (op.getRenormalize() && topK > 1)
    scores = scores / scores.sum(-1, /*keepdim=*/true);
  frame.record({logits, selected});
  return {selected, scores};
}

Results evaluate(ExpertsOp op, Frame &frame) {
  const at::Tensor &input = frame[op.getInput()];
  at::Tensor scores = frame[op.getScores()].flatten(0, 1).unsqueeze(-1);
  at::Tensor rows = input.flatten(0, 1);
  int64_t topK = scores.size(1);
  // Route t * K + k goes to expert assigned[t * K + k].
  at::Tensor assigned = frame[op.getRoutes()].flatten();

  int64_t perExpert = weightsPerExpert(op.getForm());
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
  at::Tensor back = at::argsort(at::cat(routes));
  at::Tensor byToken = toPrecise(at::cat(outputs).index_select(0, back))
                           .unflatten(0, {-1, topK});
  at::Tensor weighted = byToken * scores;
  at::Tensor sum = weighted.select(1, 0);
  for (int64_t k = 1; k < topK; ++k)
    sum = sum + weighted.select(1, k);
  return {sum.to(input.scalar_type()).view(input.sizes())};
}

} // namespace polymoe
