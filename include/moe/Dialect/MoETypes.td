//===-- MoETypes.td - types of the moe dialect -------------*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_MOETYPES
#define MOE_DIALECT_MOETYPES

include "moe/Dialect/MoEDialect.td"

class MoE_Type<string name, string typeMnemonic, list<Trait> traits = []>
    : TypeDef<MoE_Dialect, name, traits> {
  let mnemonic = typeMnemonic;
}

def MoE_RoutesType : MoE_Type<"Routes", "routes"> {
  let summary = "the assignment of tokens to experts";
  let description = [{
    `!moe.routes<T x E, K>`: which `K` of `E` experts each of `T` tokens goes
    to, 1 <= K <= E. `T` is `?` until `moe-specialize-shapes` fixes it.

    Route `t*K + k` is choice `k` of token `t`. Routes lead to rows: rows are
    grouped by expert, and the rows of an expert are in token order. Where a
    language gate sends a token to expert 0, the token has choice 0 alone, and
    its other routes are missing. A missing route has no row; it counts as one
    with a score of 0 and gets a gradient of 0.

    There is memory for `T*K` rows, and those in use come first. Their number is
    data on the device, which the host never reads. Matrices of rows hold nothing
    behind the rows in use; the routes list the missing routes there.

    The scores are a tensor of their own: they have gradients, the assignment
    has none (docs/Rationale.md).

    Example: `!moe.routes<16x2, 1>`, `!moe.routes<?x6, 2>`
  }];
  let parameters = (ins "int64_t":$tokens, "int64_t":$experts,
                        "int64_t":$topK);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    bool hasStaticShape() const { return !ShapedType::isDynamic(getTokens()); }
    /// The rows that there is memory for, T*K, dynamic if T is.
    int64_t getRows() const;
    /// The integers of 32 bits that routes are in memory.
    int64_t getNumIntegers() const { return 2 * getRows() + getExperts() + 1; }
  }];
}

def MoE_TableType : MoE_Type<"Table", "table"> {
  let summary = "a table of pointers that a kernel reads at run time";
  let description = [{
    `!moe.table`: addresses of the parameters of several experts. The
    number of entries is not part of the type, so one kernel serves any number
    of experts.
  }];
}

// Tensors, by what they hold.
def MoE_Float : AnyTypeOf<[F64, F32, BF16]>;
def MoE_FloatTensor : RankedTensorOf<[F64, F32, BF16]>;
def MoE_Activation : TensorRankOf<[F64, F32, BF16], [3]>;
def MoE_Rows : TensorRankOf<[F64, F32, BF16], [2]>;
def MoE_Matrix : TensorRankOf<[F64, F32, BF16], [2]>;
def MoE_Vector : TensorRankOf<[F64, F32, BF16], [1]>;
// Router logits, scores and losses: F64 in a F64 model, F32 in any other.
def MoE_Scalar : TensorRankOf<[F64, F32], [0]>;
def MoE_Precise : TensorRankOf<[F64, F32], [3]>;
// Token ids, labels, positions: [B, S].
def MoE_Ids : TensorRankOf<[I32], [2]>;

#endif // MOE_DIALECT_MOETYPES
