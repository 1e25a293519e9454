//===-- ModelingFiles.h - Python files that an export carries ---*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_IMPORT_MODELINGFILES_H
#define MOE_LIB_IMPORT_MODELINGFILES_H

#include <string_view>

namespace polymoe {

struct ModelingFile {
  const char *name;
  std::string_view text;
};

/// python/polymoe/hf, as they were when this was built.
extern const ModelingFile modelingFiles[2];

} // namespace polymoe

#endif // MOE_LIB_IMPORT_MODELINGFILES_H
