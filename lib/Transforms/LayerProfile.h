//===-- LayerProfile.h - what a profile says of layers ----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TRANSFORMS_LAYERPROFILE_H
#define MOE_LIB_TRANSFORMS_LAYERPROFILE_H

#include "moe/Runtime/Profiles.h"
#include "moe/Transforms/Layers.h"

namespace mlir::moe {

/// The similarity of the languages of the last round in each of `layers`, from
/// the file `profile` (polymoe::SimilarityProfile). Fails, with an error that
/// names the file and the key, if it cannot be read, holds a similarity that is
/// not positive, or was measured on a model of another base than `module`. With
/// `isExpanded` the model may have got experts since.
FailureOr<SmallVector<double>> readLayerSimilarity(ModuleOp module,
                                                   ArrayRef<Layer> layers,
                                                   StringRef profile,
                                                   bool isExpanded);

/// The deviations in the file `profile`, measured on these layers. Fails as
/// readLayerSimilarity does.
FailureOr<polymoe::DeviationProfile>
readDeviations(ModuleOp module, ArrayRef<Layer> layers, StringRef profile);

} // namespace mlir::moe

#endif // MOE_LIB_TRANSFORMS_LAYERPROFILE_H
