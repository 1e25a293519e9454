//===-- MoEDialect.td - the moe dialect --------------------*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_MOEDIALECT
#define MOE_DIALECT_MOEDIALECT

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"

def MoE_Dialect : Dialect {
  let name = "moe";
  let cppNamespace = "::mlir::moe";
  let summary = "Multilingual mixtures of experts and their training steps";
  let description = [{
    A decoder-only language model on tensors, from the checkpoint's parameters
    to the losses of its training stages.

    Shape letters: `B` rows of a batch, `S` tokens of a row, `T = B*S` tokens,
    `D` model width, `F` FFN hidden width, `E` experts of a layer, `K` experts
    of a token, `R = T*K` routed rows, `H` heads, `Hkv` key/value heads, `d`
    width of a head, `V` vocabulary. Activations are `[B, S, width]`; `B` and
    `S` are dynamic (`?x?`) until `moe-specialize-shapes` fixes both.

    The IR never holds weights: a `moe.parameter` says where its value comes
    from, and the runtime loads it.
  }];
  let dependentDialects = ["::mlir::func::FuncDialect"];
  let useDefaultTypePrinterParser = 1;
  let useDefaultAttributePrinterParser = 1;
  let hasOperationAttrVerify = 1;
  let hasRegionArgAttrVerify = 1;
  let hasRegionResultAttrVerify = 1;
  // DiscardableAttributes.cpp checks on which op each stands and what it holds.
  let discardableAttrs = (ins
      // Of an argument or a result of an entry point: what it is bound to.
      "BindingAttr":$binding,
      // Of a func.func: the function that computes its gradients.
      "::mlir::FlatSymbolRefAttr":$backward,
      // Of a function that is made of a kernel: FLOPs and bytes of one launch.
      "::mlir::DenseF64ArrayAttr":$cost,
      // Of an entry point that is an llvm.func: what each pointer is bound to.
      "::mlir::ArrayAttr":$bindings,
      // Of a module: the model's family and config, and, where they are known, its
      // tokenizer and the checkpoint keys that it ignores.
      "::mlir::DictionaryAttr":$model,
      // Of a module: coefficient and form of each term of the loss.
      "::mlir::DictionaryAttr":$objective,
      // Of a module in the LLVM dialect: ABI version and instruction set.
      "::mlir::DictionaryAttr":$target,
      // Of a module: the text of the model that it was compiled from.
      "::mlir::DenseUI8ResourceElementsAttr":$source,
      // Of a module: the group of each language, by the language's code.
      "::mlir::DictionaryAttr":$groups);
}

class MoE_Op<string mnemonic, list<Trait> traits = []>
    : Op<MoE_Dialect, mnemonic, traits>;

// An op of the levels above kernels, whose constraints a verifier checks.
class MoE_TensorOp<string mnemonic, list<Trait> traits = []>
    : MoE_Op<mnemonic, traits> {
  let assemblyFormat = [{
    operands attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

#endif // MOE_DIALECT_MOEDIALECT
