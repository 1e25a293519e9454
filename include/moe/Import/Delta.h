//===-- Delta.h - what training added to a base -----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A delta is a folder to send to someone who has the base model:
//
//   model.mlir          the whole model; values that are the base's have an
//                       origin in base/, which is not there
//   delta.safetensors   the values that are not, by parameter name, in the type
//                       that the model computes in
//   delta.json          format, version, and the base's tensors: file (in
//                       base/), key, type, shape and checksum
//   config.json and the tokenizer's files
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_DELTA_H
#define MOE_IMPORT_DELTA_H

#include "mlir/IR/MLIRContext.h"

#include <filesystem>
#include <functional>
#include <string>

namespace polymoe {

struct DeltaOptions {
  /// Whether to replace a folder that exists.
  bool replace = false;
  /// The base that the delta is made for; empty: all values that no run
  /// trained.
  std::filesystem::path base;
  /// Merging: whether the folder gets the base's files, as hard links where the
  /// disk allows it. Otherwise the module names them where they are.
  bool selfContained = false;
  /// Called for each damaged checkpoint of a run that is skipped.
  std::function<void(const std::string &)> warn;
};

/// Writes the values that the model at `source`, a run folder or a module, has
/// beyond its base. The folder appears complete or not at all. Throws Error.
void exportDelta(const std::filesystem::path &source,
                 const std::filesystem::path &output,
                 mlir::MLIRContext &context, const DeltaOptions &options = {});

/// Joins a delta with the base that it was made for: a Hugging Face folder, a
/// module or a run folder. The result is a folder that every tool takes for a
/// model. A base with another value, or without one, is an Error.
void mergeDelta(const std::filesystem::path &delta,
                const std::filesystem::path &output, mlir::MLIRContext &context,
                const DeltaOptions &options);

} // namespace polymoe

#endif // MOE_IMPORT_DELTA_H
