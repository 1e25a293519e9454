//===-- GradientOps.td - what differentiation adds -*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_GRADIENTOPS
#define MOE_DIALECT_GRADIENTOPS

include "moe/Dialect/RoutingOps.td"

// Gradients of activations have the type of the activation; gradients of
// parameters are f32 (f64 in a f64 model), so that they can be accumulated.

class MoE_GradientOp<string mnemonic, list<Trait> traits = []>
    : MoE_Op<mnemonic, !listconcat([Pure], traits)> {
  let assemblyFormat = [{
    operands attr-dict `:` functional-type(operands, results)
  }];
}

def MoE_EmbeddingGradOp : MoE_GradientOp<"embedding_grad"> {
  let summary = "gradient of moe.embedding with respect to its table";
  let description = [{
    `dtable[v,:] = scale * sum over (b,s) with tokens[b,s] = v of dy[b,s,:]`,
    in token order.
  }];
  let arguments = (ins MoE_Ids:$tokens, MoE_Activation:$dy,
                       DefaultValuedAttr<F64Attr, "1.0">:$scale);
  let results = (outs MoE_Matrix:$dtable);
}

def MoE_RmsNormGradOp : MoE_GradientOp<"rms_norm_grad"> {
  let summary = "gradient of moe.rms_norm with respect to its input";
  let description = [{
    With `r = 1 / sqrt(mean(x^2) + epsilon)` and `g = dy * (offset + weight)`:
    `dx = r * (g - x * r^2 * mean(g * x))` for every group.
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Activation:$input,
                       MoE_Vector:$weight, F64Attr:$epsilon,
                       DefaultValuedAttr<F64Attr, "0.0">:$offset);
  let results = (outs MoE_Activation:$dx);
}

def MoE_RmsNormWeightGradOp : MoE_GradientOp<"rms_norm_weight_grad"> {
  let summary = "gradient of moe.rms_norm with respect to its weight";
  let description = [{
    `dweight = sum over groups of dy * x * r`.
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Activation:$input,
                       F64Attr:$epsilon);
  let results = (outs MoE_Vector:$dweight);
}

def MoE_LayerNormGradOp : MoE_GradientOp<"layer_norm_grad"> {
  let summary = "gradient of moe.layer_norm with respect to its input";
  let description = [{
    With `n` the normalised row, `r = 1 / sqrt(var + epsilon)`, `g = dy *
    weight`: `dx = r * (g - mean(g) - n * mean(g * n))`.
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Activation:$input,
                       MoE_Vector:$weight, F64Attr:$epsilon);
  let results = (outs MoE_Activation:$dx);
}

def MoE_LayerNormWeightGradOp : MoE_GradientOp<"layer_norm_weight_grad"> {
  let summary = "gradient of moe.layer_norm with respect to its weight";
  let description = [{
    `dweight = sum over rows of dy * n`, `n` the normalised row. The gradient
    of the bias is `moe.column_sum`.
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Activation:$input,
                       F64Attr:$epsilon);
  let results = (outs MoE_Vector:$dweight);
}

def MoE_LinearInputGradOp : MoE_GradientOp<"linear_input_grad"> {
  let summary = "gradient of moe.linear or moe.router with respect to the input";
  let description = [{
    `dx[t,k] = sum_n dy[t,n] w[n,k]`, over `n` in ascending order.
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Matrix:$weight);
  let results = (outs MoE_Activation:$dx);
}

def MoE_LinearWeightGradOp : MoE_GradientOp<"linear_weight_grad"> {
  let summary = "gradient of moe.linear or moe.router with respect to the weight";
  let description = [{
    `dw[n,k] = sum_t dy[t,n] x[t,k]`, over tokens in ascending order.
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Activation:$input);
  let results = (outs MoE_Matrix:$dweight);
}

def MoE_ColumnSumOp : MoE_GradientOp<"column_sum"> {
  let summary = "sums the rows of a tensor, the gradient of a bias";
  let description = [{
    `y[n] = sum_t dy[t,n]`, in a fixed order.
  }];
  let arguments = (ins MoE_Activation:$dy);
  let results = (outs MoE_Vector:$result);
}

def MoE_AttentionGradOp : MoE_GradientOp<"attention_grad"> {
  let summary = "gradient of moe.attention";
  let description = [{
    With `p` the probabilities, recomputed from `lse`, and `delta_i = out_i .
    dout_i` per head: `dv_j = sum_i p_ij dout_i`, `ds_ij = p_ij (dout_i . v_j -
    delta_i)`, `dq_i = scale sum_j ds_ij k_j`, `dk_j = scale sum_i ds_ij q_i`,
    sums over the query heads of a group in order of heads. C = S.
  }];
  let arguments = (ins MoE_Activation:$dout, MoE_Activation:$query,
                       MoE_Activation:$key, MoE_Activation:$value,
                       MoE_Activation:$out, MoE_Precise:$lse, MoE_Ids:$slots,
                       Optional<MoE_Ids>:$segments, I64Attr:$heads,
                       I64Attr:$kv_heads, F64Attr:$scale,
                       OptionalAttr<I64Attr>:$window, UnitAttr:$alibi);
  let results = (outs MoE_Activation:$dquery, MoE_Activation:$dkey,
                      MoE_Activation:$dvalue);
}

def MoE_ExpertsGradOp : MoE_GradientOp<"experts_grad",
    [AttrSizedOperandSegments, AttrSizedResultSegments]> {
  let summary = "gradient of moe.experts and of moe.ffn";
  let description = [{
    Without `scores` and `routes`: of `moe.ffn`. `wanted[i]` says whether
    weight `i` needs a gradient; there is one `dweights` for each that does,
    and rows routed to an expert whose weights need none cost no weight
    gradient. The backward reads the input, the pre-activation, the scores and
    the routes, nothing else of the forward.

    Constraints:
    - (C1) one `wanted` for each weight, one `dweights` for each wanted.
    - (C2) `scores` and `routes` come together, `dscores` only with them.
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Activation:$input,
                       Optional<MoE_Precise>:$scores,
                       Optional<MoE_RoutesType>:$routes,
                       MoE_Rows:$preactivation,
                       Variadic<MoE_FloatTensor>:$weights,
                       MoE_FfnFormAttr:$form, MoE_ActivationAttr:$activation,
                       DenseBoolArrayAttr:$wanted);
  let results = (outs Optional<MoE_Activation>:$dx,
                      Optional<MoE_Precise>:$dscores,
                      Variadic<MoE_FloatTensor>:$dweights);
  let hasVerifier = 1;
}

def MoE_RouteGradOp : MoE_GradientOp<"route_grad"> {
  let summary = "gradient of the scores of moe.route with respect to the logits";
  let description = [{
    With `p = softmax(logits)`, `q` the selected of them and `Z` their sum:
    renormalised, `dp_k = (ds_k - sum_j ds_j q_j / Z) / Z`, otherwise `dp_k =
    ds_k`; zero for experts not selected; then `dlogits = p * (dp - sum(dp *
    p))`.
  }];
  let arguments = (ins MoE_Precise:$dscores, MoE_Precise:$logits,
                       MoE_RoutesType:$routes, UnitAttr:$renormalize);
  let results = (outs MoE_Precise:$dlogits);
}

def MoE_CrossEntropyGradOp : MoE_GradientOp<"cross_entropy_grad"> {
  let summary = "gradient of moe.cross_entropy";
  let description = [{
    `dlogits = dloss * weight * (softmax(logits) - onehot(label))`, 0 where the
    label is negative.
  }];
  let arguments = (ins MoE_Scalar:$dloss, MoE_Activation:$logits,
                       MoE_Ids:$labels, MoE_Scalar:$weight);
  let results = (outs MoE_Activation:$dlogits);
}

def MoE_BalanceLossGradOp : MoE_GradientOp<"balance_loss_grad"> {
  let summary = "gradient of moe.balance_loss";
  let description = [{
    `dp_e = dloss * weight * f_e / T` (times K in the reference form), then
    through the softmax.
  }];
  let arguments = (ins MoE_Scalar:$dloss, MoE_Precise:$logits,
                       MoE_RoutesType:$routes, MoE_Scalar:$weight,
                       MoE_LossFormAttr:$form);
  let results = (outs MoE_Precise:$dlogits);
}

def MoE_LanguagePriorLossGradOp
    : MoE_GradientOp<"language_prior_loss_grad"> {
  let summary = "gradient of moe.language_prior_loss";
  let description = [{
    For old tokens, `paper`: `dlogits = dloss * weight * (p - onehot(0))`;
    `reference`: `dp = dloss * weight * (softmax(p) - onehot(0))`, then through
    the softmax. 0 for others.
  }];
  let arguments = (ins MoE_Scalar:$dloss, MoE_Precise:$logits, MoE_Ids:$old,
                       MoE_Scalar:$weight, MoE_LossFormAttr:$form);
  let results = (outs MoE_Precise:$dlogits);
}

#endif // MOE_DIALECT_GRADIENTOPS
