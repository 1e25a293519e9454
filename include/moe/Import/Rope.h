//===-- Rope.h - frequencies of the rotary embedding ------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_ROPE_H
#define MOE_IMPORT_ROPE_H

#include <cstdint>
#include <optional>
#include <vector>

namespace polymoe {

/// The rotary embedding of one kind of layer.
struct RopeConfig {
  enum class Type { Default, Linear, Dynamic, Yarn, LongRope, Llama3 };
  Type type = Type::Default;
  double theta = 10000.0;
  /// For all types but Default.
  double factor = 1.0;
  /// For Llama3.
  double lowFrequencyFactor = 1.0;
  double highFrequencyFactor = 4.0;
  /// For Yarn, LongRope and Llama3: the tokens of the longest sequence in
  /// pretraining.
  double originalPositions = 8192;
  /// For Yarn: the turns over `originalPositions` above which a frequency
  /// stays, and below which it is divided by `factor`. `truncate` rounds the
  /// two indices that follow from them.
  double betaFast = 32;
  double betaSlow = 1;
  bool truncate = true;
  /// For LongRope: what each frequency is divided by, in sequences of up to
  /// `originalPositions` tokens and in longer ones.
  std::vector<double> shortFactors = {};
  std::vector<double> longFactors = {};
  /// What cosines and sines are multiplied by (Yarn, LongRope).
  double attentionFactor = 1.0;
  /// The tokens that the model is configured for, `max_position_embeddings`.
  double positions = 0;
  /// The share of each head that rotates, from its first element on.
  double share = 1.0;
  /// Whether neighbours rotate together, not an element of the first half with
  /// one of the second.
  bool interleaved = false;

  bool operator==(const RopeConfig &) const = default;
};

/// What a family says of its rotary embedding.
struct RopeDefaults {
  /// The base where config.json names none. Without one, config.json has to say
  /// how the embedding is scaled, too.
  std::optional<double> theta = 10000.0;
  /// Whether layers with a sliding window have an embedding of their own
  /// (Gemma 3, OLMo 3). `rope_parameters` then has an object for each kind of
  /// layer, and `rope_scaling` holds for those with full attention.
  bool ofEachKind = false;
  /// The base of layers with a sliding window where config.json names none;
  /// without it, that of the others.
  std::optional<double> slidingTheta = std::nullopt;
  /// `original_max_position_embeddings` where config.json has it neither here
  /// nor inside the object; without it, `max_position_embeddings`.
  std::optional<double> originalPositions = std::nullopt;
  /// Whether `partial_rotary_factor` may be less than one.
  bool partial = false;
  bool interleaved = false;
};

/// The rotary embedding of each kind of layer.
struct LayerRopes {
  RopeConfig full;
  RopeConfig sliding;
};

/// The elements of a head that rotate.
int64_t rotatedWidth(const RopeConfig &config, int64_t headDim);

/// The attention factor of Yarn and LongRope where the configuration has none.
double defaultAttentionFactor(const RopeConfig &config);

/// The `rotatedWidth / 2` inverse frequencies for sequences of at most
/// `context` tokens, bit for bit those that transformers computes with PyTorch
/// on a CPU with AVX-512. Those of most types are the same for any length; for
/// Dynamic and LongRope no `context` means the shortest that makes sense.
std::vector<float> ropeFrequencies(const RopeConfig &config, int64_t headDim,
                                   std::optional<int64_t> context = {});

/// The tokens of the longest sequence for which these frequencies are right;
/// none if there is no limit.
std::optional<int64_t> ropeContext(const RopeConfig &config,
                                   std::optional<int64_t> context = {});

} // namespace polymoe

#endif // MOE_IMPORT_ROPE_H
