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

class MoE_GradientOp<string mnemonic, list<Trait> traits = [],
                     string last = "Fused">
    : MoE_TensorOp<mnemonic,
                   !listconcat([Pure, MoE_Levels<"Step", last>], traits)>;

def MoE_EmbeddingGradOp : MoE_GradientOp<"embedding_grad"> {
  let summary = "gradient of moe.embedding with respect to its table";
  let description = [{
    `dtable[v,:] = scale * sum over (b,s) with tokens[b,s] = v of dy[b,s,:]`,
    in token order.

    Constraints:
    - (C1) `tokens` [B,S], `dy` [B,S,D], `dtable` [V,D].

    Example:
    ```mlir
    %dt = moe.embedding_grad %tokens, %dy {scale = 1.0} : (tensor<2x8xi32>, tensor<2x8x64xf32>) -> tensor<512x64xf32>
    ```
  }];
  let arguments = (ins MoE_Ids:$tokens, MoE_Activation:$dy,
                       DefaultValuedAttr<F64Attr, "1.0">:$scale);
  let results = (outs MoE_Matrix:$dtable);
}

def MoE_RmsNormGradOp : MoE_GradientOp<"rms_norm_grad", [AllTypesMatch<["dy", "input", "dx"]>]> {
  let summary = "gradient of moe.rms_norm with respect to its input";
  let description = [{
    With `r = 1 / sqrt(mean(x^2) + epsilon)` and `g = dy * (offset + weight)`:
    `dx = r * (g - x * r^2 * mean(g * x))` for every group.

    Constraints:
    - (C1) `dy`, `input` and `dx` have one type.
    - (C2) the last dimension of `input` is a multiple of the length of
      `weight`.
    - (C3) `epsilon` is positive.

    Example:
    ```mlir
    %dx = moe.rms_norm_grad %dy, %x, %w {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<64xf32>) -> tensor<2x8x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Activation:$input,
                       MoE_Vector:$weight, MoE_PositiveAttr:$epsilon,
                       DefaultValuedAttr<F64Attr, "0.0">:$offset);
  let results = (outs MoE_Activation:$dx);
}

def MoE_RmsNormWeightGradOp
    : MoE_GradientOp<"rms_norm_weight_grad", [AllTypesMatch<["dy", "input"]>]> {
  let summary = "gradient of moe.rms_norm with respect to its weight";
  let description = [{
    `dweight = sum over groups of dy * x * r`.

    Constraints:
    - (C1) `dy` and `input` have one type.
    - (C2) the last dimension of `input` is a multiple of the length of
      `dweight`.
    - (C3) `epsilon` is positive.

    Example:
    ```mlir
    %dw = moe.rms_norm_weight_grad %dy, %x {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>) -> tensor<64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Activation:$input,
                       MoE_PositiveAttr:$epsilon);
  let results = (outs MoE_Vector:$dweight);
}

def MoE_LayerNormGradOp
    : MoE_GradientOp<"layer_norm_grad", [AllTypesMatch<["dy", "input", "dx"]>]> {
  let summary = "gradient of moe.layer_norm with respect to its input";
  let description = [{
    With `n` the normalised row, `r = 1 / sqrt(var + epsilon)`, `g = dy *
    weight`: `dx = r * (g - mean(g) - n * mean(g * n))`.

    Constraints:
    - (C1) `dy`, `input` and `dx` have one type.
    - (C2) `weight` has the length of the last dimension.
    - (C3) `epsilon` is positive.

    Example:
    ```mlir
    %dx = moe.layer_norm_grad %dy, %x, %w {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<64xf32>) -> tensor<2x8x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Activation:$input,
                       MoE_Vector:$weight, MoE_PositiveAttr:$epsilon);
  let results = (outs MoE_Activation:$dx);
}

def MoE_LayerNormWeightGradOp
    : MoE_GradientOp<"layer_norm_weight_grad", [AllTypesMatch<["dy", "input"]>]> {
  let summary = "gradient of moe.layer_norm with respect to its weight";
  let description = [{
    `dweight = sum over rows of dy * n`, `n` the normalised row. The gradient
    of the bias is `moe.column_sum`.

    Constraints:
    - (C1) `dy` and `input` have one type.
    - (C2) `dweight` has the length of the last dimension.
    - (C3) `epsilon` is positive.

    Example:
    ```mlir
    %dw = moe.layer_norm_weight_grad %dy, %x {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>) -> tensor<64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Activation:$input,
                       MoE_PositiveAttr:$epsilon);
  let results = (outs MoE_Vector:$dweight);
}

def MoE_LinearInputGradOp : MoE_GradientOp<"linear_input_grad", [MoE_Products]> {
  let summary = "gradient of moe.linear or moe.router with respect to the input";
  let description = [{
    `dx[t,k] = sum_n dy[t,n] w[n,k]`, over `n` in the order of `moe.linear`.

    Constraints:
    - (C1) `dy` [B,S,n], `weight` [n,k], `dx` [B,S,k].

    Example:
    ```mlir
    %dx = moe.linear_input_grad %dy, %w : (tensor<2x8x96xf32>, tensor<96x64xf32>) -> tensor<2x8x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Matrix:$weight);
  let results = (outs MoE_Activation:$dx);
}

def MoE_LinearWeightGradOp : MoE_GradientOp<"linear_weight_grad", [MoE_Products]> {
  let summary = "gradient of moe.linear or moe.router with respect to the weight";
  let description = [{
    `dw[n,k] = sum_t dy[t,n] x[t,k]`, over tokens in ascending order.

    Constraints:
    - (C1) `dy` [B,S,n], `input` [B,S,k], `dweight` [n,k].

    Example:
    ```mlir
    %dw = moe.linear_weight_grad %dy, %x : (tensor<2x8x96xf32>, tensor<2x8x64xf32>) -> tensor<96x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$dy, MoE_Activation:$input);
  let results = (outs MoE_Matrix:$dweight);
}

def MoE_TakeRowsOp : MoE_GradientOp<"take_rows"> {
  let summary = "some rows of a matrix, the gradient of what moe.concat_rows joins";
  let description = [{
    `y[i,:] = dy[first + i,:]`.

    Constraints:
    - (C1) `dy` [N,D], result [n,D], of one element type.
    - (C2) rows `first` to `first + n` are in [0, N].

    Example:
    ```mlir
    %y = moe.take_rows %dy {first = 6 : i64} : (tensor<7x64xf32>) -> tensor<1x64xf32>
    ```
  }];
  let arguments = (ins MoE_Matrix:$dy, I64Attr:$first);
  let results = (outs MoE_Matrix:$result);
}

def MoE_ColumnSumOp : MoE_GradientOp<"column_sum"> {
  let summary = "sums the rows of a tensor, the gradient of a bias";
  let description = [{
    `y[n] = sum_t dy[t,n]`, in a fixed order.

    Constraints:
    - (C1) `dy` [B,S,n], result [n].

    Example:
    ```mlir
    %db = moe.column_sum %dy : (tensor<2x8x96xf32>) -> tensor<96xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$dy);
  let results = (outs MoE_Vector:$result);
}

def MoE_SoftCapGradOp
    : MoE_GradientOp<"soft_cap_grad", [SameOperandsAndResultType]> {
  let summary = "gradient of moe.soft_cap";
  let description = [{
    `dx = dy * (1 - tanh(x / cap)^2)`.

    Constraints:
    - (C1) `dy`, `input` and `dx` have one type.
    - (C2) `cap` is positive.

    Example:
    ```mlir
    %dx = moe.soft_cap_grad %dy, %x {cap = 30.0} : tensor<2x8x512xf32>
    ```
  }];
  let arguments = (ins MoE_FloatTensor:$dy, MoE_FloatTensor:$input,
                       MoE_PositiveAttr:$cap);
  let results = (outs MoE_FloatTensor:$dx);
  let assemblyFormat = "operands attr-dict `:` type($dx)";
  let hasVerifier = 0;
}

def MoE_AttentionGradOp : MoE_GradientOp<"attention_grad",
    [MoE_Products, AllTypesMatch<["query", "out", "dout", "dquery"]>,
     AllTypesMatch<["key", "value", "dkey", "dvalue"]>]> {
  let summary = "gradient of moe.attention";
  let description = [{
    With `p` the probabilities, recomputed from `lse`, and `delta_i = out_i .
    dout_i` per head: `dv_j = sum_i p_ij dout_i`, `ds_ij = p_ij (dout_i . v_j -
    delta_i)`, `dq_i = scale sum_j ds_ij k_j`, `dk_j = scale sum_i ds_ij q_i`,
    sums over the query heads of a group in order of heads. If there is a
    `softcap`, `ds_ij` has the factor `1 - (cap(s_ij) / softcap)^2`, with `s_ij`
    the score that it caps. C = S.

    Constraints:
    - (C1) `dout`, `query`, `out` and `dquery` have one type, [B,S,heads*d];
      `key`, `value`, `dkey` and `dvalue` have one type, [B,S,kv_heads*d].
    - (C2) `heads` is a multiple of `kv_heads`.
    - (C3) `lse` is [B,heads,S].
    - (C4) `softcap`, where present, is positive.

    Example:
    ```mlir
    %dq, %dk, %dv = moe.attention_grad %do, %q, %k, %v, %o, %lse, %slots, %segments {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25}
      : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x8x64xf32>, tensor<2x4x8xf32>, tensor<2x8xi32>, tensor<2x8xi32>) -> (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>)
    ```
  }];
  let arguments = (ins MoE_Activation:$dout, MoE_Activation:$query,
                       MoE_Activation:$key, MoE_Activation:$value,
                       MoE_Activation:$out, MoE_Precise:$lse, MoE_Ids:$slots,
                       Optional<MoE_Ids>:$segments, I64Attr:$heads,
                       I64Attr:$kv_heads, F64Attr:$scale,
                       OptionalAttr<I64Attr>:$window, UnitAttr:$alibi,
                       OptionalAttr<MoE_PositiveAttr>:$softcap);
  let results = (outs MoE_Activation:$dquery, MoE_Activation:$dkey,
                      MoE_Activation:$dvalue);
}

def MoE_ExpertsGradOp : MoE_GradientOp<"experts_grad",
    [MoE_Products, AttrSizedOperandSegments, AttrSizedResultSegments,
     AllTypesMatch<["dy", "input"]>], /*last=*/"Step"> {
  let summary = "gradient of moe.experts and of moe.ffn";
  let description = [{
    Without `scores` and `routes` it is the gradient of `moe.ffn`. `wanted[i]` says whether
    weight `i` needs a gradient; there is one `dweights` for each that does,
    and rows of an expert whose weights need none cost no weight gradient. Of
    the forward the op reads the input, the pre-activation, the scores and the
    routes, and nothing else.

    Constraints:
    - (C1) there is one `wanted` for each weight, and one `dweights` for each
      wanted.
    - (C2) `scores` and `routes` come together, `dscores` only with them.
    - (C3) `dy`, `input` and `dx` have one type, and `routes` is for its tokens.

    Example:
    ```mlir
    %dx, %ds, %dg1, %du1, %dd1 = moe.experts_grad %dy, %x scores(%s) routes(%r) preactivation(%z) weights(%g0, %u0, %d0, %g1, %u1, %d1) {form = #moe.ffn<gated>, activation = #moe.activation<silu>, wanted = array<i1: false, false, false, true, true, true>}
      : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<2x8x2xf32>, !moe.routes<16x2, 2>, tensor<32x192xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>)
      -> dx(tensor<2x8x64xf32>) dscores(tensor<2x8x2xf32>) dweights(tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>)
    ```
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
  let assemblyFormat = [{
    $dy `,` $input (`scores` `(` $scores^ `)`)? (`routes` `(` $routes^ `)`)?
    `preactivation` `(` $preactivation `)` `weights` `(` $weights `)` attr-dict
    `:` `(` type(operands) `)` `->`
    (`dx` `(` type($dx)^ `)`)? (`dscores` `(` type($dscores)^ `)`)?
    (`dweights` `(` type($dweights)^ `)`)?
  }];
}

def MoE_RouteGradOp : MoE_GradientOp<"route_grad", [AllTypesMatch<["logits", "dlogits"]>]> {
  let summary = "gradient of the scores of moe.route with respect to the logits";
  let description = [{
    With `p = softmax(logits)`, `q` the selected of them and `Z` their sum:
    renormalised, `dp_k = (ds_k - sum_j ds_j q_j / Z) / Z`, otherwise `dp_k =
    ds_k`; zero for experts not selected; then `dlogits = p * (dp - sum(dp *
    p))`. `dlogits` is 0 for tokens that `gate` calls old, whose scores are
    constants.

    Constraints:
    - (C1) `dscores` is [B,S,K] and `logits` and `dlogits` have one type,
      [B,S,E], with the E and K of `routes`, which is for B*S tokens.
    - (C2) `gate` is [B,S,2].

    Example:
    ```mlir
    %dl = moe.route_grad %ds, %l, %r {renormalize} : (tensor<2x8x2xf32>, tensor<2x8x6xf32>, !moe.routes<16x6, 2>) -> tensor<2x8x6xf32>
    ```
  }];
  let arguments = (ins MoE_Precise:$dscores, MoE_Precise:$logits,
                       MoE_RoutesType:$routes, Optional<MoE_Precise>:$gate,
                       UnitAttr:$renormalize);
  let results = (outs MoE_Precise:$dlogits);
}

def MoE_PoolGradOp : MoE_GradientOp<"pool_grad", [SameOperandsAndResultType]> {
  let summary = "gradient of moe.pool without slots";
  let description = [{
    `causal_mean`: `dx[b,j] = sum over s >= j of dy[b,s] / (s + 1)`, from the
    last token to the first; `sequence_sum`: `dx[b,j] = sum over all s of
    dy[b,s]`.

    Constraints:
    - (C1) `dy` and `dx` have one type.

    Example:
    ```mlir
    %dx = moe.pool_grad %dy {kind = #moe.pool<causal_mean>} : (tensor<2x8x2xf32>) -> tensor<2x8x2xf32>
    ```
  }];
  let arguments = (ins MoE_Precise:$dy, MoE_PoolAttr:$kind);
  let results = (outs MoE_Precise:$dx);
  let hasVerifier = 0;
}

def MoE_CrossEntropyGradOp
    : MoE_GradientOp<"cross_entropy_grad", [AllTypesMatch<["logits", "dlogits"]>]> {
  let summary = "gradient of moe.cross_entropy";
  let description = [{
    `dlogits = dloss * weight * (softmax(logits) - onehot(label))`, 0 where the
    label is negative.

    Constraints:
    - (C1) `logits` and `dlogits` have one type, [B,S,V], and `labels` is [B,S].

    Example:
    ```mlir
    %dl = moe.cross_entropy_grad %dloss, %l, %labels, %weight : (tensor<f32>, tensor<2x8x512xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<2x8x512xf32>
    ```
  }];
  let arguments = (ins MoE_Scalar:$dloss, MoE_Activation:$logits,
                       MoE_Ids:$labels, MoE_Scalar:$weight);
  let results = (outs MoE_Activation:$dlogits);
}

def MoE_BalanceLossGradOp
    : MoE_GradientOp<"balance_loss_grad", [AllTypesMatch<["logits", "dlogits"]>]> {
  let summary = "gradient of moe.balance_loss";
  let description = [{
    `dp_e = dloss * weight * f_e / T` (times K in the reference form), then
    through the softmax.

    Constraints:
    - (C1) `logits` and `dlogits` have one type, [B,S,E] with the E of `routes`,
      which is for B*S tokens.

    Example:
    ```mlir
    %dl = moe.balance_loss_grad %dloss, %l, %r, %weight {form = #moe.form<paper>} : (tensor<f32>, tensor<2x8x6xf32>, !moe.routes<16x6, 2>, tensor<f32>) -> tensor<2x8x6xf32>
    ```
  }];
  let arguments = (ins MoE_Scalar:$dloss, MoE_Precise:$logits,
                       MoE_RoutesType:$routes, MoE_Scalar:$weight,
                       MoE_LossFormAttr:$form);
  let results = (outs MoE_Precise:$dlogits);
}

def MoE_LanguagePriorLossGradOp
    : MoE_GradientOp<"language_prior_loss_grad", [AllTypesMatch<["logits", "dlogits"]>]> {
  let summary = "gradient of moe.language_prior_loss";
  let description = [{
    For old tokens, `paper`: `dlogits = dloss * weight * (p - onehot(0))`;
    `reference`: `dp = dloss * weight * (softmax(p) - onehot(0))`, then through
    the softmax. `dlogits` is 0 for other tokens.

    Constraints:
    - (C1) `logits` and `dlogits` have one type, [B,S,E], and `old` is [B,S].

    Example:
    ```mlir
    %dl = moe.language_prior_loss_grad %dloss, %l, %old, %weight {form = #moe.form<paper>} : (tensor<f32>, tensor<2x8x6xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<2x8x6xf32>
    ```
  }];
  let arguments = (ins MoE_Scalar:$dloss, MoE_Precise:$logits, MoE_Ids:$old,
                       MoE_Scalar:$weight, MoE_LossFormAttr:$form);
  let results = (outs MoE_Precise:$dlogits);
}

def MoE_ClassifierLossGradOp
    : MoE_GradientOp<"classifier_loss_grad", [AllTypesMatch<["logits", "dlogits"]>]> {
  let summary = "gradient of moe.classifier_loss";
  let description = [{
    `dlogits = dloss * weight * (softmax(logits) - onehot(class))`.

    Constraints:
    - (C1) `logits` and `dlogits` have one type, [B,S,2], and `old` is [B,S].

    Example:
    ```mlir
    %dl = moe.classifier_loss_grad %dloss, %g, %old, %weight : (tensor<f32>, tensor<2x8x2xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<2x8x2xf32>
    ```
  }];
  let arguments = (ins MoE_Scalar:$dloss, MoE_Precise:$logits, MoE_Ids:$old,
                       MoE_Scalar:$weight);
  let results = (outs MoE_Precise:$dlogits);
}

#endif // MOE_DIALECT_GRADIENTOPS
