//===-- Facts.h - what a model costs ----------------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TOOLS_MOE_RUN_FACTS_H
#define MOE_TOOLS_MOE_RUN_FACTS_H

#include "moe/Dialect/MoE.h"

#include <array>
#include <cstdint>
#include <vector>

namespace polymoe {

/// One feed-forward layer; one expert where it is dense.
struct LayerFacts {
  int64_t experts = 1;
  int64_t topK = 1;
  int64_t trainableExperts = 0;
  bool isGated = false; ///< by a language gate
};

struct RoleFacts {
  int64_t tensors = 0, elements = 0, bytes = 0;
  int64_t trainableTensors = 0, trainableElements = 0;
};

/// FLOPs are those of matrix products and attention, a multiplication and an
/// addition counting two. A backward computes a gradient of each input that a
/// trainable parameter influences, and of each trainable weight.
struct ModelFacts {
  std::array<RoleFacts, 4> roles; ///< by mlir::moe::Role
  std::vector<LayerFacts> layers; ///< in the order in which they run
  double forwardFlops = 0;        ///< of a token
  double backwardFlops = 0;
  /// Elements of matrices that one token is multiplied with.
  double activeElements = 0;

  RoleFacts total() const;
  double trainingFlops() const { return forwardFlops + backwardFlops; }
};

/// For rows of `length` tokens.
ModelFacts factsOf(mlir::ModuleOp module, int64_t length);

} // namespace polymoe

#endif // MOE_TOOLS_MOE_RUN_FACTS_H
