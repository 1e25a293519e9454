//===-- Config.h - what config.json says of a model -------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// config.json of Hugging Face, in the forms of transformers 4 and 5. Reading
// is strict: a key that might change what the model computes and is not
// understood is an error, and so are keys that contradict each other.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_CONFIG_H
#define MOE_IMPORT_CONFIG_H

#include "moe/Import/Rope.h"
#include "moe/Runtime/Program.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace polymoe {

enum class Family { Llama, Mistral, Qwen2, Qwen3, Gemma, Bloom };

/// The model type of the family: "llama", "mistral", ...
const char *nameOf(Family family);
/// The family called `name`, if there is one.
std::optional<Family> familyNamed(const std::string &name);

/// How a checkpoint holds a mixture: under the family's own keys (model type
/// polymoe_<family>), or as Mixtral.
enum class MixtureForm { None, Own, Mixtral };

/// What the language gates look at.
enum class GatePool { Token, CausalMean, SequenceSum };

/// The name in config.json: "token", "causal-mean", "sequence-sum".
const char *nameOf(GatePool pool);

enum class FfnActivation { Silu, Gelu, GeluTanh };

struct ModelConfig {
  Family family = Family::Llama;
  MixtureForm mixture = MixtureForm::None;
  int64_t vocabulary = 0;
  int64_t width = 0;
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kvHeads = 0;
  int64_t headDim = 0;
  double epsilon = 0;
  FfnActivation activation = FfnActivation::Silu;
  bool tied = false;
  bool queryKeyValueBias = false;
  bool outputBias = false;
  bool queryKeyNorm = false;
  /// Absent with ALiBi.
  std::optional<RopeConfig> rope;
  /// The window of each layer; absent with full attention.
  std::vector<std::optional<int64_t>> windows;
  /// The experts of each layer, the original FFN included; 1 for a dense layer.
  std::vector<int64_t> experts;
  int64_t topK = 0;
  /// For each layer, whether a language gate stands in front of its router.
  std::vector<bool> gates;
  GatePool gatePool = GatePool::Token;
  /// The type that the configuration names.
  std::optional<DType> dtype;
};

/// Reads the configuration `json`. Errors name `file`.
ModelConfig parseConfig(const nlohmann::json &json, const std::string &file);

ModelConfig readConfig(const std::filesystem::path &file);

/// The name that config.json has for `type`: "float32", "bfloat16", ...
const char *configNameOf(DType type);

} // namespace polymoe

#endif // MOE_IMPORT_CONFIG_H
