//===-- BackboneOps.td - the decoder without its experts -*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_BACKBONEOPS
#define MOE_DIALECT_BACKBONEOPS

include "moe/Dialect/MoEAttrs.td"
include "moe/Dialect/MoEInterfaces.td"
include "moe/Dialect/MoETypes.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

// An op that can be differentiated. `methods` names the methods of the
// interface beside buildVjp that the op implements.
class MoE_BackboneOp<string mnemonic, list<Trait> traits = [],
                     list<string> methods = [],
                     string first = "Model", string last = "Fused">
    : MoE_TensorOp<mnemonic, !listconcat([Pure, MoE_Levels<first, last>,
        DeclareOpInterfaceMethods<MoE_DifferentiableOpInterface, methods>],
        traits)>;

def MoE_EmbeddingOp : MoE_BackboneOp<"embedding", [MoE_CheapToRecompute]> {
  let summary = "looks tokens up in a table";
  let description = [{
    `y[b,s,:] = scale * table[tokens[b,s],:]`, with `scale` rounded to the
    table's type first (Gemma's sqrt(D)).

    Constraints:
    - (C1) the result is [B, S, D] of the table's type, `table` [V, D].

    Example:
    ```mlir
    %h = moe.embedding %tokens, %table {scale = 1.0} : (tensor<?x?xi32>, tensor<512x64xf32>) -> tensor<?x?x64xf32>
    ```
  }];
  let arguments = (ins MoE_Ids:$tokens, MoE_Matrix:$table,
                       DefaultValuedAttr<F64Attr, "1.0">:$scale);
  let results = (outs MoE_Activation:$result);
}

def MoE_RmsNormOp : MoE_BackboneOp<"rms_norm", [MoE_CheapToRecompute,
    AllTypesMatch<["input", "result"]>, AllElementTypesMatch<["input", "weight"]>]> {
  let summary = "root-mean-square normalisation of a row, or of groups in it";
  let description = [{
    For every group `g` of `d = len(weight)` consecutive elements of a row:
    `y = g / sqrt(mean(g^2) + epsilon) * (offset + weight)`, computed in f32
    (f64 in a f64 model). `d = width` is the usual norm, `d` = width of a head
    is QK-norm; `offset = 1` is Gemma's. With `offset = 0` the normalised row
    is rounded to the result's type before the product, as Llama does.

    Constraints:
    - (C1) result and `input` have one type.
    - (C2) `weight` has the element type of `input`, whose last dimension is a
      multiple of its length.
    - (C3) `epsilon` is positive.

    Example:
    ```mlir
    %n = moe.rms_norm %h, %w {epsilon = 1.0e-5} : (tensor<?x?x64xf32>, tensor<64xf32>) -> tensor<?x?x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$input, MoE_Vector:$weight,
                       MoE_PositiveAttr:$epsilon,
                       DefaultValuedAttr<F64Attr, "0.0">:$offset);
  let results = (outs MoE_Activation:$result);
}

def MoE_LayerNormOp : MoE_BackboneOp<"layer_norm", [MoE_CheapToRecompute,
    AllTypesMatch<["input", "result"]>, AllElementTypesMatch<["input", "weight"]>]> {
  let summary = "layer normalisation of a row";
  let description = [{
    `y = (x - mean(x)) / sqrt(var(x) + epsilon) * weight (+ bias)` over the last
    dimension, with the biased variance, computed in f32 (f64 in a f64 model).

    Constraints:
    - (C1) result and `input` have one type.
    - (C2) `weight` has the length of the last dimension and the element type of
      `input`, and `bias`, where present, the type of `weight`.
    - (C3) `epsilon` is positive.

    Example:
    ```mlir
    %n = moe.layer_norm %h, %w, %b {epsilon = 1.0e-5} : (tensor<?x?x64xf32>, tensor<64xf32>, tensor<64xf32>) -> tensor<?x?x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$input, MoE_Vector:$weight,
                       Optional<MoE_Vector>:$bias, MoE_PositiveAttr:$epsilon);
  let results = (outs MoE_Activation:$result);
}

def MoE_ConcatRowsOp : MoE_BackboneOp<"concat_rows", [MoE_CheapToRecompute]> {
  let summary = "the rows of several matrices, one after the other";
  let description = [{
    `y` has the rows of `inputs[0]`, then those of `inputs[1]`, and so on. A
    parameter trains as a whole or not at all; a router with new rows for new
    experts, of which only those train, is two parameters joined so.

    Constraints:
    - (C1) there is at least one input, and each is [n_i,D]; the result is
      [sum of n_i, D], all of one element type.

    Example:
    ```mlir
    %w = moe.concat_rows %old, %new : (tensor<6x64xf32>, tensor<1x64xf32>) -> tensor<7x64xf32>
    ```
  }];
  let arguments = (ins Variadic<MoE_Matrix>:$inputs);
  let results = (outs MoE_Matrix:$result);
}

def MoE_LinearOp : MoE_BackboneOp<"linear",
    [MoE_Products, AllElementTypesMatch<["input", "weight", "result"]>]> {
  let summary = "a linear map of every token";
  let description = [{
    `y[b,s,n] = sum_k x[b,s,k] w[n,k] (+ bias[n])`, in f32 (f64 in a f64 model)
    and rounded once. The sum adds up chains in order, one for the first 256
    `k`, one for the next 256, and so on; a chain is fused multiply-adds in
    ascending order of `k`, from zero on. (Instructions that multiply bf16 in
    pairs or AMX tiles take all `k` in one chain.) The bits of a row depend
    neither on other rows nor on how the product is tiled.

    Constraints:
    - (C1) `input` [B,S,k], `weight` [n,k], `bias` [n], result [B,S,n], all of
      one element type.

    Example:
    ```mlir
    %y = moe.linear %x, %w : (tensor<?x?x64xf32>, tensor<96x64xf32>) -> tensor<?x?x96xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$input, MoE_Matrix:$weight,
                       Optional<MoE_Vector>:$bias);
  let results = (outs MoE_Activation:$result);
}

def MoE_AddOp : MoE_BackboneOp<"add", [Commutative, SameOperandsAndResultType]> {
  let summary = "adds two tensors, the residual connection";
  let description = [{
    `y = lhs + rhs`. It also adds up the gradients of a value with several users.

    Constraints:
    - (C1) the operands and the result have one type.

    Example:
    ```mlir
    %y = moe.add %a, %b : (tensor<?x?x64xf32>, tensor<?x?x64xf32>) -> tensor<?x?x64xf32>
    ```
  }];
  let arguments = (ins MoE_FloatTensor:$lhs, MoE_FloatTensor:$rhs);
  let results = (outs MoE_FloatTensor:$result);
  let hasVerifier = 0;
}

// An op that computes each element from that of its operands, all of one type.
class MoE_ElementwiseOp<string mnemonic>
    : MoE_BackboneOp<mnemonic, [MoE_CheapToRecompute, SameOperandsAndResultType]> {
  let assemblyFormat = "operands attr-dict `:` type($result)";
  let hasVerifier = 0;
}

def MoE_ScaleOp : MoE_ElementwiseOp<"scale"> {
  let summary = "multiplies a tensor by a number";
  let description = [{
    `y = factor * x`, in f32 (f64 in a f64 model), rounded once: Granite's
    multipliers of embeddings, residuals and logits.

    Constraints:
    - (C1) `input` and the result have one type.

    Example:
    ```mlir
    %y = moe.scale %x {factor = 0.22} : tensor<?x?x64xf32>
    ```
  }];
  let arguments = (ins MoE_FloatTensor:$input, F64Attr:$factor);
  let results = (outs MoE_FloatTensor:$result);
  let hasFolder = 1;
}

def MoE_SoftCapOp : MoE_ElementwiseOp<"soft_cap"> {
  let summary = "bends a tensor so that it stays below a number";
  let description = [{
    `y = cap * tanh(x / cap)`, in f32 (f64 in a f64 model), rounded once: the
    logits of Gemma 2.

    Constraints:
    - (C1) `input` and the result have one type.
    - (C2) `cap` is positive.

    Example:
    ```mlir
    %y = moe.soft_cap %x {cap = 30.0} : tensor<?x?x512xf32>
    ```
  }];
  let arguments = (ins MoE_FloatTensor:$input, MoE_PositiveAttr:$cap);
  let results = (outs MoE_FloatTensor:$result);
}

def MoE_RotaryTableOp : MoE_TensorOp<"rotary_table",
    [Pure, MoE_Levels<"Model", "Fused">]> {
  let summary = "cosines and sines of the rotary embedding";
  let description = [{
    `cos[b,s,i] = scale * cos(positions[b,s] * frequencies[i])`, the same for
    `sin`, for `i` in [0, d/2). The importer computes the frequencies, so
    every scaling variant (linear, yarn, llama3, ...) is one op with other
    numbers. `max_length`, where present, is the length of the longest sequence
    for which they are right (dynamic, longrope).

    Constraints:
    - (C1) both results are [B, S, number of frequencies].
    - (C2) `max_length`, where present, is positive, and S is at most that, as is
      the capacity of a cache.

    Example:
    ```mlir
    %cos, %sin = moe.rotary_table %positions {frequencies = array<f32: 1.0, 0.1>, scale = 1.0} : (tensor<?x?xi32>) -> (tensor<?x?x2xf32>, tensor<?x?x2xf32>)
    ```
  }];
  let arguments = (ins MoE_Ids:$positions, DenseF32ArrayAttr:$frequencies,
                       DefaultValuedAttr<F64Attr, "1.0">:$scale,
                       OptionalAttr<ConfinedAttr<I64Attr, [IntPositive]>>:$max_length);
  let results = (outs MoE_Precise:$cos, MoE_Precise:$sin);
  let extraClassDeclaration = [{
    /// Checks that sequences of `length` tokens are within `max_length`.
    LogicalResult verifyLength(int64_t length);
  }];
}

def MoE_RotaryOp : MoE_BackboneOp<"rotary", [MoE_CheapToRecompute,
    AllTypesMatch<["input", "result"]>, AllTypesMatch<["cos", "sin"]>]> {
  let summary = "rotates pairs of elements of every head by its position";
  let description = [{
    In every head of `head_dim` elements (2w without it), element `i < w`
    rotates with element `w + i`, or, if `interleaved`, element `2i` with its
    neighbour `2i + 1`: `y1 = x1 cos_i - x2 sin_i`, `y2 = x2 cos_i + x1 sin_i`,
    with the table rounded to the input's type. Elements from 2w on are passed
    as they are. `inverse` rotates back (the gradient).

    Constraints:
    - (C1) result and `input` have one type.
    - (C2) the tables have one type, [B,S,w], and the last dimension of `input`
      is a multiple of the width of a head.
    - (C3) `head_dim`, where present, is at least 2w.

    Example:
    ```mlir
    %y = moe.rotary %q, %cos, %sin : (tensor<?x?x64xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32>) -> tensor<?x?x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$input, MoE_Precise:$cos,
                       MoE_Precise:$sin, UnitAttr:$inverse,
                       UnitAttr:$interleaved, OptionalAttr<I64Attr>:$head_dim);
  let results = (outs MoE_Activation:$result);
  let extraClassDeclaration = [{
    /// The elements of a head, and how many of them rotate.
    int64_t headWidth() { return getHeadDim().value_or(rotatedWidth()); }
    int64_t rotatedWidth() { return 2 * getCos().getType().getShape().back(); }
  }];
}

def MoE_AttentionOp : MoE_BackboneOp<"attention", [MoE_Products,
    AllTypesMatch<["query", "result"]>, AllTypesMatch<["key", "value"]>], ["saveForBackward"]> {
  let summary = "causal softmax attention";
  let description = [{
    Key `j` of row `b` stands in slot `j`; query `i` in slot `slots[b,i]`. The
    query sees key `j` iff `j <= slots[b,i]`, and `slots[b,i] - j < window` if
    there is a window, and `segments[b,i] == segments[b,j]` if there are
    segments. Without a cache C = S and slots are 0, 1, 2, ...; with one the
    keys are the cache.

    `out = softmax_j(cap(scale * q_i . k_j) - slope_h * (slots[b,i] - j)) v_j`
    per head in f32 (f64 in a f64 model). `cap(s)` is `softcap * tanh(s /
    softcap)` if there is a `softcap` (Gemma 2), else `s`. The slope is zero
    unless `alibi`, where head `h` of `n = 2^floor(log2 heads)` has `2^(-8 (h+1)
    / n)`, and heads from `n` on `2^(-4 (2 (h-n) + 1) / n)`. Query head `h` reads
    key/value head `h / (heads / kv_heads)`. `lse[b,h,i]` is the logarithm of the
    sum of
    exponentials.

    Constraints:
    - (C1) `query` [B,S,heads*d], `key` and `value` [B,C,kv_heads*d], `slots`
      and `segments` [B,S], result of the query's type.
    - (C2) `heads` is a multiple of `kv_heads`.
    - (C3) with `segments`, C = S.
    - (C4) `window`, where present, is positive.
    - (C5) `lse`, where present, is [B,heads,S].
    - (C6) `softcap`, where present, is positive.

    Example:
    ```mlir
    %o = moe.attention %q, %k, %v, %slots, %segments {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25}
      : (tensor<?x?x64xf32>, tensor<?x?x32xf32>, tensor<?x?x32xf32>, tensor<?x?xi32>, tensor<?x?xi32>) -> tensor<?x?x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$query, MoE_Activation:$key,
                       MoE_Activation:$value, MoE_Ids:$slots,
                       Optional<MoE_Ids>:$segments, I64Attr:$heads,
                       I64Attr:$kv_heads, F64Attr:$scale,
                       OptionalAttr<ConfinedAttr<I64Attr, [IntPositive]>>:$window,
                       UnitAttr:$alibi,
                       OptionalAttr<MoE_PositiveAttr>:$softcap);
  let results = (outs MoE_Activation:$result, Optional<MoE_Precise>:$lse);
}

def MoE_CacheUpdateOp : MoE_TensorOp<"cache_update",
    [Pure, MoE_Levels<"Objective", "Fused">, AllTypesMatch<["cache", "result"]>,
     AllElementTypesMatch<["cache", "rows"]>]> {
  let summary = "puts rows into a key or value cache, in place";
  let description = [{
    `result = cache` with `result[b, slots[b,s], :] = rows[b, s, :]`. The result
    takes the memory of `cache`.

    Constraints:
    - (C1) `cache` [B,C,w] and `rows` [B,S,w] agree in B, w and element type,
      `slots` is [B,S], and the result has the type of `cache`.
    - (C2) the op is the only user of `cache`.

    Example:
    ```mlir
    %k1 = moe.cache_update %cache, %k, %slots : (tensor<1x64x32xf32>, tensor<1x1x32xf32>, tensor<1x1xi32>) -> tensor<1x64x32xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$cache, MoE_Activation:$rows,
                       MoE_Ids:$slots);
  let results = (outs MoE_Activation:$result);
}

def MoE_LastTokenOp : MoE_TensorOp<"last_token",
    [Pure, MoE_Levels<"Objective", "Fused">, AllElementTypesMatch<["input", "result"]>]> {
  let summary = "the last token of every row";
  let description = [{
    `y[b,0,:] = x[b,S-1,:]`. Generation needs only the logits of this token.

    Constraints:
    - (C1) `input` [B,S,D], result [B,1,D] of the same element type.

    Example:
    ```mlir
    %y = moe.last_token %h : (tensor<?x?x64xf32>) -> tensor<?x1x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$input);
  let results = (outs MoE_Activation:$result);
}

def MoE_FfnOp : MoE_BackboneOp<"ffn",
                               [MoE_Products, AllTypesMatch<["input", "result"]>], ["saveForBackward"],
                               /*first=*/"Model", /*last=*/"Step"> {
  let summary = "the feed-forward network of a layer";
  let description = [{
    `gated`: `y = (act(x gate^T) * (x up^T)) down^T`, weights gate [F,D], up
    [F,D], down [D,F]. `plain`: `y = act(x up^T) down^T`, weights up [F,D],
    down [D,F]; or, with biases, `y = act(x up^T + b) down^T + c`, weights up
    [F,D], b [F], down [D,F], c [D]. Pre-activations are rounded to the type of
    the input before the activation; it equals `moe.experts` with one expert of
    score 1 bit for bit.

    The backward needs `preactivation` [T, 2F] (gate, then up) or [T, F].

    Constraints:
    - (C1) result and `input` have one type.
    - (C2) the weights are those of `form` and `activation`, with biases or
      without, and with one D and one F.
    - (C3) `preactivation`, where present, is [T,2F] if `gated`, else [T,F].

    Example:
    ```mlir
    %y = moe.ffn %x, %gate, %up, %down {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
      : (tensor<?x?x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> tensor<?x?x64xf32>
    ```
  }];
  let arguments = (ins MoE_Activation:$input,
                       Variadic<MoE_FloatTensor>:$weights,
                       MoE_FfnFormAttr:$form, MoE_ActivationAttr:$activation);
  let results = (outs MoE_Activation:$result,
                      Optional<MoE_Rows>:$preactivation);
}

#endif // MOE_DIALECT_BACKBONEOPS
