//===-- AttentionOps.cpp - rotary embedding and attention -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Interpreter.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/softmax.h>
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
  double scale = op.getScale().convertToDouble();
  return {at::cos(angles) * scale, at::sin(angles) * scale};
}

Results evaluate(RotaryOp op, Frame &frame) {
  const at::Tensor &input = frame[op.getInput()];
  // The table has one row per token: the same for all of its heads.
  auto table = [&](Value value) {
    return toPrecise(frame[value].to(input.scalar_type())).unsqueeze(2);
  };
  at::Tensor cos = table(op.getCos());
  at::Tensor sin = table(op.getSin());
  if (op.getInverse())
    sin = -sin;
  int64_t half = cos.size(-1);
  at::Tensor heads = toPrecise(input).unflatten(-1, {-1, 2 * half});
  at::Tensor first = heads.narrow(-1, 0, half);
  at::Tensor second = heads.narrow(-1, half, half);
  at::Tensor rotated =
      at::cat({first * cos - second * sin, second * cos + first * sin}, -1);
  return {rotated.flatten(-2).to(input.scalar_type())};
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
