//===-- FusedOps.td - kernels as ops -*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_FUSEDOPS
#define MOE_DIALECT_FUSEDOPS

include "moe/Dialect/RoutingOps.td"

// moe-fuse-routed-matmuls and moe-fuse-loss make these ops. Each is lowered to
// one kernel or to a short fixed series of kernels. "Rows" are [R, width],
// grouped by expert, with the R = T*K of `routes`; without `routes` there is
// one expert, and row t is token t. The verifiers admit exactly what the
// lowerings can do.

def MoE_StaticShapes : PredOpTrait<"operands and results have static shapes",
    And<[CPred<"::llvm::all_of($_op.getOperandTypes(), hasStaticShape)">,
         CPred<"::llvm::all_of($_op.getResultTypes(), hasStaticShape)">]>>;

class MoE_FusedOp<string mnemonic, list<Trait> traits = []>
    : MoE_TensorOp<mnemonic, !listconcat(
          [Pure, MoE_Levels<"Fused", "Fused">, MoE_StaticShapes], traits)>;

def MoE_RoutedUpOp : MoE_FusedOp<"routed_up", [MoE_Products, AttrSizedOperandSegments]> {
  let summary = "grouped matmul into the hidden width, with the activation";
  let description = [{
    For row `r` of expert `e` and token `t`: `gated`: `z[r] = (gate_e x[t],
    up_e x[t])`, `hidden[r] = act(z1) * z2`; `plain`: `z[r] = up_e x[t] (+ b_e)`,
    `hidden[r] = act(z[r])`. The kernel gathers rows of `x` while it packs
    them, and the activation is its epilogue. `weights`: gate, up of each
    expert; or up of each; or up, bias of each. `scalars`: those of the
    activation, of each.

    Constraints:
    - (C1) `gated`: two weights [F,D] for each expert; `plain`: [F,D], or [F,D]
      and [F]. There are as many experts as `routes` says, one without it.
    - (C2) `hidden` is [R,F] and `preactivation`, where wanted, [R,2F] or [R,F],
      of the element type of `input` and the weights. `routes` is for B*S tokens.
    - (C3) there are as many `scalars` [1] for each expert as `activation` has,
      of the type of the weights.
    - (C4) all shapes are static.

    Example:
    ```mlir
    %h, %z = moe.routed_up %x routes(%r) weights(%g0, %u0, %g1, %u1) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
      : (tensor<2x8x64xf32>, !moe.routes<16x2, 2>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>) -> (tensor<32x96xf32>, tensor<32x192xf32>)
    ```
  }];
  let arguments = (ins MoE_Activation:$input, Optional<MoE_RoutesType>:$routes,
                       Variadic<MoE_FloatTensor>:$weights,
                       Variadic<MoE_Vector>:$scalars,
                       MoE_FfnFormAttr:$form, MoE_ActivationAttr:$activation);
  let results = (outs MoE_Rows:$hidden, Optional<MoE_Rows>:$preactivation);
  let assemblyFormat = [{
    $input (`routes` `(` $routes^ `)`)? `weights` `(` $weights `)`
    (`scalars` `(` $scalars^ `)`)? attr-dict `:` functional-type(operands, results)
  }];
}

def MoE_RoutedDownOp : MoE_FusedOp<"routed_down", [MoE_Products, AttrSizedOperandSegments]> {
  let summary = "grouped matmul back to the model width";
  let description = [{
    `y[r] = down_e hidden[r] (+ c_e)`. `weights`: down of each expert; or down,
    bias of each. The result is rows, or [B,S,D] without routes.

    Constraints:
    - (C1) `gated`: one weight [D,F] for each expert; `plain`: the same, or
      [D,F] and [D]. There are as many experts as `routes` says, one without it.
    - (C2) `hidden` is [R,F] and the result [R,D], or [B,S,D] without `routes`,
      of one element type with the weights.
    - (C3) all shapes are static.

    Example:
    ```mlir
    %rows = moe.routed_down %h routes(%r) weights(%d0, %d1) {form = #moe.ffn<gated>}
      : (tensor<32x96xf32>, !moe.routes<16x2, 2>, tensor<64x96xf32>, tensor<64x96xf32>) -> tensor<32x64xf32>
    ```
  }];
  let arguments = (ins MoE_Rows:$hidden, Optional<MoE_RoutesType>:$routes,
                       Variadic<MoE_FloatTensor>:$weights,
                       MoE_FfnFormAttr:$form);
  let results = (outs MoE_FloatTensor:$result);
  let assemblyFormat = [{
    $hidden (`routes` `(` $routes^ `)`)? `weights` `(` $weights `)` attr-dict
    `:` functional-type(operands, results)
  }];
}

def MoE_CombineOp : MoE_FusedOp<"combine",
    [AllElementTypesMatch<["rows", "result"]>]> {
  let summary = "gathers the rows of every token and sums them";
  let description = [{
    `y[t] = sum_k scores[t,k] * rows[row(t,k)]`, over `k` in order, in f32 (f64),
    rounded once, where `row(t,k)` is the row of route `t*K + k`; without
    `scores` the plain sum. A missing route adds no term.

    Constraints:
    - (C1) `rows` is [B*S*K, D] with the K of `routes`, which is for B*S tokens,
      the result [B,S,D], `scores` [B,S,K].
    - (C2) `rows` and the result have one element type, and `scores` its precise
      one (f64 for f64, else f32).
    - (C3) all shapes are static.

    Example:
    ```mlir
    %y = moe.combine %rows, %r, %s : (tensor<32x64xf32>, !moe.routes<16x2, 2>, tensor<2x8x2xf32>) -> tensor<2x8x64xf32>
    ```
  }];
  let arguments = (ins MoE_Rows:$rows, MoE_RoutesType:$routes,
                       Optional<MoE_Precise>:$scores);
  let results = (outs MoE_Activation:$result);
}

def MoE_RoutedDownGradOp : MoE_FusedOp<"routed_down_grad",
    [MoE_Products, AttrSizedOperandSegments, AttrSizedResultSegments,
     AllTypesMatch<["preactivation", "dz"]>,
     AllElementTypesMatch<["dy", "preactivation"]>]> {
  let summary = "gradient through down projection, score and activation at once";
  let description = [{
    With `h = down_e^T dy[t]` (never stored): `dz[r]` = gradient of the
    pre-activation under `score * h`, `scaled[r] = score * act(z[r])`, and
    `dscores[t,k] = h . act(z[r]) (+ dy[t] . c_e)`; with `form` gated `act(z)`
    is `act(z1) * z2`. Without routes the score is 1 and there are no `dscores`.
    The `dscores` of missing routes are 0. `scaled` is there only if a weight
    gradient reads it. `weights`: down of each expert; or down, bias of each.
    `scalars`: those of the activation, of each. `dscalars`, where wanted, has
    for each of the activation's scalars what every row adds to its gradient.

    Constraints:
    - (C1) `scores` and `routes` come together, `dscores` only with them.
    - (C2) the weights are those of `moe.routed_down`, with the D of `dy`.
    - (C3) `preactivation` and `dz` have one type, [R,2F] if `gated`, else
      [R,F], and `scaled`, where wanted, is [R,F]. `routes` is for B*S tokens.
    - (C4) `scores` is [B,S,K] of the precise element type (f64 for f64, else
      f32), as is `dscores`; all other element types are that of `dy`.
    - (C5) there are as many `scalars` [1] for each expert as `activation` has,
      and `dscalars` are none or one [R,1], of the precise element type, for
      each scalar of an expert.
    - (C6) all shapes are static.

    Example:
    ```mlir
    %dz, %scaled, %ds = moe.routed_down_grad %dy scores(%s) routes(%r) preactivation(%z) weights(%d0, %d1) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
      : (tensor<2x8x64xf32>, tensor<2x8x2xf32>, !moe.routes<16x2, 2>, tensor<32x192xf32>, tensor<64x96xf32>, tensor<64x96xf32>) -> tensor<32x192xf32> scaled(tensor<32x96xf32>) dscores(tensor<2x8x2xf32>)
    ```
  }];
  let arguments = (ins MoE_Activation:$dy, Optional<MoE_Precise>:$scores,
                       Optional<MoE_RoutesType>:$routes,
                       MoE_Rows:$preactivation,
                       Variadic<MoE_FloatTensor>:$weights,
                       Variadic<MoE_Vector>:$scalars,
                       MoE_FfnFormAttr:$form, MoE_ActivationAttr:$activation);
  let results = (outs MoE_Rows:$dz, Optional<MoE_Rows>:$scaled,
                      Optional<MoE_Precise>:$dscores,
                      Variadic<MoE_Rows>:$dscalars);
  let assemblyFormat = [{
    $dy (`scores` `(` $scores^ `)`)? (`routes` `(` $routes^ `)`)?
    `preactivation` `(` $preactivation `)` `weights` `(` $weights `)`
    (`scalars` `(` $scalars^ `)`)? attr-dict `:` functional-type(operands, $dz)
    (`scaled` `(` type($scaled)^ `)`)? (`dscores` `(` type($dscores)^ `)`)?
    (`dscalars` `(` type($dscalars)^ `)`)?
  }];
}

def MoE_RoutedInputGradOp : MoE_FusedOp<"routed_input_grad",
    [MoE_Products, AttrSizedOperandSegments]> {
  let summary = "gradient of the up projection with respect to its rows";
  let description = [{
    `dx[r] = gate_e^T dz1[r] + up_e^T dz2[r]`, or `up_e^T dz[r]`: the chains of
    `gate` (see `moe.linear`), then those of `up`, are added up in order.
    `weights`: gate, up of each expert; or up of each.

    Constraints:
    - (C1) `gated`: two weights [F,D] for each expert; `plain`: one. There are
      as many experts as `routes` says, one without it.
    - (C2) `dz` is [R,2F] if `gated`, else [R,F], and the result [R,D], or
      [B,S,D] without `routes`, of one element type with the weights.
    - (C3) all shapes are static.

    Example:
    ```mlir
    %dx = moe.routed_input_grad %dz routes(%r) weights(%g0, %u0, %g1, %u1) {form = #moe.ffn<gated>}
      : (tensor<32x192xf32>, !moe.routes<16x2, 2>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<32x64xf32>
    ```
  }];
  let arguments = (ins MoE_Rows:$dz, Optional<MoE_RoutesType>:$routes,
                       Variadic<MoE_FloatTensor>:$weights,
                       MoE_FfnFormAttr:$form);
  let results = (outs MoE_FloatTensor:$result);
  let assemblyFormat = [{
    $dz (`routes` `(` $routes^ `)`)? `weights` `(` $weights `)` attr-dict `:`
    functional-type(operands, results)
  }];
}

def MoE_RoutedWeightGradOp : MoE_FusedOp<"routed_weight_grad",
    [MoE_Products, AllElementTypesMatch<["lhs", "rhs"]>]> {
  let summary = "weight gradients of some experts, over their rows only";
  let description = [{
    For every `e` in `experts`: `dw_e[m,n] = sum over rows r of e of
    lhs[r, offset + m] * rhs[r, n]`, in row order. An operand [B,S,width] is in
    token order, and the routes say which token a row reads; one [R,width] is in
    row order. An expert without rows gets zeros; experts that are not named
    cost nothing.

    Constraints:
    - (C1) there is one `dweights` for each of `experts`, which are experts of
      `routes` in ascending order, or 0 without it.
    - (C2) `lhs` and `rhs` are [B,S,width] or [R,width] with the same R;
      `dweights` have one type, [m,n] with `offset + m` at most the width of
      `lhs` and n that of `rhs`.
    - (C3) `lhs` and `rhs` have one element type, and `dweights` its precise one
      (f64 for f64, else f32).
    - (C4) all shapes are static.

    Example:
    ```mlir
    %dg1 = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 1>, offset = 0 : i64} : (tensor<32x192xf32>, tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> tensor<96x64xf32>
    ```
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
    dy[r, n]` in row order, without `scores` the plain sum. If `dy` is [B,S,n],
    the routes say which token a row reads.

    Constraints:
    - (C1) there is one `dbiases` for each of `experts`, which are experts of
      `routes` in ascending order, or 0 without it.
    - (C2) `dy` is [B,S,n] or [R,n], `dbiases` [n].
    - (C3) there are no `scores` without `routes`, which say whose score a
      row's is; they are [B,S,K] for its tokens.
    - (C4) `dbiases` and `scores` have the precise element type of `dy` (f64 for
      f64, else f32).
    - (C5) all shapes are static.

    Example:
    ```mlir
    %dc1 = moe.routed_bias_grad %dy routes(%r) scores(%s) {experts = array<i64: 1>} : (tensor<2x8x64xf32>, !moe.routes<16x2, 2>, tensor<2x8x2xf32>) -> tensor<64xf32>
    ```
  }];
  let arguments = (ins MoE_FloatTensor:$dy, Optional<MoE_RoutesType>:$routes,
                       Optional<MoE_Precise>:$scores,
                       DenseI64ArrayAttr:$experts);
  let results = (outs Variadic<MoE_Vector>:$dbiases);
  let assemblyFormat = [{
    $dy (`routes` `(` $routes^ `)`)? (`scores` `(` $scores^ `)`)? attr-dict `:`
    functional-type(operands, results)
  }];
}

def MoE_LinearCrossEntropyOp : MoE_FusedOp<"linear_cross_entropy",
    [MoE_Products, AttrSizedResultSegments, AllElementTypesMatch<["input", "weight"]>,
     AllTypesMatch<["loss_weight", "loss"]>]> {
  let summary = "output projection, loss and their gradients, in chunks of tokens";
  let description = [{
    `logits = input weight^T`, which `moe.soft_cap` caps if there is a
    `softcap`, the loss of `moe.cross_entropy`, and the gradients under `dloss = 1`: `dx` and, where wanted, `dweight`. At most
    `chunk` rows of logits exist at a time.

    Constraints:
    - (C1) `input` [B,S,D], `weight` and `dweight` [V,D], `labels` [B,S]; `dx`
      has the type of `input`.
    - (C2) `chunk` is positive.
    - (C3) `input` and `weight` have one element type; `loss_weight`, `loss` and
      `dweight` have its precise one (f64 for f64, else f32).
    - (C4) all shapes are static.
    - (C5) `softcap`, where present, is positive.

    Example:
    ```mlir
    %loss, %dx = moe.linear_cross_entropy %h, %w, %labels, %weight {chunk = 256 : i64}
      : (tensor<2x8x64xf32>, tensor<512x64xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<f32> dx(tensor<2x8x64xf32>)
    ```
  }];
  let arguments = (ins MoE_Activation:$input, MoE_Matrix:$weight,
                       MoE_Ids:$labels, MoE_Scalar:$loss_weight,
                       ConfinedAttr<I64Attr, [IntPositive]>:$chunk,
                       OptionalAttr<MoE_PositiveAttr>:$softcap);
  let results = (outs MoE_Scalar:$loss, Optional<MoE_Activation>:$dx,
                      Optional<MoE_Matrix>:$dweight);
  let assemblyFormat = [{
    operands attr-dict `:` functional-type(operands, $loss)
    (`dx` `(` type($dx)^ `)`)? (`dweight` `(` type($dweight)^ `)`)?
  }];
}

#endif // MOE_DIALECT_FUSEDOPS
