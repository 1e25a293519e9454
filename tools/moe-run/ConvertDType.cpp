//===-- ConvertDType.cpp - lets a module compute in another type ----------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Model.h"

using namespace mlir;
using namespace mlir::moe;

namespace polymoe {

/// The values that stay precise in a model of any type: router scores and
/// rotary tables, wherever calls carry them.
static DenseSet<Value> preciseValues(ModuleOp module) {
  DenseSet<Value> precise;
  module.walk([&](Operation *op) {
    if (isa<RouterOp, LanguageGateOp, PoolOp, RouteOp, RotaryTableOp>(op))
      precise.insert(op->result_begin(), op->result_end());
  });
  bool changed = true;
  while (changed) {
    changed = false;
    module.walk([&](func::CallOp call) {
      auto callee = module.lookupSymbol<func::FuncOp>(call.getCallee());
      for (auto [operand, argument] :
           llvm::zip_equal(call.getOperands(), callee.getArguments()))
        if (precise.contains(operand))
          changed |= precise.insert(argument).second;
      Operation *terminator = callee.getBody().front().getTerminator();
      for (auto [returned, result] :
           llvm::zip_equal(terminator->getOperands(), call.getResults()))
        if (precise.contains(returned))
          changed |= precise.insert(result).second;
    });
  }
  return precise;
}

OwningOpRef<ModuleOp> withDType(ModuleOp original, const std::string &dtype) {
  OwningOpRef<ModuleOp> module = original.clone();
  if (dtype.empty())
    return module;
  MLIRContext *context = module->getContext();
  Type target = dtype == "bf16" ? Type(BFloat16Type::get(context))
                                : Type(Float32Type::get(context));
  auto convert = [&](Type type) -> Type {
    auto tensor = dyn_cast<RankedTensorType>(type);
    return tensor && isa<FloatType>(tensor.getElementType())
               ? tensor.clone(target)
               : type;
  };
  DenseSet<Value> precise = preciseValues(*module);
  auto convertValue = [&](Value value) {
    // In a f64 model what is precise is f64 too.
    if (!precise.contains(value))
      value.setType(convert(value.getType()));
    else if (auto tensor = dyn_cast<RankedTensorType>(value.getType()))
      value.setType(tensor.clone(Float32Type::get(context)));
  };
  module->walk([&](Operation *op) {
    if (auto parameter = dyn_cast<ParameterOp>(op))
      parameter.setType(cast<RankedTensorType>(convert(parameter.getType())));
    for (Value result : op->getResults())
      convertValue(result);
    for (Region &region : op->getRegions())
      for (Block &block : region)
        for (BlockArgument argument : block.getArguments())
          convertValue(argument);
  });
  module->walk([&](func::FuncOp function) {
    if (function.isExternal())
      return;
    Block &body = function.getBody().front();
    function.setType(
        FunctionType::get(context, body.getArgumentTypes(),
                          body.getTerminator()->getOperandTypes()));
  });
  return module;
}

} // namespace polymoe
