//===-- ConvertDType.cpp - lets a model compute in another type
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Passes.h"

#include "mlir/IR/BuiltinOps.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTDTYPE
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// The values that are precise in a model of any type, router scores and rotary
/// tables, also where calls pass them on.
DenseSet<Value> preciseValues(ModuleOp module) {
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
      if (callee.isExternal())
        return;
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

struct ConvertDType : FailablePass<moe::impl::ConvertDTypeBase<ConvertDType>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override {
    Type precise = Float32Type::get(&getContext());
    Type target = precise;
    if (dtype == "bf16")
      target = BFloat16Type::get(&getContext());
    else if (dtype != "fp32")
      return module.emitError()
             << "expected dtype to be fp32 or bf16, but got '" << dtype << "'";
    auto convert = [](Type type, Type element) -> Type {
      auto tensor = dyn_cast<RankedTensorType>(type);
      return tensor && isa<FloatType>(tensor.getElementType())
                 ? tensor.clone(element)
                 : type;
    };
    DenseSet<Value> preciseOnes = preciseValues(module);
    auto convertValue = [&](Value value) {
      // In a f64 model precise values are f64 too.
      value.setType(convert(value.getType(),
                            preciseOnes.contains(value) ? precise : target));
    };
    module.walk([&](Operation *op) {
      if (auto parameter = dyn_cast<ParameterOp>(op)) {
        Type type = convert(parameter.getType(), target);
        numConverted += type != parameter.getType();
        parameter.setType(cast<RankedTensorType>(type));
      }
      llvm::for_each(op->getResults(), convertValue);
      for (Region &region : op->getRegions())
        llvm::for_each(region.getArguments(), convertValue);
    });
    module.walk([&](func::FuncOp function) {
      if (!function.isExternal())
        function.setType(FunctionType::get(
            &getContext(), function.front().getArgumentTypes(),
            function.front().getTerminator()->getOperandTypes()));
    });
    return success();
  }
};

} // namespace
