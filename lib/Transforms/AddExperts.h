//===-- AddExperts.h - gives layers new experts -----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What the passes share that make mixtures: moe-upcycle, which gives all layers
// the number of experts that it is told, moe-allocate-experts, which gives each
// as many as a profile says, and moe-group-languages, one for each group.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TRANSFORMS_ADDEXPERTS_H
#define MOE_LIB_TRANSFORMS_ADDEXPERTS_H

#include "moe/Transforms/Layers.h"

namespace mlir::moe {

struct NewExperts {
  Layer layer;
  int64_t added = 0;
};

struct AddExpertsOptions {
  /// Experts of a token; a layer that has fewer takes all of them.
  int64_t topK = 2;
  /// The origin of every router.
  InitAttr router;
};

/// Gives every layer its new experts. Each begins as a copy of expert 0, which
/// is the layer's FFN, or was it before an earlier round. A dense layer becomes
/// a mixture. In a mixture the router becomes wider and is drawn anew, the
/// language gate too, and the experts that were there are backbone from now on.
/// Layers that come to differ get functions of their own, so `layers` has all
/// that share a function with one that gets experts.
LogicalResult addExperts(ModuleOp module, MutableArrayRef<NewExperts> layers,
                         const AddExpertsOptions &options);

} // namespace mlir::moe

#endif // MOE_LIB_TRANSFORMS_ADDEXPERTS_H
