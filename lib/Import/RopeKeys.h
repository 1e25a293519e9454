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
