//===-- Checkpoint.h - the safetensors files of a folder --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_CHECKPOINT_H
#define MOE_IMPORT_CHECKPOINT_H

#include "moe/Import/Layout.h"
#include "moe/Runtime/Safetensors.h"

#include <map>
#include <set>

namespace polymoe {

/// The tensors of model.safetensors, or of the shards that
/// model.safetensors.index.json names. Only headers are read.
class Checkpoint {
public:
  /// Opens and checks every file; throws Error.
  explicit Checkpoint(const std::filesystem::path &folder);

  struct Entry {
    std::shared_ptr<const SafetensorsFile> file;
    const TensorInfo *tensor;
  };

  /// Gives the tensors the keys that they have in a model that is saved alone:
  /// without what programs that wrap it put before them, and with the name of
  /// the decoder, which a checkpoint of the bare decoder lacks.
  void renameAll(const ModelConfig &config);

  /// The tensor called `key`, or null.
  const Entry *find(const std::string &key) const;
  const std::map<std::string, Entry> &entries() const { return tensors; }
  const std::filesystem::path &folder() const { return root; }
  /// The file that an error about a missing key names.
  const std::filesystem::path &mainFile() const { return main; }

private:
  void openSingle();
  void openSharded();
  bool holdsIndexed() const;

  std::filesystem::path root, main;
  std::map<std::string, Entry> tensors;
};

/// Where each parameter of a layout was found.
struct FoundTensor {
  const ParameterLayout *parameter;
  const TensorLocation *location;
  const Checkpoint::Entry *entry;
};

struct FoundTensors {
  std::vector<FoundTensor> parameters;
  /// Tensors that hold what every checkpoint of the family does.
  std::vector<std::string> constants;
  /// Tensors that the model does not use.
  std::vector<std::string> ignored;
};

/// Finds every parameter of `layout`, which outlives the result. A missing or
/// unexpected key and a wrong shape throw.
FoundTensors findTensors(const ModelConfig &config,
                         const std::vector<ParameterLayout> &layout,
                         const Checkpoint &checkpoint);

/// The type that a model computes in: the configuration's, or that of the
/// tensors. Throws for a tensor that cannot be read as this type.
DType chooseType(const ModelConfig &config, const FoundTensors &tensors);

} // namespace polymoe

#endif // MOE_IMPORT_CHECKPOINT_H
