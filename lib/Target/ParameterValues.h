//===-- ParameterValues.h - what is a parameter across calls ----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Layers that are alike share a function, whose weights are arguments. Work on
// a weight that is done once, outside the program, is possible only if every
// call of the function passes a parameter for it.
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
  /// No values.
  ParameterValues() = default;
  /// The values that are a parameter whose name `counts`: arguments of entry
  /// points, results of moe.get_parameter, and arguments of private functions
  /// for which every call passes one.
  ParameterValues(ModuleOp module, function_ref<bool(StringAttr)> counts);

  bool contains(Value value) const { return values.contains(value); }

private:
  llvm::DenseSet<Value> values;
};

/// Whether parameter `name` trains.
bool trains(const SymbolTable &symbols, StringAttr name);

/// The values that are packed once.
ParameterValues valuesPackedOnce(ModuleOp module, PackedOnce which);

} // namespace mlir::moe

#endif // MOE_TARGET_PARAMETERVALUES_H
