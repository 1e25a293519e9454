//===-- AttentionOps.cpp - rotary embedding and attention -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Interpreter.h"

#include "moe/Runtime/Error.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <limits>

using namespace mlir;
using namespace mlir::moe;

namespace polymoe {

Results evaluate(RotaryTableOp op, Frame &frame) {
  bool isDouble = getElementTypeOrSelf(op.getCos()).isF64();
  at::ScalarType type = isDouble ? at::kDouble : at::kFloat;
  at::Tensor frequencies =
      at::tensor(at::ArrayRef<float>(op.getFrequencies().data(),
                                     op.getFrequencies().size()))
          .to(type);
  at::Tensor angles =
      frame[op.getPositions()].to(type).unsqueeze(-1) * frequencies;
  // Generation without a cache scores sequences of any length.
  if (auto longest = op.getMaxLength();
      longest && angles.size(1) > static_cast<int64_t>(*longest))
    fail("moe.rotary_table: expected sequences of at most ", *longest,
         " tokens, for which its frequencies are, but got ", angles.size(1),
         "; moe-translate --import-hf --context=N makes a model for longer "
         "ones");
  double scale = op.getScale().convertToDouble();
  return {at::cos(angles) * scale, at::sin(angles) * scale};
}

Results evaluate(RotaryOp op, Frame &frame) {
  const at::Tensor &input = frame[op.getInput()];
  // The table has one row per token: the same for all of its heads.
  auto table = [&](Value value) {
    return toPrecise(frame[value].to(input.scalar_type())).unsqueeze(2);
  };
  int64_t width = op.headWidth(), turning = op.rotatedWidth();
  // A pair is two columns of [w, 2] if interleaved, else two rows of [2, w].
  int64_t pairs = op.getInterleaved() ? -1 : -2;
  at::Tensor cos = table(op.getCos());
  at::Tensor sin = table(op.getSin());
  if (op.getInverse())
    sin = -sin;
  at::Tensor heads = toPrecise(input).unflatten(-1, {-1, width});
  at::Tensor split = heads.narrow(-1, 0, turning)
                         .unflatten(-1, pairs == -1 ? at::IntArrayRef({-1, 2})
                                                    : at::IntArrayRef({2, -1}));
  at::Tensor first = split.select(pairs, 0), second = split.select(pairs, 1);
  at::Tensor rotated =
      at::stack({first * cos - second * sin, second * cos + first * sin}, pairs)
          .flatten(-2);
  at::Tensor rest = heads.narrow(-1, turning, width - turning);
  return {at::cat({rotated, rest}, -1).flatten(-2).to(input.scalar_type())};
}

/// The ALiBi slope of every head.
static std::vector<double> alibiSlopes(int64_t heads) {
  int64_t n = 1;
  while (2 * n <= heads)
    n *= 2;
  std::vector<double> slopes;
  slopes.reserve(heads);
  for (int64_t h = 0; h < heads; ++h)
    slopes.push_back(h < n ? std::exp2(-8.0 * (h + 1) / n)
                           : std::exp2(-4.0 * (2 * (h - n) + 1) / n));
  return slopes;
}

Results evaluate(AttentionOp op, Frame &frame) {
  int64_t heads = op.getHeads(), kvHeads = op.getKvHeads();
  const at::Tensor &query = frame[op.getQuery()];
  // [B, kvHeads, heads of a group, tokens, d]
  at::Tensor q = toPrecise(query)
                     .unflatten(-1, {kvHeads, heads / kvHeads, -1})
                     .permute({0, 2, 3, 1, 4});
  auto grouped = [&](Value value) {
    return toPrecise(frame[value])
        .unflatten(-1, {kvHeads, 1, -1})
        .permute({0, 2, 3, 1, 4});
  };
  at::Tensor k = grouped(op.getKey());
  at::Tensor v = grouped(op.getValue());

  const at::Tensor &slots = frame[op.getSlots()];
  // distance[b, i, j]: how far key j lies behind query i.
  at::Tensor distance =
      slots.unsqueeze(-1) - at::arange(k.size(3), slots.options());
  at::Tensor visible = distance >= 0;
  if (std::optional<uint64_t> window = op.getWindow())
    visible = visible & (distance < static_cast<int64_t>(*window));
  if (op.getSegments()) {
    const at::Tensor &segments = frame[op.getSegments()];
    visible = visible & (segments.unsqueeze(-1) == segments.unsqueeze(-2));
  }

  at::Tensor scores =
      at::matmul(q, k.transpose(-1, -2)) * op.getScale().convertToDouble();
  if (std::optional<llvm::APFloat> cap = op.getSoftcap())
    scores = softCap(scores, cap->convertToDouble());
  auto perHead = [](const at::Tensor &t) {
    return t.unsqueeze(1).unsqueeze(1);
  };
  if (op.getAlibi()) {
    at::Tensor slopes = at::tensor(alibiSlopes(heads))
                            .to(scores.scalar_type())
                            .view({kvHeads, heads / kvHeads, 1, 1});
    scores = scores - slopes * perHead(distance);
  }
  scores = scores.masked_fill(perHead(visible.logical_not()),
                              -std::numeric_limits<double>::infinity());
  at::Tensor out = at::matmul(at::softmax(scores, -1), v);
  return {out.permute({0, 3, 1, 2, 4}).flatten(2).to(query.scalar_type())};
}

} // namespace polymoe
