//===-- MoEInterfaces.td - interfaces of the moe dialect ---*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_MOEINTERFACES
#define MOE_DIALECT_MOEINTERFACES

include "mlir/IR/OpBase.td"

def MoE_DifferentiableOpInterface : OpInterface<"DifferentiableOpInterface"> {
  let cppNamespace = "::mlir::moe";
  let description = [{
    An op with a reverse-mode derivative (vector-Jacobian product).
  }];
  let methods = [
    InterfaceMethod<[{
        Gives the op the results that its backward needs beside its own (a
        pre-activation, the log-sum-exp of attention), where they are optional.
        Returns the op to use in the forward, which replaces this one.
      }],
      "::mlir::Operation *", "saveForBackward", (ins "::mlir::RewriterBase &":$rewriter),
      [{}], [{ return $_op; }]>,
    InterfaceMethod<[{
        Builds the gradients of the operands from those of the results.

        `resultGrads[i]` is the gradient of result `i`, null where it is zero.
        `wanted[j]` says whether operand `j` needs a gradient; for each that
        does, `operandGrads[j]` is set, or left null where it is zero.
      }],
      "void", "buildVjp",
      (ins "::mlir::OpBuilder &":$builder,
           "::mlir::ValueRange":$resultGrads,
           "::llvm::ArrayRef<bool>":$wanted,
           "::llvm::MutableArrayRef<::mlir::Value>":$operandGrads)>,
  ];
}

def MoE_CostOpInterface : OpInterface<"CostOpInterface"> {
  let cppNamespace = "::mlir::moe";
  let description = [{
    An op that multiplies matrices. Its shapes must be static.
  }];
  let methods = [
    InterfaceMethod<[{
        The op's matrix products. Experts are taken to have equal shares of the
        rows. What a query sees of a cache is data: it counts nothing.
      }],
      "::llvm::SmallVector<::mlir::moe::MatrixProduct>", "getProducts">,
  ];
}
// Not a record of its own, so that the reference of the dialect names the
// interface.
defvar MoE_Products = DeclareOpInterfaceMethods<MoE_CostOpInterface>;

def MoE_LevelOpInterface : OpInterface<"LevelOpInterface"> {
  let cppNamespace = "::mlir::moe";
  let description = [{
    An op that says from which level to which a module may hold it.
  }];
  let methods = [
    StaticInterfaceMethod<"The first level that has the op.",
      "::mlir::moe::Level", "getFirstLevel">,
    StaticInterfaceMethod<"The last level that has the op.",
      "::mlir::moe::Level", "getLastLevel">,
  ];
}

class MoE_LevelsTrait<string first, string last>
    : ParamNativeOpTrait<"Levels", "Level::" # first # ", Level::" # last> {
  let cppNamespace = "::mlir::moe";
}

/// The levels at which an op may stand, from `first` to `last`.
class MoE_Levels<string first, string last>
    : TraitList<[MoE_LevelsTrait<first, last>, MoE_LevelOpInterface]>;

/// An op so cheap that its result is recomputed in the backward rather than
/// saved when memory is scarce: elementwise or row-wise, no matrix product.
def MoE_CheapToRecompute : NativeOpTrait<"CheapToRecompute"> {
  let cppNamespace = "::mlir::moe";
}

#endif // MOE_DIALECT_MOEINTERFACES
