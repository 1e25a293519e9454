//===-- FusedOps.td - kernels as ops -*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_FUSEDOPS
#define MOE_DIALECT_FUSEDOPS

include "moe/Dialect/RoutingOps.td"

// What moe-fuse-routed-matmuls and moe-fuse-loss make: one op, one kernel (or
// a short fixed series). All shapes are static. "Rows" are [R, width] grouped
// by expert; without `routes` there is one expert, and row t is token t.

class MoE_FusedOp<string mnemonic, list<Trait> traits = []>
    : MoE_Op<mnemonic, !listconcat([Pure], traits)> {
  let assemblyFormat = [{
    operands attr-dict `:` functional-type(operands, results)
  }];
}

def MoE_RoutedUpOp : MoE_FusedOp<"routed_up", [AttrSizedOperandSegments]> {
  let summary = "grouped matmul into the hidden width, with the activation";
  let description = [{
    For row `r` of expert `e` and token `t`: `gated`: `z[r] = (gate_e x[t],
    up_e x[t])`, `hidden[r] = act(z1) * z2`; `plain`: `z[r] = up_e x[t] + b_e`,
    `hidden[r] = act(z[r])`. Rows of `x` are gathered by index while packed, the
    activation is the epilogue. `weights`: gate, up of each expert; or up, bias
    of each.
  }];
  let arguments = (ins MoE_Activation:$input, Optional<MoE_RoutesType>:$routes,
                       Variadic<MoE_FloatTensor>:$weights,
                       MoE_FfnFormAttr:$form, MoE_ActivationAttr:$activation);
  let results = (outs MoE_Rows:$hidden, Optional<MoE_Rows>:$preactivation);
}

def MoE_RoutedDownOp : MoE_FusedOp<"routed_down", [AttrSizedOperandSegments]> {
  let summary = "grouped matmul back to the model width";
  let description = [{
    `y[r] = down_e hidden[r] (+ c_e)`. `weights`: down of each expert; or down,
    bias of each. The result is rows, or [B,S,D] without routes.
  }];
  let arguments = (ins MoE_Rows:$hidden, Optional<MoE_RoutesType>:$routes,
                       Variadic<MoE_FloatTensor>:$weights,
                       MoE_FfnFormAttr:$form);
  let results = (outs MoE_FloatTensor:$result);
}

def MoE_CombineOp : MoE_FusedOp<"combine"> {
  let summary = "gathers the rows of every token and sums them";
  let description = [{
    `y[t] = sum_k scores[t,k] * rows[inverse(t,k)]`, over `k` in order, in f32
    (f64), rounded once; without `scores` the plain sum.
  }];
  let arguments = (ins MoE_Rows:$rows, MoE_RoutesType:$routes,
                       Optional<MoE_Precise>:$scores);
  let results = (outs MoE_Activation:$result);
}

def MoE_RoutedDownGradOp : MoE_FusedOp<"routed_down_grad",
    [AttrSizedOperandSegments, AttrSizedResultSegments]> {
  let summary = "gradient through down projection, score and activation at once";
  let description = [{
    With `h = down_e^T dy[t]` (never stored): `dz[r]` = gradient of the
    pre-activation under `score * h`, `scaled[r] = score * act(z[r])`, and
    `dscores[t,k] = h . act(z[r]) (+ dy[t] . c_e)`; with `form` gated `act(z)`
    is `act(z1) * z2`. Without routes the score is 1 and there are no `dscores`.
    `scaled` is only there where a weight gradient reads it. `weights`: down of
    each expert; or down, bias of each.
  }];
  let arguments = (ins MoE_Activation:$dy, Optional<MoE_Precise>:$scores,
                       Optional<MoE_RoutesType>:$routes,
                       MoE_Rows:$preactivation,
                       Variadic<MoE_FloatTensor>:$weights,
                       MoE_FfnFormAttr:$form, MoE_ActivationAttr:$activation);
  let results = (outs MoE_Rows:$dz, Optional<MoE_Rows>:$scaled,
                      Optional<MoE_Precise>:$dscores);
}

def MoE_RoutedInputGradOp : MoE_FusedOp<"routed_input_grad",
    [AttrSizedOperandSegments]> {
  let summary = "gradient of the up projection with respect to its rows";
  let description = [{
    `dx[r] = gate_e^T dz1[r] + up_e^T dz2[r]`, or `up_e^T dz[r]`, one chain over
    the hidden width. `weights`: gate, up of each expert; or up of each.
  }];
  let arguments = (ins MoE_Rows:$dz, Optional<MoE_RoutesType>:$routes,
                       Variadic<MoE_FloatTensor>:$weights,
                       MoE_FfnFormAttr:$form);
  let results = (outs MoE_FloatTensor:$result);
}

def MoE_RoutedWeightGradOp : MoE_FusedOp<"routed_weight_grad"> {
  let summary = "weight gradients of some experts, over their rows only";
  let description = [{
    For every `e` in `experts`: `dw_e[m,n] = sum over rows r of e of
    lhs[r, offset + m] * rhs[r, n]`, in row order. An operand [B,S,width] is in
    token order and read through the index; one [R,width] is in row order. An
    expert without rows gets zeros; experts not named cost nothing.
  }];
  let arguments = (ins MoE_FloatTensor:$lhs, MoE_FloatTensor:$rhs,
                       Optional<MoE_RoutesType>:$routes,
                       DenseI64ArrayAttr:$experts,
                       DefaultValuedAttr<I64Attr, "0">:$offset);
  let results = (outs Variadic<MoE_Matrix>:$dweights);
}

def MoE_RoutedBiasGradOp : MoE_FusedOp<"routed_bias_grad",
    [AttrSizedOperandSegments]> {
  let summary = "bias gradients of some experts, over their rows only";
  let description = [{
    For every `e` in `experts`: `db_e[n] = sum over rows r of e of score[r] *
    dy[r, n]` in row order, without `scores` the plain sum. An operand
    [B,S,width] is read through the index.
  }];
  let arguments = (ins MoE_FloatTensor:$dy, Optional<MoE_RoutesType>:$routes,
                       Optional<MoE_Precise>:$scores,
                       DenseI64ArrayAttr:$experts);
  let results = (outs Variadic<MoE_Vector>:$dbiases);
}

def MoE_LinearCrossEntropyOp : MoE_FusedOp<"linear_cross_entropy",
    [AttrSizedResultSegments]> {
  let summary = "output projection, loss and their gradients, in chunks of tokens";
  let description = [{
    `logits = input weight^T`, the loss of `moe.cross_entropy`, and the
    gradients under `dloss = 1`: `dx` and, where wanted, `dweight`. At most
    `chunk` rows of logits exist at a time.
  }];
  let arguments = (ins MoE_Activation:$input, MoE_Matrix:$weight,
                       MoE_Ids:$labels, MoE_Scalar:$loss_weight,
                       I64Attr:$chunk);
  let results = (outs MoE_Scalar:$loss, Optional<MoE_Activation>:$dx,
                      Optional<MoE_Matrix>:$dweight);
}

#endif // MOE_DIALECT_FUSEDOPS
