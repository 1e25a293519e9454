//===-- RopeKeys.h - the keys of the rotary embedding -----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_IMPORT_ROPEKEYS_H
#define MOE_LIB_IMPORT_ROPEKEYS_H

#include "StrictReader.h"
#include "moe/Import/Rope.h"

namespace polymoe {

/// What a family says of its rotary embedding.
struct RopeDefaults {
  /// The base where config.json names none. Without one it has to.
  std::optional<double> theta;
  /// Whether layers with a sliding window have an embedding of their own
  /// (Gemma 3, OLMo 3). `rope_parameters` then has an object for each kind of
  /// layer, and `rope_scaling` holds for those with full attention.
  bool ofEachKind = false;
  /// The base of layers with a sliding window where config.json names none;
  /// without it, that of the others.
  std::optional<double> slidingTheta;
  /// Whether `partial_rotary_factor` may be less than one.
  bool partial = false;
  bool interleaved = false;
};

/// The rotary embedding of each kind of layer.
struct LayerRopes {
  RopeConfig full;
  RopeConfig sliding;
};

/// Reads `rope_parameters` (transformers 5), and `rope_theta`, `rope_scaling`
/// and the keys that belong to them (transformers 4). Where both forms are
/// there, they must agree.
LayerRopes readRope(StrictReader &config, int64_t headDim,
                    const RopeDefaults &defaults);

/// Writes the keys of both forms in place of those that are there.
void writeRope(const LayerRopes &ropes, const RopeDefaults &defaults,
               nlohmann::ordered_json &json);

} // namespace polymoe

#endif // MOE_LIB_IMPORT_ROPEKEYS_H
