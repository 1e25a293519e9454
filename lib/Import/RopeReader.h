//===-- RopeReader.h - the keys of the rotary embedding ---------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_IMPORT_ROPEREADER_H
#define MOE_LIB_IMPORT_ROPEREADER_H

#include "StrictReader.h"
#include "moe/Import/Rope.h"

namespace polymoe {

/// What a family says of its rotary embedding where config.json does not.
struct RopeDefaults {
  /// The base. Where it is absent, config.json has to name one.
  std::optional<double> theta;
};

/// The rotary embedding of each kind of layer. One that is absent does not
/// rotate.
struct LayerRopes {
  std::optional<RopeConfig> full;
  std::optional<RopeConfig> sliding;
};

/// Reads `rope_parameters` (transformers 5), and `rope_theta` and
/// `rope_scaling` (transformers 4). Where both forms are there, they must
/// agree.
LayerRopes readRope(StrictReader &config, const RopeDefaults &defaults);

} // namespace polymoe

#endif // MOE_LIB_IMPORT_ROPEREADER_H
