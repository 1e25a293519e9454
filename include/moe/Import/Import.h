//===-- Import.h - from a Hugging Face folder to a module -------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_IMPORT_H
#define MOE_IMPORT_IMPORT_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace polymoe {

struct ImportOptions {
  /// Keys of config.json whose effect is not known, to be passed over.
  std::vector<std::string> ignoredConfigKeys;
  /// The tokens of the longest sequence that the model will see. Of the rotary
  /// embeddings that depend on it, it chooses the frequencies.
  std::optional<int64_t> context;
};

struct ImportedModel {
  mlir::OwningOpRef<mlir::ModuleOp> module;
  /// What the user should know of the model.
  std::vector<std::string> notes;
  /// Keys of the checkpoint that the model does not use.
  std::vector<std::string> ignored;
};

/// Makes the model-level module of the checkpoint in `folder`: config.json and
/// safetensors, of which only the headers are read. Paths in the module are
/// relative to `moduleFolder`, where it will be written. Throws Error.
ImportedModel importHuggingFace(const std::filesystem::path &folder,
                                const std::filesystem::path &moduleFolder,
                                mlir::MLIRContext &context,
                                const ImportOptions &options = {});

} // namespace polymoe

#endif // MOE_IMPORT_IMPORT_H
