//===-- Interpreter.cpp - runs a module op by op --------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Interpreter.h"

#include "moe/Runtime/Error.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace mlir::moe;

namespace polymoe {

std::vector<at::Tensor> Interpreter::run(func::FuncOp function,
                                         ArrayRef<at::Tensor> arguments,
                                         std::vector<RoutedLayer> &routed) {
  if (function.isExternal() || !function.getBody().hasOneBlock())
    fail("function @", function.getName().str(),
         ": expected a body of one block");
  Frame frame(routed);
  for (auto [argument, tensor] :
       llvm::zip_equal(function.getArguments(), arguments))
    frame.set(argument, tensor);
  for (Operation &op : function.getBody().front()) {
    if (auto ret = dyn_cast<func::ReturnOp>(op)) {
      std::vector<at::Tensor> results;
      for (Value operand : ret.getOperands())
        results.push_back(frame[operand]);
      return results;
    }
    std::vector<at::Tensor> results = evaluateAny(op, frame, routed);
    if (results.size() != op.getNumResults())
      fail(op.getName().getStringRef().str(), " in @", function.getName().str(),
           ": expected an op of the model level, but got one with results that "
           "only a backward reads");
    for (auto [value, tensor] : llvm::zip_equal(op.getResults(), results))
      frame.set(value, std::move(tensor));
  }
  llvm_unreachable("a function ends with func.return");
}

std::vector<at::Tensor>
Interpreter::evaluateAny(Operation &op, Frame &frame,
                         std::vector<RoutedLayer> &routed) {
  return llvm::TypeSwitch<Operation *, std::vector<at::Tensor>>(&op)
      .Case<EmbeddingOp, RmsNormOp, LayerNormOp, ConcatRowsOp, LinearOp, AddOp,
            ScaleOp, SoftCapOp, FfnOp, RotaryTableOp, RotaryOp, AttentionOp,
            RouterOp, LanguageGateOp, PoolOp, RouteOp, ExpertsOp>(
          [&](auto op) { return evaluate(op, frame); })
      .Case([&](GetParameterOp op) -> std::vector<at::Tensor> {
        return {parameters(op.getName())};
      })
      .Case([&](func::CallOp call) {
        SmallVector<at::Tensor> arguments;
        for (Value operand : call.getOperands())
          arguments.push_back(frame[operand]);
        return run(symbols.lookup<func::FuncOp>(call.getCallee()), arguments,
                   routed);
      })
      .Default([&](Operation *op) -> std::vector<at::Tensor> {
        fail("expected an op of the model level, but got ",
             op->getName().getStringRef().str(), " in @",
             op->getParentOfType<func::FuncOp>().getName().str());
      });
}

} // namespace polymoe
