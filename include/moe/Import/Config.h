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

#include "moe/Import/Family.h"
#include "moe/Import/Rope.h"
#include "moe/Runtime/Program.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace polymoe {

/// How a checkpoint holds a mixture: under the family's own keys (model type
/// polymoe_<family>), or as Mixtral.
enum class MixtureForm { None, Own, Mixtral };

/// What the language gates look at.
enum class GatePool { Token, CausalMean, SequenceSum };

/// The name in config.json: "token", "causal-mean", "sequence-sum".
const char *nameOf(GatePool pool);

/// What a model computes: the options that its family and config.json give.
struct ModelConfig {
  const Family *family = nullptr;
  MixtureForm mixture = MixtureForm::None;
  /// Whether it is the text part of a model of text and images.
  bool wrapped = false;
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
  /// Absent with ALiBi.
  std::optional<LayerRopes> rope;
  /// Which layers rotate queries and keys.
  std::vector<bool> rotates;
  /// The window of each layer; absent with full attention.
  std::vector<std::optional<int64_t>> windows;
  double embeddingScale = 1;
  double attentionScale = 1;
  double residualScale = 1;
  double logitScale = 1;
  std::optional<double> attentionCap;
  std::optional<double> logitCap;
  /// The experts of each layer, the original FFN included; 1 for a dense layer.
  std::vector<int64_t> experts;
  int64_t topK = 0;
  /// For each layer, whether a language gate stands in front of its router.
  std::vector<bool> gates;
  GatePool gatePool = GatePool::Token;
  /// The type that the configuration names.
  std::optional<DType> dtype;

  /// The rotary embedding of a layer; null if it does not rotate.
  const RopeConfig *ropeOf(int64_t layer) const {
    if (!rotates[layer])
      return nullptr;
    return windows[layer] ? &rope->sliding : &rope->full;
  }
};

/// Reads the configuration `json`, of which `ignored` names keys whose effect
/// is not known and which are passed over. Errors name `file`.
ModelConfig parseConfig(const nlohmann::json &json, const std::string &file,
                        const std::vector<std::string> &ignored = {});

ModelConfig readConfig(const std::filesystem::path &file,
                       const std::vector<std::string> &ignored = {});

/// The configuration of the text in that of a model of text and images; any
/// other is its own.
nlohmann::ordered_json textConfigOf(const nlohmann::ordered_json &json);

/// The name that config.json has for `type`: "float32", "bfloat16", ...
const char *configNameOf(DType type);

} // namespace polymoe

#endif // MOE_IMPORT_CONFIG_H
