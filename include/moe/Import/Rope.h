//===-- Rope.h - frequencies of the rotary embedding ------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_ROPE_H
#define MOE_IMPORT_ROPE_H

#include <cstdint>
#include <vector>

namespace polymoe {

/// The rotary embedding of a configuration.
struct RopeConfig {
  enum class Type { Default, Linear, Llama3 };
  Type type = Type::Default;
  double theta = 10000.0;
  /// For Linear and Llama3.
  double factor = 1.0;
  /// For Llama3.
  double lowFrequencyFactor = 1.0;
  double highFrequencyFactor = 4.0;
  double originalPositions = 8192;

  bool operator==(const RopeConfig &) const = default;
};

/// The `headDim / 2` inverse frequencies, bit for bit those that transformers
/// computes with PyTorch on a CPU with AVX-512.
std::vector<float> ropeFrequencies(const RopeConfig &config, int64_t headDim);

} // namespace polymoe

#endif // MOE_IMPORT_ROPE_H
