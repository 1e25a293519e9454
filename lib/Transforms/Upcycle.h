//===-- Upcycle.h - turning dense layers into mixtures ----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What the passes share that give layers experts: which layers get how many is
// theirs to choose.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TRANSFORMS_UPCYCLE_H
#define MOE_LIB_TRANSFORMS_UPCYCLE_H

#include "moe/Transforms/Layers.h"

namespace mlir::moe {

/// A dense layer and the mixture that replaces it.
struct Expansion {
  Layer layer;
  /// The original FFN included. A layer with one expert stays dense.
  int64_t experts = 1;
  /// The router and the new experts, as the layer's call will pass them.
  SmallVector<Value> parameters = {};
};

/// Turns layers into mixtures of copies of their FFNs.
class Expander {
public:
  /// `topK` experts of a token, or all of a layer that has fewer; routers are
  /// drawn by `router`.
  Expander(int64_t topK, InitAttr router) : topK(topK), router(router) {}

  /// Expands all layers of a model in one call: functions that layers share are
  /// cloned where the layers come to differ. Fails if a number of experts is
  /// out of range or a layer cannot become a mixture.
  LogicalResult expand(ModuleOp module, MutableArrayRef<Expansion> expansions,
                       SymbolTable &symbols);

  int64_t numLayers = 0;  ///< layers that became mixtures
  int64_t numExperts = 0; ///< experts added

private:
  LogicalResult check(ModuleOp module, ArrayRef<Expansion> expansions) const;
  void expandFunction(const Expansion &expansion, func::FuncOp function,
                      FfnOp ffn) const;
  LogicalResult makeParameters(Expansion &expansion, SymbolTable &symbols);

  int64_t topK;
  InitAttr router;
};

} // namespace mlir::moe

#endif // MOE_LIB_TRANSFORMS_UPCYCLE_H
