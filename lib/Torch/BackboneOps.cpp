//===-- BackboneOps.cpp - embedding, norms, matrices and FFNs -------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Interpreter.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/clamp_max.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>

using namespace mlir;
using namespace mlir::moe;

namespace polymoe {

at::Tensor toPrecise(const at::Tensor &tensor) {
  return tensor.scalar_type() == at::kDouble ? tensor : tensor.to(at::kFloat);
}

Results evaluate(EmbeddingOp op, Frame &frame) {
  const at::Tensor &table = frame[op.getTable()];
  at::Tensor rows = at::embedding(table, frame[op.getTokens()]);
  double scale = op.getScale().convertToDouble();
  if (scale == 1.0)
    return {rows};
  at::Tensor rounded =
      at::scalar_tensor(scale, table.options().requires_grad(false));
  return {rows * rounded};
}

Results evaluate(RmsNormOp op, Frame &frame) {
  const at::Tensor &input = frame[op.getInput()];
  const at::Tensor &weight = frame[op.getWeight()];
  double offset = op.getOffset().convertToDouble();
  at::Tensor groups = toPrecise(input).unflatten(-1, {-1, weight.size(0)});
  at::Tensor meanSquare = groups.square().mean(-1, /*keepdim=*/true);
  at::Tensor normalised =
      groups * at::rsqrt(meanSquare + op.getEpsilon().convertToDouble());
  at::Tensor result =
      offset == 0.0
          ? normalised.to(input.scalar_type()) * weight
          : (normalised * (toPrecise(weight) + offset)).to(input.scalar_type());
  return {result.flatten(-2)};
}

Results evaluate(LayerNormOp op, Frame &frame) {
  const at::Tensor &input = frame[op.getInput()];
  at::Tensor x = toPrecise(input);
  at::Tensor centred = x - x.mean(-1, /*keepdim=*/true);
  at::Tensor variance = centred.square().mean(-1, /*keepdim=*/true);
  at::Tensor normalised =
      centred * at::rsqrt(variance + op.getEpsilon().convertToDouble());
  at::Tensor result = normalised * toPrecise(frame[op.getWeight()]);
  if (op.getBias())
    result = result + toPrecise(frame[op.getBias()]);
  return {result.to(input.scalar_type())};
}

Results evaluate(ConcatRowsOp op, Frame &frame) {
  std::vector<at::Tensor> inputs;
  for (Value input : op.getInputs())
    inputs.push_back(frame[input]);
  return {at::cat(inputs)};
}

Results evaluate(LinearOp op, Frame &frame) {
  return {at::linear(frame[op.getInput()], frame[op.getWeight()],
                     frame.optional(op.getBias()))};
}

Results evaluate(AddOp op, Frame &frame) {
  return {frame[op.getLhs()] + frame[op.getRhs()]};
}

Results evaluate(ScaleOp op, Frame &frame) {
  const at::Tensor &input = frame[op.getInput()];
  at::Tensor scaled = toPrecise(input) * op.getFactor().convertToDouble();
  return {scaled.to(input.scalar_type())};
}

at::Tensor softCap(const at::Tensor &tensor, double cap) {
  return cap * at::tanh(tensor / cap);
}

Results evaluate(SoftCapOp op, Frame &frame) {
  const at::Tensor &input = frame[op.getInput()];
  at::Tensor capped = softCap(toPrecise(input), op.getCap().convertToDouble());
  return {capped.to(input.scalar_type())};
}

/// `scalars`: those of the activation, [1] each.
static at::Tensor activate(const at::Tensor &x, ActivationKind kind,
                           ArrayRef<at::Tensor> scalars) {
  switch (kind) {
  case ActivationKind::Silu:
    return at::silu(x);
  case ActivationKind::Gelu:
    return at::gelu(x, "none");
  case ActivationKind::GeluTanh:
    return at::gelu(x, "tanh");
  case ActivationKind::Xielu: {
    at::Tensor p = at::softplus(toPrecise(scalars[0]));
    at::Tensor n = 0.5 + at::softplus(toPrecise(scalars[1]));
    at::Tensor negative = at::expm1(at::clamp_max(x, -1e-6)) - x;
    return at::where(x > 0, p * x * x, n * negative) + 0.5 * x;
  }
  }
  llvm_unreachable("unknown activation");
}

at::Tensor feedForward(const at::Tensor &rows, ArrayRef<at::Tensor> weights,
                       FfnForm form, ActivationKind activation) {
  at::ScalarType type = rows.scalar_type();
  ArrayRef<at::Tensor> scalars = weights.take_back(numScalars(activation));
  if (form == FfnForm::Gated) {
    at::Tensor gate = toPrecise(at::linear(rows, weights[0]));
    at::Tensor up = toPrecise(at::linear(rows, weights[1]));
    return at::linear((activate(gate, activation, scalars) * up).to(type),
                      weights[2]);
  }
  bool biased = weights[1].dim() == 1;
  auto project = [&](const at::Tensor &from, size_t matrix) {
    return at::linear(from, weights[matrix],
                      biased ? weights[matrix + 1] : at::Tensor());
  };
  at::Tensor up = toPrecise(project(rows, 0));
  return project(activate(up, activation, scalars).to(type), biased ? 2 : 1);
}

Results evaluate(FfnOp op, Frame &frame) {
  SmallVector<at::Tensor> weights;
  for (Value weight : op.getWeights())
    weights.push_back(frame[weight]);
  return {feedForward(frame[op.getInput()], weights, op.getForm(),
                      op.getActivation())};
}

} // namespace polymoe
