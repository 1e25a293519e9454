//===-- ParameterValues.h - what is a parameter across calls ----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Layers that are alike share a function, whose weights are arguments. What is
// done with a weight once, beside the program, may only be done in a function
// for which every caller passes a parameter.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_PARAMETERVALUES_H
#define MOE_TARGET_PARAMETERVALUES_H

#include "moe/Dialect/MoE.h"
#include "moe/Target/CPU/TargetDescription.h"

#include "llvm/ADT/DenseSet.h"

namespace mlir::moe {

class ParameterValues {
public:
  /// None.
  ParameterValues() = default;
  /// Those of the parameters that `counts` chooses by their name: arguments of
  /// entry points and results of moe.get_parameter that are one, and arguments
  /// of private functions that are one in every call.
  ParameterValues(ModuleOp module, function_ref<bool(StringAttr)> counts);

  bool contains(Value value) const { return values.contains(value); }

private:
  llvm::DenseSet<Value> values;
};

/// Whether a module says that parameter `name` trains.
bool trains(const SymbolTable &symbols, StringAttr name);

/// What is packed once if that is so for parameters `which`.
ParameterValues valuesPackedOnce(ModuleOp module, PackedOnce which);

} // namespace mlir::moe

#endif // MOE_TARGET_PARAMETERVALUES_H
