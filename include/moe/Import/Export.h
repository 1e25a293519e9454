//===-- Export.h - from a module to a Hugging Face folder -------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_EXPORT_H
#define MOE_IMPORT_EXPORT_H

#include "moe/Import/Config.h"

#include "mlir/IR/BuiltinOps.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace polymoe {

struct ExportOptions {
  /// Weights that exceed this are cut into several files.
  int64_t maxShardBytes = 5'000'000'000;
  /// Whether a folder that is there already is replaced.
  bool replace = false;
  /// Is told of checkpoints of a run that are damaged and passed over.
  std::function<void(const std::string &)> warn;
};

/// Writes the model at `source`, a module or a run folder, as a folder that
/// transformers loads: config.json, safetensors and the tokenizer's files. The
/// folder appears complete or not at all. Throws Error.
///
/// A mixture is written as Mixtral where it is one exactly, otherwise with the
/// family's own keys, `mlp.experts.<k>.*` and `mlp.gate.weight`, and the
/// modelling files that read them. Tensors keep the type that they are stored
/// in, which for trained ones is that of their masters.
void exportHuggingFace(const std::filesystem::path &source,
                       const std::filesystem::path &output,
                       mlir::MLIRContext &context,
                       const ExportOptions &options = {});

/// The configuration of the model in `module`: `config`, which it was imported
/// with, and what passes made of its FFNs since. Throws Error for a module
/// that no checkpoint can express.
ModelConfig exportedConfig(mlir::ModuleOp module, ModelConfig config);

/// config.json for `config`; `source` is that which the model was imported
/// with, and keys that the model does not depend on stay as they are there.
nlohmann::ordered_json toJson(const ModelConfig &config,
                              nlohmann::ordered_json source);

} // namespace polymoe

#endif // MOE_IMPORT_EXPORT_H
