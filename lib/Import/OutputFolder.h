//===-- OutputFolder.h - folders that models are written to -----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What an export and a delta have in common: where their values come from and
// how their folder comes to be.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_OUTPUTFOLDER_H
#define MOE_IMPORT_OUTPUTFOLDER_H

#include "moe/Import/Module.h"
#include "moe/Runtime/RunFolder.h"

#include <filesystem>

namespace polymoe {

/// A folder that grows under a temporary name beside its own.
class OutputFolder {
public:
  OutputFolder(std::filesystem::path path, bool replace);
  OutputFolder(const OutputFolder &) = delete;
  ~OutputFolder();

  /// Where to write.
  const std::filesystem::path &path() const { return temporary; }
  void commit();

private:
  std::filesystem::path target, temporary;
};

/// Refuses to replace a folder with what is to be read from it: the module, its
/// configuration and tensors, and `others`.
void checkReplaced(const std::filesystem::path &output,
                   const LoadedModule &loaded,
                   const std::vector<std::filesystem::path> &others = {});

/// The files of a tokenizer, those that there are.
void copyTokenizer(const std::filesystem::path &from,
                   const std::filesystem::path &to);

/// Points every parameter that the run in `folder` trained at the newest
/// checkpoint that has it.
void useCheckpoints(const std::filesystem::path &folder,
                    const RunFolder::Warn &warn, mlir::ModuleOp module);

} // namespace polymoe

#endif // MOE_IMPORT_OUTPUTFOLDER_H
