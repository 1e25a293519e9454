//===-- RoutingOps.td - routers, routes and experts -*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_ROUTINGOPS
#define MOE_DIALECT_ROUTINGOPS

include "moe/Dialect/MoEAttrs.td"
include "moe/Dialect/MoEInterfaces.td"
include "moe/Dialect/MoETypes.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

include "moe/Dialect/BackboneOps.td"

def MoE_RouterOp : MoE_BackboneOp<"router", [MoE_Products]> {
  let summary = "the scores of every token for every expert, before softmax";
  let description = [{
    `logits[b,s,e] = sum_k x[b,s,k] w[e,k]`, in f32 (f64 in a f64 model) and not
    rounded further (MoE-LPR, equation 2).

    Constraints:
    - (C1) `input` [B,S,D], `weight` [E,D], result [B,S,E].

    Example:
    ```mlir
    %l = moe.router %x, %w : (tensor<?x?x64xbf16>, tensor<6x64xbf16>) -> tensor<?x?x6xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$input, MoE_Matrix:$weight);
  let results = (outs MoE_Precise:$logits);
}

def MoE_LanguageGateOp : MoE_BackboneOp<"language_gate", [MoE_Products]> {
  let summary = "tells known languages from new ones, in front of a router";
  let description = [{
    `logits[b,s,c] = sum_k x[b,s,k] w[c,k]`, in f32 (f64 in a f64 model) and not
    rounded further. Class 0 says that the token is of a language that the base
    knows, class 1 that it is of a new one (LayerMoE, the classifier of stage
    2). `moe.route` decides by them and `moe.classifier_loss` trains the gate
    by them. A `moe.pool` in between makes them depend on more than the token.

    Constraints:
    - (C1) `input` [B,S,D], `weight` [2,D], result [B,S,2].

    Example:
    ```mlir
    %g = moe.language_gate %x, %w : (tensor<?x?x64xbf16>, tensor<2x64xbf16>) -> tensor<?x?x2xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$input, MoE_Matrix:$weight);
  let results = (outs MoE_Precise:$logits);
}

def MoE_PoolOp : MoE_BackboneOp<"pool", [MoE_CheapToRecompute]> {
  let summary = "pools the logits of a language gate over its row";
  let description = [{
    A gate without bias is linear, so pooling its logits is the same as pooling
    the hidden states that it reads, for two numbers a token in place of D.

    Element `j` of row `b` stands in slot `j`, token `s` in slot `slots[b,s]`;
    without `slots` in slot `s`. `causal_mean`: `y[b,s] = (sum over j <= slot of
    x[b,j]) / (slot + 1)`, the mean up to and including the token.
    `sequence_sum`, as released: `y[b,s] = sum over all j of x[b,j]`, which looks
    ahead and counts padding. Both sum in the order of slots, in f32 (f64 in a
    f64 model).

    Constraints:
    - (C1) `input` [B,C,n] and the result [B,S,n] have one element type;
      without `slots` they have one type.
    - (C2) `slots`, where present, is [B,S].
    - (C3) `sequence_sum` takes no `slots`: the sum is not known while a
      sequence grows.

    Example:
    ```mlir
    %p = moe.pool %g {kind = #moe.pool<causal_mean>} : (tensor<?x?x2xf32>) -> tensor<?x?x2xf32>
    ```
  }];
  let arguments = (ins MoE_Precise:$input, Optional<MoE_Ids>:$slots,
                       MoE_PoolAttr:$kind);
  let results = (outs MoE_Precise:$result);
}

def MoE_RouteOp : MoE_BackboneOp<"route", [AttrSizedOperandSegments]> {
  let summary = "assigns every token to its experts";
  let description = [{
    `p = softmax(logits)` over all experts; the K largest are selected, the
    lower index winning ties; `scores` are their `p`, divided by their sum if
    `renormalize`. For K = 1 renormalisation is skipped, as released: the
    score is the raw probability. A softmax that is NaN gives NaN scores.

    With `forced_expert` every token goes to that expert alone with a score of
    exactly 1 (K = 1), and the logits are not read.

    With `gate` a token is old where `gate[0] >= gate[1]` (the lower class wins
    a tie, too). It goes to expert 0 alone: choice 0 has a score of exactly 1,
    the other routes are missing and have a score of 0. The decision has no
    gradient, and the logits of an old token get none from its score.

    With `groups` every token goes to the expert of its group, `groups[b,s]`,
    alone with a score of exactly 1 (K = 1), and the logits are not read (DMoE,
    stage 1). The score of a token whose group is not in [0, E) is NaN.

    Constraints:
    - (C1) `logits` [B,S,E], `routes` for E experts and K a token, `scores`
      [B,S,K].
    - (C2) `routes` is for B*S tokens.
    - (C3) `forced_expert` is in [0, E), and then K = 1.
    - (C4) `gate` is [B,S,2], and there is none with `forced_expert`.
    - (C5) `groups` is [B,S], and with it there is neither `gate` nor
      `forced_expert`, and K = 1.

    Example:
    ```mlir
    %r, %s = moe.route %l {renormalize} : (tensor<?x?x6xf32>) -> (!moe.routes<?x6, 2>, tensor<?x?x2xf32>)
    %r1, %s1 = moe.route %l groups(%groups) : (tensor<?x?x6xf32>, tensor<?x?xi32>) -> (!moe.routes<?x6, 1>, tensor<?x?x1xf32>)
    ```
  }];
  let arguments = (ins MoE_Precise:$logits, Optional<MoE_Precise>:$gate,
                       Optional<MoE_Ids>:$groups, UnitAttr:$renormalize,
                       OptionalAttr<I64Attr>:$forced_expert);
  let results = (outs MoE_RoutesType:$routes, MoE_Precise:$scores);
  let assemblyFormat = [{
    $logits (`,` $gate^)? (`groups` `(` $groups^ `)`)? attr-dict `:`
    functional-type(operands, results)
  }];
  // Builds an op that chooses `topK` experts and renormalises their scores.
  let builders = [OpBuilder<(ins "Value":$logits, "Value":$gate,
                                 "int64_t":$topK)>];
}

def MoE_ExpertsOp : MoE_BackboneOp<"experts",
                                   [MoE_Products, AllTypesMatch<["input", "result"]>], ["saveForBackward"],
                                   /*first=*/"Model", /*last=*/"Step"> {
  let summary = "a mixture of feed-forward networks";
  let description = [{
    `y[t] = sum_k scores[t,k] * ffn_{e(t,k)}(x[t])`, summed over `k` in order,
    without missing routes. `ffn_e` is `moe.ffn`; `weights` are those of expert
    0, then of expert 1, and so on. An expert without rows costs nothing.

    The backward needs `preactivation` [R, 2F] or [R, F], whose rows are grouped
    by expert.

    Constraints:
    - (C1) result and `input` have one type.
    - (C2) there are weights for as many experts as `routes` says, those of
      `form` and `activation`, all with biases or all without, and with one D and one F.
    - (C3) `scores` is [B,S,K] with the K of `routes`, which is for B*S tokens.
    - (C4) `preactivation`, where present, is [R,2F] if `gated`, else [R,F].

    Example:
    ```mlir
    %y = moe.experts %x, %s, %r, %u0, %b0, %d0, %c0 {form = #moe.ffn<plain>, activation = #moe.activation<gelu>}
      : (tensor<?x?x64xf32>, tensor<?x?x1xf32>, !moe.routes<?x1, 1>, tensor<96x64xf32>, tensor<96xf32>, tensor<64x96xf32>, tensor<64xf32>) -> tensor<?x?x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$input, MoE_Precise:$scores,
                       MoE_RoutesType:$routes,
                       Variadic<MoE_FloatTensor>:$weights,
                       MoE_FfnFormAttr:$form, MoE_ActivationAttr:$activation);
  let results = (outs MoE_Activation:$result,
                      Optional<MoE_Rows>:$preactivation);
}

#endif // MOE_DIALECT_ROUTINGOPS
