//===-- Profile.h - what commands that profile a model share ----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TOOLS_MOE_RUN_PROFILE_H
#define MOE_TOOLS_MOE_RUN_PROFILE_H

#include "Model.h"

#include "moe/Runtime/Profiles.h"

namespace polymoe {

/// What a profile says of the model that it was measured on, but for the values
/// of its parameters. Throws Error.
ProfiledModel describe(Model &model);

/// A digest of the values of all parameters in the types in which they run, and
/// of what runs them.
std::string digestOfValues(ParameterStore &store,
                           const MachineOptions &machine);

/// The same with the digest of the values that run, and of what runs them.
ProfiledModel describe(Inference &inference, const MachineOptions &machine);

} // namespace polymoe

#endif // MOE_TOOLS_MOE_RUN_PROFILE_H
