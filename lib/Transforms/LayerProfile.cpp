//===-- LayerProfile.cpp - what a profile says of layers
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "LayerProfile.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Profiles.h"

#include "llvm/Support/FormatVariadic.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;
using polymoe::concat;

/// Throws polymoe::Error if the profile in `file` is not one of these layers.
static void checkModel(const polymoe::ProfiledModel &measured, ModuleOp module,
                       ArrayRef<Layer> layers, bool isExpanded,
                       const std::string &file) {
  auto check = [&](const char *key, const auto &was, const auto &is) {
    if (was != is)
      polymoe::fail(file, ": key 'model.", key, "': expected ", is,
                    ", as this model has, but got ", was,
                    "; moe-run profile measures this model");
  };
  check("experts", concat(measured.experts.size(), " layers"),
        concat(layers.size(), " layers"));
  if (!layers.empty())
    check("width", measured.width, widthOf(layers.front()));
  check("base", measured.base, digestOfBase(module, layers));
  for (auto [i, layer] : llvm::enumerate(layers))
    if (!isExpanded)
      check(concat("experts[", i, "]").c_str(), measured.experts[i],
            layer.experts());
}

FailureOr<SmallVector<double>>
mlir::moe::readLayerSimilarity(ModuleOp module, ArrayRef<Layer> layers,
                               StringRef profile, bool isExpanded) {
  if (profile.empty())
    return module.emitError() << "expected profile to name a file that moe-run "
                                 "profile similarity wrote";
  if (failed(checkExperts(layers)))
    return failure();
  std::vector<double> similarity;
  try {
    auto read = polymoe::SimilarityProfile::read(profile.str());
    checkModel(read.model, module, layers, isExpanded, profile.str());
    similarity = read.ofLayers();
  } catch (const polymoe::Error &error) {
    return module.emitError() << error.what();
  }
  for (auto [i, s] : llvm::enumerate(similarity))
    if (!(s > 0) || !std::isfinite(1 / s))
      return module.emitError()
             << profile << ": key 'layers[" << i
             << "]': expected languages with a positive mean "
                "similarity, but got "
             << llvm::formatv("{0}", s).str();
  return SmallVector<double>(similarity.begin(), similarity.end());
}

FailureOr<polymoe::DeviationProfile>
mlir::moe::readDeviations(ModuleOp module, ArrayRef<Layer> layers,
                          StringRef profile) {
  if (failed(checkExperts(layers)))
    return failure();
  try {
    auto read = polymoe::DeviationProfile::read(profile.str());
    checkModel(read.model, module, layers, /*isExpanded=*/false, profile.str());
    return read;
  } catch (const polymoe::Error &error) {
    return module.emitError() << error.what();
  }
}
