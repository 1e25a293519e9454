//===-- EntryPoint.h - rewriting the entry point of a module ----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Helpers of the passes that turn @forward into a program. They change its
// bindings, its signature, and the signatures of the functions that it calls.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TRANSFORMS_ENTRYPOINT_H
#define MOE_LIB_TRANSFORMS_ENTRYPOINT_H

#include "moe/Dialect/MoE.h"

#include "mlir/IR/BuiltinOps.h"

namespace mlir::moe {

/// The function @forward of a model, or an error.
FailureOr<func::FuncOp> lookupForward(ModuleOp module);

/// The argument or returned value of `function` that is bound to `name`, or an
/// error.
FailureOr<BlockArgument> lookupInput(func::FuncOp function, StringRef name);
FailureOr<Value> lookupOutput(func::FuncOp function, StringRef name);

/// Appends an argument; `name` is the binding's, or empty in a function that
/// is no entry point.
BlockArgument addArgument(func::FuncOp function, Type type, BindingKind kind,
                          StringRef name);

/// The argument of an entry point that is bound to the input `name`; appends
/// one if there is none.
BlockArgument getOrAddInput(func::FuncOp function, Type type, StringRef name);

/// Appends `values` to what `function` returns.
void addResults(func::FuncOp function, ValueRange values);

/// Makes `function` return `values`, bound to the outputs `names`, in place of
/// what it returned.
void setOutputs(func::FuncOp function, ValueRange values,
                ArrayRef<StringRef> names);

/// Replaces `call` by a call of `callee`, which takes `operands` in addition
/// and returns additional results; returns those.
ValueRange replaceCall(func::CallOp call, func::FuncOp callee,
                       ValueRange operands);

/// The one return of a function.
func::ReturnOp returnOf(func::FuncOp function);

} // namespace mlir::moe

#endif // MOE_LIB_TRANSFORMS_ENTRYPOINT_H
