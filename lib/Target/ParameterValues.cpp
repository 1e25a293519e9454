//===-- ParameterValues.cpp - what is a parameter across calls ------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ParameterValues.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

using namespace mlir;
using namespace mlir::moe;

ParameterValues::ParameterValues(ModuleOp module,
                                 function_ref<bool(StringAttr)> counts) {
  SymbolTable symbols(module);
  SmallVector<func::CallOp> calls;
  llvm::DenseSet<Operation *> callees;
  module.walk([&](Operation *op) {
    if (auto call = dyn_cast<func::CallOp>(op)) {
      calls.push_back(call);
      callees.insert(symbols.lookup(call.getCallee()));
    } else if (auto get = dyn_cast<GetParameterOp>(op);
               get && counts(get.getNameAttr().getAttr())) {
      values.insert(get.getResult());
    }
  });
  for (auto function : module.getOps<func::FuncOp>()) {
    if (function.isExternal())
      continue;
    for (auto [i, argument] : llvm::enumerate(function.getArguments())) {
      auto binding = BindingAttr::ofArgument(function, i);
      bool isParameter = binding &&
                         binding.getKind() == BindingKind::Parameter &&
                         counts(binding.getName());
      if (function.isPrivate() ? callees.contains(function) : isParameter)
        values.insert(argument);
    }
  }
  // Removes arguments until every call agrees.
  bool changed = true;
  while (changed) {
    changed = false;
    for (func::CallOp call : calls) {
      auto callee = symbols.lookup<func::FuncOp>(call.getCallee());
      for (auto [operand, argument] :
           llvm::zip_equal(call.getOperands(), callee.getArguments()))
        if (!values.contains(operand))
          changed |= values.erase(argument);
    }
  }
}

bool mlir::moe::trains(const SymbolTable &symbols, StringAttr name) {
  auto op = symbols.lookup<ParameterOp>(name);
  return op && op.getTrainable();
}

ParameterValues mlir::moe::valuesPackedOnce(ModuleOp module, PackedOnce which) {
  SymbolTable symbols(module);
  return {module, [&](StringAttr name) {
            return which == PackedOnce::All || !trains(symbols, name);
          }};
}
