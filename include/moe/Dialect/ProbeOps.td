//===-- ProbeOps.td - what profiles measure -*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// `moe-add-probe` puts these ops into a model. Each sums over the tokens of one
// row of the batch, so that a batch may hold text of several languages. A token
// counts where its label is not negative: the text's own, without padding.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_PROBEOPS
#define MOE_DIALECT_PROBEOPS

include "moe/Dialect/MoEAttrs.td"
include "moe/Dialect/MoEInterfaces.td"
include "moe/Dialect/MoETypes.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

class MoE_ProbeOp<string mnemonic>
    : MoE_TensorOp<mnemonic, [Pure, MoE_Levels<"Objective", "Fused">]>;

def MoE_DirectionSumOp : MoE_ProbeOp<"direction_sum"> {
  let summary = "the sum of the directions of a row's hidden states";
  let description = [{
    `y[b,:] = sum over s with labels[b,s] >= 0 of x[b,s,:] / |x[b,s,:]|`, in the
    order of `s`, in f32 (f64 in a f64 model), with the Euclidean norm. A vector
    of zeros, which has no direction, adds nothing.

    The mean cosine over all pairs of two texts' tokens is the product of the
    means of their directions (LayerMoE, the similarity of languages).

    Constraints:
    - (C1) `input` [B,S,D], `labels` [B,S], result [B,D].

    Example:
    ```mlir
    %y = moe.direction_sum %x, %labels : (tensor<?x?x64xbf16>, tensor<?x?xi32>) -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$input, MoE_Ids:$labels);
  let results = (outs TensorRankOf<[F64, F32], [2]>:$result);
}

def MoE_ExpertLoadOp : MoE_ProbeOp<"expert_load"> {
  let summary = "how many of a row's tokens each expert gets";
  let description = [{
    `y[b,e]` is the number of routes of row `b` that lead to expert `e`, those of
    tokens with `labels[b,s] >= 0` alone. Missing routes do not count.

    Constraints:
    - (C1) `labels` [B,S], `routes` for B*S tokens and E experts, result [B,E].

    Example:
    ```mlir
    %y = moe.expert_load %r, %labels : (!moe.routes<?x6, 2>, tensor<?x?xi32>) -> tensor<?x6xf32>
    ```
  }];
  let arguments = (ins MoE_RoutesType:$routes, MoE_Ids:$labels);
  let results = (outs TensorRankOf<[F32], [2]>:$result);
}

#endif // MOE_DIALECT_PROBEOPS
