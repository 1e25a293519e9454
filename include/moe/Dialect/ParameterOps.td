//===-- ParameterOps.td - parameters and their gradients -*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_PARAMETEROPS
#define MOE_DIALECT_PARAMETEROPS

include "moe/Dialect/MoEAttrs.td"
include "moe/Dialect/MoEInterfaces.td"
include "moe/Dialect/MoETypes.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def MoE_ParameterOp : MoE_Op<"parameter",
    [Symbol, MoE_Levels<"Model", "Fused">,
     DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "declares a parameter: its type, role and origin";
  let description = [{
    A symbol for a tensor that lives outside the IR. `origin` says where its
    value comes from before training; `trainable` says whether training changes
    it. What is not trainable costs no gradient and no optimiser state.

    A parameter trains as a whole or not at all, so every expert has parameters
    of its own, also where a checkpoint packs all experts into one tensor.

    Constraints:
    - (C1) `type` is a static ranked tensor of f64, f32 or bf16.
    - (C2) `origin` is a checkpoint, copy or init attribute.
    - (C3) the source of a copy origin is a `moe.parameter` of the same type.

    Example:
    ```mlir
    moe.parameter backbone @norm : tensor<64xf32> from #moe.checkpoint<"model.safetensors", "norm.weight">
    moe.parameter trainable router @gate : tensor<6x64xf32> from #moe.init<xavier_normal, seed = 0>
    ```
  }];
  let arguments = (ins UnitAttr:$trainable, MoE_RoleAttr:$role,
                       SymbolNameAttr:$sym_name,
                       TypeAttrOf<MoE_FloatTensor>:$type,
                       MoE_AnyOrigin:$origin);
  let assemblyFormat = [{
    (`trainable` $trainable^)? `` $role $sym_name `:` $type `from` $origin attr-dict
  }];
  let hasVerifier = 1;
}

def MoE_GetParameterOp : MoE_Op<"get_parameter",
    [Pure, MoE_Levels<"Model", "Fused">,
     DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "the value of a parameter";
  let description = [{
    Constraints:
    - (C1) `name` is a `moe.parameter` of the result's type.

    Example:
    ```mlir
    %w = moe.get_parameter @norm : tensor<64xf32>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$name);
  let results = (outs MoE_FloatTensor:$result);
  let assemblyFormat = "$name attr-dict `:` type($result)";
}

def MoE_AccumulateGradientOp : MoE_Op<"accumulate_gradient",
    [MoE_Levels<"Step", "Fused">,
     DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "adds to the gradient of a trainable parameter";
  let description = [{
    `gradient(name) += value`, in f32 (f64 for a f64 parameter), so that
    micro-batches accumulate. A step has these ops in the order in which the
    backward completes the gradients. The runtime lays gradients out in memory
    in this order, so that an all-reduce could sum contiguous ranges of them.

    Constraints:
    - (C1) `name` is a trainable `moe.parameter` of the shape of `value`.
    - (C2) `value` is of f32, or of f64 for a f64 parameter.

    Example:
    ```mlir
    moe.accumulate_gradient @gate, %dw : tensor<6x64xf32>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$name, MoE_FloatTensor:$value);
  let assemblyFormat = "$name `,` $value attr-dict `:` type($value)";
}

#endif // MOE_DIALECT_PARAMETEROPS
