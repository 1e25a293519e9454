//===-- DeviationProfile.h - how languages change a model -------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The file that `moe-run profile deviation` writes and moe-group-languages
// reads (docs/Architecture.md, Files).
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TRANSFORMS_DEVIATIONPROFILE_H
#define MOE_TRANSFORMS_DEVIATIONPROFILE_H

#include "moe/Dialect/MoE.h"

#include "mlir/IR/BuiltinOps.h"

#include <string>
#include <vector>

namespace mlir::moe {

inline constexpr const char *deviationFormat = "polymoe-deviation";
inline constexpr int64_t deviationVersion = 1;

/// What a profile says of the model that it was measured on, to tell whether
/// another one is the same.
struct ModelFacts {
  int64_t layers = 0;
  int64_t width = 0;
  /// A digest of the names and shapes of all parameters.
  std::string parameters;
};

/// Fails if the model has no layers.
FailureOr<ModelFacts> modelFactsOf(ModuleOp module);

struct DeviationProfile {
  ModelFacts model;
  std::vector<std::string> languages;
  /// The norm of what fine-tuning on a language changes in the FFN of a layer,
  /// [language][layer].
  std::vector<std::vector<double>> deviations;
  /// [language][language].
  std::vector<std::vector<double>> similarities;
};

/// Reads the profile in `file`. Fails with an error at `module` that names file
/// and field if the file is no profile, or one of another model.
FailureOr<DeviationProfile> readDeviationProfile(StringRef file,
                                                 ModuleOp module);

} // namespace mlir::moe

#endif // MOE_TRANSFORMS_DEVIATIONPROFILE_H
