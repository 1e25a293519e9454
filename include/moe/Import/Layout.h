//===-- Layout.h - which tensors a model has, under which keys --*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// One list of parameters serves import, which looks for their values in a
// checkpoint, and export, which writes one.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_LAYOUT_H
#define MOE_IMPORT_LAYOUT_H

#include "moe/Import/Config.h"

namespace polymoe {

/// How a checkpoint may hold a parameter.
enum class KeyForm {
  Own,     ///< the family's own keys, experts as mlp.experts.<k>.*
  Mixtral, ///< block_sparse_moe.experts.<k>.w1, w2, w3
  Packed,  ///< mlp.experts.gate_up_proj, down_proj: all experts in one tensor
};

/// A tensor of a checkpoint in which a parameter may lie, whole or as some
/// rows.
struct TensorLocation {
  KeyForm form = KeyForm::Own;
  std::string key;
  std::vector<int64_t> shape;
  std::optional<RowSelection> rows;
};

struct ParameterLayout {
  enum class Part {
    Embedding,
    EmbeddingNorm,
    AttentionInputNorm,
    Query,
    Key,
    Value,
    QueryNorm,
    KeyNorm,
    Output,
    AttentionOutputNorm,
    FfnInputNorm,
    Router,
    LanguageGate,
    Ffn,
    FfnOutputNorm,
    FinalNorm,
    Head
  };

  /// The name in the module: the parameter's own key, with expert 0 under the
  /// key of the dense FFN, as moe-upcycle leaves it.
  std::string name;
  std::vector<int64_t> shape;
  Part part;
  /// The layer's number; -1 outside the layers.
  int64_t layer = -1;
  /// The expert's number; 0 outside experts.
  int64_t expert = 0;
  /// The tensors that may hold it, the family's own keys first.
  std::vector<TensorLocation> locations;
};

/// Every parameter, in the order in which the model uses them; those of one
/// layer in the order of the layer function's arguments.
std::vector<ParameterLayout> layoutOf(const ModelConfig &config);

/// A tensor of one number that every checkpoint of a family holds beside its
/// parameters, always with this value.
struct ConstantTensor {
  std::string key;
  double value;
};

std::vector<ConstantTensor> constantsOf(const ModelConfig &config);

/// Whether a checkpoint may hold this key although the model does not use it: a
/// table that is computed from the configuration.
bool mayBeIgnored(const std::string &key);

} // namespace polymoe

#endif // MOE_IMPORT_LAYOUT_H
