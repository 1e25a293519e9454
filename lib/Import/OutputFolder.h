//===-- OutputFolder.h - folders that models are written to -----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What exports and deltas share: the source of their values, and the way in
// which their folder is written.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_OUTPUTFOLDER_H
#define MOE_IMPORT_OUTPUTFOLDER_H

#include "moe/Import/Module.h"
#include "moe/Runtime/RunFolder.h"

#include <filesystem>

namespace polymoe {

/// A folder that is written under a temporary name and renamed when complete.
class OutputFolder {
public:
  OutputFolder(std::filesystem::path path, bool replace);
  OutputFolder(const OutputFolder &) = delete;
  ~OutputFolder();

  /// The temporary folder, to write to.
  const std::filesystem::path &path() const { return temporary; }
  void commit();

private:
  std::filesystem::path target, temporary;
};

/// Fails if the folder to replace holds files that are still to be read: the
/// module, its configuration and tensors, and `others`.
void checkReplaced(const std::filesystem::path &output,
                   const LoadedModule &loaded,
                   const std::vector<std::filesystem::path> &others = {});

/// The files of a tokenizer that exist.
void copyTokenizer(const std::filesystem::path &from,
                   const std::filesystem::path &to);

/// Points every parameter that the run in `folder` trained at the newest
/// checkpoint that has it.
void useCheckpoints(const std::filesystem::path &folder,
                    const RunFolder::Warn &warn, mlir::ModuleOp module);

} // namespace polymoe

#endif // MOE_IMPORT_OUTPUTFOLDER_H
