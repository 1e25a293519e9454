//===-- Family.h - what a model_type of transformers computes ---*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A family is data: an entry of the table in lib/Import/Families.cpp says in
// what it differs from Llama. Import, export and the reading of config.json
// have no other knowledge of it.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_FAMILY_H
#define MOE_IMPORT_FAMILY_H

#include "moe/Import/Rope.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace polymoe {

enum class NormKind {
  Rms,        ///< x / rms(x) * w
  RmsPlusOne, ///< x / rms(x) * (1 + w)
  Layer,      ///< (x - mean) / std * w
  LayerBiased ///< (x - mean) / std * w + b
};

/// Which rows a norm of queries and keys takes.
enum class QueryKeyNorm { None, Heads, Projection };

/// Which linear maps of attention have biases.
enum class AttentionBias {
  None,
  ByKey, ///< all if 'attention_bias' is true
  QueryKeyValue,
  All
};

enum class FfnActivation { Silu, Gelu, GeluTanh, Xielu };

/// How attention knows positions.
enum class Positions {
  Rotary,
  RotaryListed,     ///< rotary where 'no_rope_layers' has a 1
  RotaryInWindows,  ///< rotary in layers with a window, none in others
  RotaryUnlessFull, ///< the same, but in all layers without a 'sliding_window'
  RotaryByType, ///< rotary if 'position_embedding_type' is "rope", else none
  Alibi
};

/// Which layers see 'sliding_window' tokens alone. From the third on this holds
/// where 'layer_types' does not say.
enum class Windows {
  None,
  All, ///< all, if there is a 'sliding_window'
  AllUnlessListed,
  Pattern,      ///< all but each `windowPattern`-th
  FromLayer,    ///< those from 'max_window_layers' on
  WithoutRotary ///< those that do not rotate
};

/// A key of config.json that holds a number, and what the number does.
struct Scalar {
  enum class Use { Multiplies, Divides, DividesRoot };

  /// Null if the family has no such key.
  const char *key = nullptr;
  /// What transformers takes where the key is missing.
  double missing = 1.0;
  Use use = Use::Multiplies;
};

/// A bound on scores or logits.
struct SoftCap {
  const char *key = nullptr;
  std::optional<double> missing = std::nullopt;
};

/// The default of each member is Llama's. Members stand together by what they
/// say, not by their sizes.
// NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding)
struct Family {
  /// The model type, as config.json has it.
  const char *name;
  /// `Llama` of LlamaForCausalLM.
  const char *model;
  /// `Gemma3Text` of Gemma3TextConfig; null if it is `model`.
  const char *config = nullptr;
  /// For a mixture: the model type of the dense family that it is made from.
  const char *denseOf = nullptr;
  /// The model type of the mixture of experts that transformers has for this
  /// family, as long as nothing in the model forbids it.
  const char *stockMixture = nullptr;

  struct Keys {
    const char *root = "model";
    const char *embedding = "embed_tokens";
    const char *embeddingNorm = nullptr;
    const char *layers = "layers";
    const char *finalNorm = "norm";
    const char *attention = "self_attn";
    /// The tensor that holds queries, keys and values; null if each has its
    /// own.
    const char *queryKeyValue = nullptr;
    /// Whether that tensor holds them head by head.
    bool headByHead = false;
    const char *output = "o_proj";
    const char *ffn = "mlp";
    /// Null for an FFN without a gate.
    const char *gate = "gate_proj";
    const char *up = "up_proj";
    const char *down = "down_proj";
    /// The tensor that holds gate and up; null if each has its own.
    const char *gateUp = nullptr;
  } keys = {};

  struct Norms {
    NormKind kind = NormKind::Rms;
    const char *epsilonKey = "rms_norm_eps";
    double epsilon = 1e-6;
    /// The keys of the norms of a layer; null where there is none.
    const char *attentionInput = "input_layernorm";
    const char *attentionOutput = nullptr;
    const char *ffnInput = "post_attention_layernorm";
    const char *ffnOutput = nullptr;
    QueryKeyNorm queryKey = QueryKeyNorm::None;
  } norms = {};

  AttentionBias attentionBias = AttentionBias::ByKey;
  /// Where config.json names none.
  FfnActivation activation = FfnActivation::Silu;
  Positions positions = Positions::Rotary;
  Windows windows = Windows::None;

  bool ffnBias = false;
  /// Whether the FFN reads what attention reads, and both are added to the
  /// residual.
  bool parallel = false;
  /// Whether the output projection is the embedding, where config.json does not
  /// say.
  bool tied = false;
  /// Whether "gelu" means its approximation by tanh.
  bool geluIsTanh = false;
  /// Whether windows have to be switched on by 'use_sliding_window'.
  bool windowSwitch = false;
  /// Whether embeddings are multiplied by the root of the width.
  bool embeddingTimesRoot = false;

  /// Null if the activation is always the same.
  const char *activationKey = "hidden_act";
  /// An older spelling, read where `activationKey` is missing.
  const char *olderActivationKey = nullptr;
  RopeDefaults rope = {};

  /// How 'layer_types' calls a layer without a window in all versions of
  /// transformers that know the family.
  const char *fullAttention = "full_attention";
  /// Where 'sliding_window' is missing.
  std::optional<int64_t> window = std::nullopt;
  /// For Windows::Pattern, and whether 'sliding_window_pattern' may say another
  /// number.
  int64_t windowPattern = 0;
  bool windowPatternKey = false;

  Scalar embeddingScale = {};
  /// Without a key: one over the root of the width of a head.
  Scalar attentionScale = {};
  Scalar residualScale = {};
  Scalar logitScale = {};
  SoftCap attentionCap = {};
  SoftCap logitCap = {};

  /// Where 'num_key_value_heads' is missing; 0: as many as heads.
  int64_t kvHeads = 0;
  /// Where 'head_dim' is missing; 0: width / heads.
  int64_t headDim = 0;
  /// The width of the FFN; null: four times the width.
  const char *hiddenKey = "intermediate_size";

  /// Keys that have another name than in most families.
  struct Alias {
    const char *usual = nullptr, *own = nullptr;
  } aliases[3] = {};

  /// Keys that change the model, with the only value supported, as JSON.
  struct Fixed {
    const char *key = nullptr, *value = nullptr;
    /// Whether the key has to be there, since without it transformers takes
    /// another value.
    bool required = false;
  } fixed[8] = {};

  /// Keys that transformers does not read.
  const char *harmless[10] = {};

  /// The name of this family's `key`.
  std::string nameOf(const std::string &key) const;
  const char *configName() const { return config ? config : model; }
  bool gated() const { return keys.gate != nullptr; }
};

/// All families, in the order in which an error lists them.
std::span<const Family> allFamilies();

/// The family of the model type `name`, or null.
const Family *findFamily(const std::string &name);

/// A model type around a text model, whose configuration is 'text_config'.
struct Wrapper {
  const char *name;
  /// The model type of the text, where its configuration does not say.
  const char *text;
};

/// The wrapper of the model type `name`, or null.
const Wrapper *findWrapper(const std::string &name);

/// Why a model type that is known is not read, or null.
const char *whyRefused(const std::string &name);

} // namespace polymoe

#endif // MOE_IMPORT_FAMILY_H
