//===-- MoEAttrs.td - attributes of the moe dialect --------*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_MOEATTRS
#define MOE_DIALECT_MOEATTRS

include "moe/Dialect/MoEDialect.td"
include "mlir/IR/EnumAttr.td"

class MoE_Attr<string name, string attrMnemonic, list<Trait> traits = []>
    : AttrDef<MoE_Dialect, name, traits> {
  let mnemonic = attrMnemonic;
}

class MoE_Enum<string name, string summary, list<I32EnumAttrCase> cases>
    : I32EnumAttr<name, summary, cases> {
  let cppNamespace = "::mlir::moe";
  let genSpecializedAttr = 0;
}

//===----------------------------------------------------------------------===//
// Where a parameter's value comes from
//===----------------------------------------------------------------------===//

def MoE_CheckpointAttr : MoE_Attr<"Checkpoint", "checkpoint"> {
  let summary = "a tensor of a safetensors file, or some of its rows";
  let description = [{
    The tensor `key` of `file`, a path relative to the module's folder. With
    `rows = [offset, block, stride]` the tensor is seen as a matrix `[product
    of the leading dimensions, last dimension]` (a vector as a matrix of one
    column), and rows `offset + stride*i + [0, block)` are taken for all `i`.
    This selects q, k or v out of an interleaved matrix and one expert out of a
    packed tensor.

    Example: `#moe.checkpoint<"model.safetensors", "h.0.qkv.weight", rows = [8, 8, 24]>`
  }];
  let parameters = (ins "StringAttr":$file, "StringAttr":$key,
                        OptionalParameter<"DenseI64ArrayAttr">:$rows);
  let assemblyFormat = "`<` $file `,` $key (`,` `rows` `=` $rows^)? `>`";
  let genVerifyDecl = 1;
}

def MoE_CopyAttr : MoE_Attr<"Copy", "copy"> {
  let summary = "a copy of another parameter, made at load time";
  let description = [{
    Upcycling gives new experts this initial value (MoE-LPR, section 3.1).

    Example: `#moe.copy<@"model.layers.0.mlp.up_proj.weight">`
  }];
  let parameters = (ins "FlatSymbolRefAttr":$source);
  let assemblyFormat = "`<` $source `>`";
}

def MoE_Initializer : MoE_Enum<"Initializer", "a distribution to draw from", [
    I32EnumAttrCase<"Zeros", 0, "zeros">,
    I32EnumAttrCase<"Ones", 1, "ones">,
    I32EnumAttrCase<"Normal", 2, "normal">,
    I32EnumAttrCase<"XavierNormal", 3, "xavier_normal">]>;

def MoE_InitAttr : MoE_Attr<"Init", "init"> {
  let summary = "a value drawn from a seed and the parameter's name";
  let description = [{
    `normal` draws from N(0, std^2), `xavier_normal` from N(0, 2/(in + out)).

    Example: `#moe.init<xavier_normal, seed = 0>`, `#moe.init<normal, seed = 1, std = 2.0e-02>`
  }];
  let parameters = (ins EnumParameter<MoE_Initializer>:$kind,
                        "uint64_t":$seed,
                        OptionalParameter<"FloatAttr">:$std);
  let assemblyFormat =
      "`<` $kind `,` `seed` `=` $seed (`,` `std` `=` $std^)? `>`";
}

def MoE_AnyOrigin : Attr<
    CPred<"::llvm::isa<::mlir::moe::CheckpointAttr, ::mlir::moe::CopyAttr, "
          "::mlir::moe::InitAttr>($_self)">,
    "origin of a parameter"> {
  let storageType = "::mlir::Attribute";
  let returnType = "::mlir::Attribute";
  let convertFromStorage = "$_self";
}

def MoE_PositiveAttr : ConfinedAttr<F64Attr, [AttrConstraint<
    CPred<"::llvm::cast<::mlir::FloatAttr>($_self).getValueAsDouble() > 0">,
    "whose value is positive">]>;

//===----------------------------------------------------------------------===//
// Kinds
//===----------------------------------------------------------------------===//

def MoE_Role : MoE_Enum<"Role", "what a parameter is for", [
    I32EnumAttrCase<"Backbone", 0, "backbone">,
    I32EnumAttrCase<"Expert", 1, "expert">,
    I32EnumAttrCase<"Router", 2, "router">,
    I32EnumAttrCase<"LanguageGate", 3, "language_gate">]>;
def MoE_RoleAttr : EnumAttr<MoE_Dialect, MoE_Role, "role">;

def MoE_Activation_ : MoE_Enum<"ActivationKind", "activation of an FFN", [
    I32EnumAttrCase<"Silu", 0, "silu">,
    I32EnumAttrCase<"Gelu", 1, "gelu">,
    I32EnumAttrCase<"GeluTanh", 2, "gelu_tanh">,
    I32EnumAttrCase<"Xielu", 3, "xielu">]> {
  let description = [{
    `xielu` (Apertus) has two scalars, which train as weights do. With `p =
    softplus(alpha_p)` and `n = 1/2 + softplus(alpha_n)`, `act(x)` is `p x^2 +
    x/2` for `x > 0`, else `n (expm1(min(x, -1e-6)) - x) + x/2`.
  }];
}
def MoE_ActivationAttr : EnumAttr<MoE_Dialect, MoE_Activation_, "activation"> {
  let assemblyFormat = "`<` $value `>`";
}

def MoE_FfnForm : MoE_Enum<"FfnForm", "which matrices an FFN has", [
    I32EnumAttrCase<"Gated", 0, "gated">,
    I32EnumAttrCase<"Plain", 1, "plain">]> {
  let description = [{
    `gated`: gate [F,D], up [F,D], down [D,F]; `down (act(gate x) * up x)`.
    `plain`: up [F,D], down [D,F]; `down act(up x)`. Or with a bias after each
    matrix, [F] and [D]; `down act(up x + b_up) + b_down`.
    In either form the scalars of the activation, where it has some, are the
    last: alpha_p and alpha_n, [1] each, of `xielu`.
  }];
}
def MoE_FfnFormAttr : EnumAttr<MoE_Dialect, MoE_FfnForm, "ffn"> {
  let assemblyFormat = "`<` $value `>`";
}

def MoE_BalanceForm : MoE_Enum<"LossForm", "which form of a router loss", [
    I32EnumAttrCase<"Paper", 0, "paper">,
    I32EnumAttrCase<"Reference", 1, "reference">]>;
def MoE_LossFormAttr : EnumAttr<MoE_Dialect, MoE_BalanceForm, "form"> {
  let assemblyFormat = "`<` $value `>`";
}

def MoE_PoolKind : MoE_Enum<"PoolKind", "what a language gate looks at", [
    I32EnumAttrCase<"CausalMean", 0, "causal_mean">,
    I32EnumAttrCase<"SequenceSum", 1, "sequence_sum">]>;
def MoE_PoolAttr : EnumAttr<MoE_Dialect, MoE_PoolKind, "pool"> {
  let assemblyFormat = "`<` $value `>`";
}

def MoE_Level : MoE_Enum<"Level", "a level of the compiler", [
    I32EnumAttrCase<"Model", 0, "model">,
    I32EnumAttrCase<"Objective", 1, "objective">,
    I32EnumAttrCase<"Step", 2, "step">,
    I32EnumAttrCase<"Fused", 3, "fused">,
    I32EnumAttrCase<"Kernels", 4, "kernels">]>;

//===----------------------------------------------------------------------===//
// What an argument of an entry point is bound to
//===----------------------------------------------------------------------===//

def MoE_BindingKind : MoE_Enum<"BindingKind", "what memory is bound", [
    I32EnumAttrCase<"Input", 0, "input">,
    I32EnumAttrCase<"Output", 1, "output">,
    I32EnumAttrCase<"Parameter", 2, "parameter">,
    I32EnumAttrCase<"Gradient", 3, "gradient">,
    I32EnumAttrCase<"Packed", 4, "packed">,
    I32EnumAttrCase<"State", 5, "state">,
    I32EnumAttrCase<"Arena", 6, "arena">,
    I32EnumAttrCase<"StepGradient", 7, "step_gradient">]>;

def MoE_BindingAttr : MoE_Attr<"Binding", "binding"> {
  let summary = "the meaning of an argument or result of an entry point";
  let description = [{
    The names are

    - of an `input`: `tokens`, `labels`, `positions`, `slots`, `segments`,
      `old`, `groups`, `token_weight`, `old_weight`, `micro_batch_weight`,
      `position_weight`
    - of an `output`: `loss`, `next_token`, `balance`, `language_prior`,
      `classifier`, `router_cross_entropy`, `logprobs`, `logits`,
      `directions.<layer>`, `loads.<layer>`
    - of a `state`: `keys.<layer>`, `values.<layer>`, `gates.<layer>`
    - of a `parameter`, a `gradient` or a `step_gradient`: the parameter's
    - of a `packed` value: `<parameter>.<derives>`

    The program adds to a `gradient`. It overwrites a `step_gradient`, which
    lies in the arena at `offset` once the arena is planned. `type` is the type
    of the memory where the argument is a pointer, which does not say it.

    Example: `#moe.binding<input, "tokens">`, `#moe.binding<step_gradient, "norm" in memref<64xf32>, offset = 128>`
  }];
  let parameters = (ins EnumParameter<MoE_BindingKind>:$kind,
                        "StringAttr":$name,
                        DefaultValuedParameter<"int64_t", "-1">:$offset,
                        OptionalParameter<"MemRefType">:$type);
  let builders = [AttrBuilder<(ins "BindingKind":$kind, "StringAttr":$name,
                                   CArg<"int64_t", "-1">:$offset), [{
    return $_get($_ctxt, kind, name, offset, MemRefType());
  }]>];
  let assemblyFormat = [{
    `<` $kind `,` $name (`in` $type^)? (`,` `offset` `=` $offset^)? `>`
  }];
  let extraClassDeclaration = [{
    /// What an argument or a result of `function` is bound to, or null.
    static BindingAttr ofArgument(FunctionOpInterface function, unsigned index);
    static BindingAttr ofResult(FunctionOpInterface function, unsigned index);

    /// The attributes of an argument or a result that is bound so.
    DictionaryAttr asAttributes();
  }];
}

#endif // MOE_DIALECT_MOEATTRS
