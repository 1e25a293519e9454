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
  /// The largest size of a file of weights, in bytes.
  int64_t maxShardBytes = 5'000'000'000;
  /// Whether to replace a folder that exists.
  bool replace = false;
  /// Called for each damaged checkpoint of a run that is skipped.
  std::function<void(const std::string &)> warn;
};

/// Writes the model at `source`, a module or a run folder, as a folder that
/// transformers loads: config.json, safetensors and the tokenizer's files. The
/// folder appears complete or not at all. Throws Error.
///
/// A mixture is written as Mixtral where it is one exactly, otherwise with the
/// family's own keys, `mlp.experts.<k>.*` and `mlp.gate.weight`, and the
/// modelling files that read them. Tensors keep the type in which they are
/// stored, which for trained ones is that of their masters.
void exportHuggingFace(const std::filesystem::path &source,
                       const std::filesystem::path &output,
                       mlir::MLIRContext &context,
                       const ExportOptions &options = {});

/// The configuration of the model in `module`: `config`, with which it was
/// imported, changed by what passes have made of its FFNs. Throws Error for a
/// module that no checkpoint can express.
ModelConfig exportedConfig(mlir::ModuleOp module, ModelConfig config);

/// The config.json for `config`. Keys on which the model does not depend are
/// those of `source`, with which the model was imported.
nlohmann::ordered_json toJson(const ModelConfig &config,
                              const nlohmann::ordered_json &source);

} // namespace polymoe

#endif // MOE_IMPORT_EXPORT_H
