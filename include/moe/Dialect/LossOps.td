//===-- LossOps.td - training objectives -*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_LOSSOPS
#define MOE_DIALECT_LOSSOPS

include "moe/Dialect/MoEAttrs.td"
include "moe/Dialect/MoEInterfaces.td"
include "moe/Dialect/MoETypes.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

include "moe/Dialect/BackboneOps.td"

class MoE_LossOp<string mnemonic>
    : MoE_BackboneOp<mnemonic, /*traits=*/[], /*methods=*/[],
                     /*first=*/"Objective">;

def MoE_CrossEntropyOp : MoE_LossOp<"cross_entropy"> {
  let summary = "the next-token loss, or the loss of a router that is taught";
  let description = [{
    `loss = weight * sum over (b,s) with labels[b,s] >= 0 of (log sum_v
    exp(logits[b,s,v]) - logits[b,s,labels[b,s]])`, in f32 (f64 in a f64 model).
    `weight` is 1 / number of labels in the whole optimiser step.

    Of the logits of a router, with the groups of the tokens' languages as
    labels, it is DMoE's router loss; all tokens have one.

    Constraints:
    - (C1) `logits` [B,S,V], `labels` [B,S].

    Example:
    ```mlir
    %loss = moe.cross_entropy %logits, %labels, %weight : (tensor<?x?x512xf32>, tensor<?x?xi32>, tensor<f32>) -> tensor<f32>
    ```
  }];
  let arguments = (ins MoE_Activation:$logits, MoE_Ids:$labels,
                       MoE_Scalar:$weight);
  let results = (outs MoE_Scalar:$loss);
}

def MoE_TokenLogprobsOp : MoE_TensorOp<"token_logprobs",
    [Pure, MoE_Levels<"Objective", "Fused">]> {
  let summary = "the log-probability of every label";
  let description = [{
    `y[b,s] = logits[b,s,labels[b,s]] - log sum_v exp(logits[b,s,v])`, 0 where
    the label is negative.

    Constraints:
    - (C1) `logits` [B,S,V], `labels` and the result [B,S].

    Example:
    ```mlir
    %p = moe.token_logprobs %logits, %labels : (tensor<?x?x512xf32>, tensor<?x?xi32>) -> tensor<?x?xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$logits, MoE_Ids:$labels);
  let results = (outs TensorRankOf<[F64, F32], [2]>:$result);
}

def MoE_BalanceLossOp : MoE_LossOp<"balance_loss"> {
  let summary = "the load-balance loss of one MoE layer";
  let description = [{
    `paper`: `weight * sum_e f_e P_e` with `f_e = E/(K T) * #(rows of e)` and
    `P_e = mean_t softmax(logits)_e`; 1 when uniform (MoE-LPR, equation 5).
    `reference`, the form of the released code: K times that. `f` has no
    gradient. `weight` is 1 / micro-batches in the optimiser step.

    Constraints:
    - (C1) `logits` is [B,S,E] with the E of `routes`, which is for B*S tokens.

    Example:
    ```mlir
    %loss = moe.balance_loss %logits, %routes, %weight {form = #moe.form<paper>} : (tensor<?x?x6xf32>, !moe.routes<?x6, 2>, tensor<f32>) -> tensor<f32>
    ```
  }];
  let arguments = (ins MoE_Precise:$logits, MoE_RoutesType:$routes,
                       MoE_Scalar:$weight, MoE_LossFormAttr:$form);
  let results = (outs MoE_Scalar:$loss);
}

def MoE_LanguagePriorLossOp : MoE_LossOp<"language_prior_loss"> {
  let summary = "keeps old languages on the original expert";
  let description = [{
    With `p = softmax(logits)`: `paper`: `weight * sum over old tokens of
    -log p_0` (MoE-LPR, equation 7). `reference`, the released code's double
    softmax: `weight * sum over old tokens of (log sum_e exp(p_e) - p_0)`.
    `weight` is 1 / number of old tokens in the optimiser step, 0 where there
    are none, and then the loss and its gradient are exactly 0.

    Constraints:
    - (C1) `logits` is [B,S,E], `old` is [B,S].

    Example:
    ```mlir
    %loss = moe.language_prior_loss %logits, %old, %weight {form = #moe.form<paper>} : (tensor<?x?x6xf32>, tensor<?x?xi32>, tensor<f32>) -> tensor<f32>
    ```
  }];
  let arguments = (ins MoE_Precise:$logits, MoE_Ids:$old, MoE_Scalar:$weight,
                       MoE_LossFormAttr:$form);
  let results = (outs MoE_Scalar:$loss);
}

def MoE_ClassifierLossOp : MoE_LossOp<"classifier_loss"> {
  let summary = "teaches a language gate which languages are old";
  let description = [{
    `loss = weight * sum over all tokens of (log sum_c exp(logits[c]) -
    logits[class])`, with class 0 where `old` is not 0 and class 1 elsewhere
    (LayerMoE). `weight` is 1 / number of tokens in the optimiser step, labels
    or not.

    Constraints:
    - (C1) `logits` is [B,S,2], `old` is [B,S].

    Example:
    ```mlir
    %loss = moe.classifier_loss %g, %old, %weight : (tensor<?x?x2xf32>, tensor<?x?xi32>, tensor<f32>) -> tensor<f32>
    ```
  }];
  let arguments = (ins MoE_Precise:$logits, MoE_Ids:$old, MoE_Scalar:$weight);
  let results = (outs MoE_Scalar:$loss);
}

def MoE_WeightedSumOp : MoE_LossOp<"weighted_sum"> {
  let summary = "a weighted sum of losses";
  let description = [{
    `y = sum_i coefficients[i] * terms[i]`, in order.

    Constraints:
    - (C1) there is one coefficient for each term, and at least one.

    Example:
    ```mlir
    %loss = moe.weighted_sum %a, %b {coefficients = array<f64: 1.0, 0.01>} : (tensor<f32>, tensor<f32>) -> tensor<f32>
    ```
  }];
  let arguments = (ins Variadic<MoE_Scalar>:$terms,
                       DenseF64ArrayAttr:$coefficients);
  let results = (outs MoE_Scalar:$result);
  let hasFolder = 1;
}

#endif // MOE_DIALECT_LOSSOPS
