//===-- HarmlessKeys.h - keys without an effect on the model ----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_IMPORT_HARMLESSKEYS_H
#define MOE_LIB_IMPORT_HARMLESSKEYS_H

#include "StrictReader.h"
#include "moe/Import/Family.h"

namespace polymoe {

/// Whether a key of config.json does not change what a model of `family`
/// computes in inference.
bool isHarmless(const Family &family, const std::string &key);

/// Fails if a key of another family, which `reader` was not asked for, has a
/// value that is not neutral.
void rejectUnsupported(StrictReader &reader);

} // namespace polymoe

#endif // MOE_LIB_IMPORT_HARMLESSKEYS_H
