//===-- EntryPoint.cpp - rewriting the entry point of a module
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoint.h"

#include "mlir/IR/Builders.h"

using namespace mlir;
using namespace mlir::moe;

static BindingAttr bindingAttr(MLIRContext *context, BindingKind kind,
                               StringRef name) {
  return BindingAttr::get(context, kind, StringAttr::get(context, name));
}

FailureOr<func::FuncOp> mlir::moe::lookupForward(ModuleOp module) {
  auto forward = module.lookupSymbol<func::FuncOp>("forward");
  if (!forward || forward.isExternal())
    return module.emitError() << "expected a model with a function @forward";
  if (!forward.getBody().hasOneBlock())
    return forward.emitOpError() << "expected one block, but got several";
  return forward;
}

/// The argument that is bound so, or null.
static BlockArgument findArgument(func::FuncOp function, BindingAttr binding) {
  for (BlockArgument argument : function.getArguments())
    if (BindingAttr::ofArgument(function, argument.getArgNumber()) == binding)
      return argument;
  return {};
}

FailureOr<BlockArgument> mlir::moe::lookupInput(func::FuncOp function,
                                                StringRef name) {
  auto wanted = bindingAttr(function.getContext(), BindingKind::Input, name);
  if (BlockArgument argument = findArgument(function, wanted))
    return argument;
  return function.emitOpError()
         << "expected an argument with moe.binding = " << wanted;
}

BlockArgument mlir::moe::getOrAddInput(func::FuncOp function, Type type,
                                       StringRef name) {
  auto wanted = bindingAttr(function.getContext(), BindingKind::Input, name);
  BlockArgument argument = findArgument(function, wanted);
  return argument ? argument : addArgument(function, type, wanted);
}

FailureOr<Value> mlir::moe::lookupOutput(func::FuncOp function,
                                         StringRef name) {
  auto wanted = bindingAttr(function.getContext(), BindingKind::Output, name);
  for (unsigned i = 0; i < function.getNumResults(); ++i)
    if (BindingAttr::ofResult(function, i) == wanted)
      return returnOf(function).getOperand(i);
  return function.emitOpError()
         << "expected a result with moe.binding = " << wanted;
}

BlockArgument mlir::moe::addArgument(func::FuncOp function, Type type,
                                     BindingKind kind, StringRef name) {
  return addArgument(function, type,
                     bindingAttr(function.getContext(), kind, name));
}

void mlir::moe::addResults(func::FuncOp function, ValueRange values) {
  unsigned first = function.getNumResults();
  for (auto [i, value] : llvm::enumerate(values)) {
    LogicalResult inserted =
        function.insertResult(first + i, value.getType(), DictionaryAttr());
    assert(succeeded(inserted) && "func.func takes any result");
    (void)inserted;
  }
  returnOf(function).getOperandsMutable().append(values);
}

void mlir::moe::setOutputs(func::FuncOp function, ValueRange values,
                           ArrayRef<StringRef> names) {
  returnOf(function).getOperandsMutable().assign(values);
  function.removeResAttrsAttr();
  function.setType(FunctionType::get(
      function.getContext(), function.getArgumentTypes(), TypeRange(values)));
  for (auto [i, name] : llvm::enumerate(names))
    function.setResultAttrs(
        i, bindingAttr(function.getContext(), BindingKind::Output, name)
               .asAttributes());
}

ValueRange mlir::moe::replaceCall(func::CallOp call, func::FuncOp callee,
                                  ValueRange operands) {
  OpBuilder builder(call);
  SmallVector<Value> all(call.getOperands());
  llvm::append_range(all, operands);
  auto longer = func::CallOp::create(builder, call.getLoc(), callee, all);
  unsigned before = call.getNumResults();
  call.replaceAllUsesWith(longer.getResults().take_front(before));
  call.erase();
  return longer.getResults().drop_front(before);
}

func::ReturnOp mlir::moe::returnOf(func::FuncOp function) {
  return cast<func::ReturnOp>(function.getBody().front().getTerminator());
}
