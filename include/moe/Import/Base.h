//===-- Base.h - the base that a run trains on ------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A run folder reads the values that it does not train from the files of its
// base, wherever those lie. Other weights of the same shapes would make another
// model without an error, so base.json, beside the module, says what they were
// when the run began:
//
//   {"format": "polymoe-base", "version": 1,
//    "files": [{"file", "bytes", "modified", "changed"}, ...],
//    "tensors": [{"file", "key", "dtype", "shape", "xxh3"}, ...]}
//
// The times are nanoseconds. As long as they and the size of a file are the
// same, its content is not looked at.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_BASE_H
#define MOE_IMPORT_BASE_H

#include "moe/Runtime/Safetensors.h"

#include "mlir/IR/BuiltinOps.h"

#include <nlohmann/json_fwd.hpp>

#include <compare>
#include <filesystem>
#include <string>
#include <vector>

namespace polymoe {

class JsonReader;
struct ParameterSpec;

/// Type, shape and checksum of a tensor, which identify its value.
struct TensorIdentity {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string digest;
  bool operator==(const TensorIdentity &) const = default;
};

TensorIdentity identityOf(const SafetensorsFile &file,
                          const TensorInfo &tensor);

struct TensorName {
  std::string file, key;
  auto operator<=>(const TensorName &) const = default;
};

/// The tensors that these parameters read, whole or in part, each once.
std::vector<TensorName> tensorsOf(const std::vector<ParameterSpec> &specs);

/// A tensor of a base as delta.json and base.json name it.
struct BaseTensor {
  TensorName name;
  TensorIdentity identity;
};

nlohmann::ordered_json toJson(const BaseTensor &tensor);
/// Reads a list of them. Throws Error.
std::vector<BaseTensor> readBaseTensors(const JsonReader &list);

/// Writes base.json of the module that lies, or will lie, in `folder`: all
/// tensors that it reads but those that a run trained and keeps there. Throws
/// Error.
void noteBase(mlir::ModuleOp module, const std::filesystem::path &folder);

/// Throws an Error that names the file and the key if a tensor is not what
/// base.json of `folder` says. Without a base.json nothing is known.
void checkBase(const std::filesystem::path &folder);

} // namespace polymoe

#endif // MOE_IMPORT_BASE_H
