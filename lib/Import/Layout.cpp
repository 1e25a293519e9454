//===-- Layout.cpp - which tensors a model has, under which keys
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Layout.h"

#include "moe/Transforms/Layers.h"

#include <string_view>

using namespace polymoe;

namespace {

using Part = ParameterLayout::Part;
using Shape = std::vector<int64_t>;

class LayoutBuilder {
public:
  explicit LayoutBuilder(const ModelConfig &config)
      : config(config), family(*config.family), keys(family.keys),
        norms(family.norms) {}

  std::vector<ParameterLayout> build() {
    const std::string root = std::string(keys.root) + ".";
    const Shape table = {config.vocabulary, config.width};
    add(root + keys.embedding + ".weight", table, Part::Embedding);
    addNorm(root, keys.embeddingNorm, Part::EmbeddingNorm);
    for (layer = 0; layer < config.layers; ++layer)
      addLayer(root + keys.layers + "." + std::to_string(layer) + ".");
    layer = -1;
    addNorm(root, keys.finalNorm, Part::FinalNorm);
    if (!config.tied)
      add("lm_head.weight", table, Part::Head);
    return std::move(parameters);
  }

private:
  ParameterLayout &add(std::string name, Shape shape, Part part) {
    TensorLocation own{KeyForm::Own, name, shape, std::nullopt};
    parameters.push_back({std::move(name),
                          std::move(shape),
                          part,
                          layer,
                          /*expert=*/0,
                          {std::move(own)}});
    return parameters.back();
  }

  /// `key` is null where the family has no such norm.
  void addNorm(const std::string &prefix, const char *key, Part part) {
    if (!key)
      return;
    add(prefix + key + ".weight", {config.width}, part);
    if (norms.kind == NormKind::LayerBiased)
      add(prefix + key + ".bias", {config.width}, part);
  }

  void addLayer(const std::string &prefix) {
    addNorm(prefix, norms.attentionInput, Part::AttentionInputNorm);
    addAttention(prefix + keys.attention + ".");
    addNorm(prefix, norms.attentionOutput, Part::AttentionOutputNorm);
    addNorm(prefix, norms.ffnInput, Part::FfnInputNorm);
    addFfns(prefix + keys.ffn + ".");
    addNorm(prefix, norms.ffnOutput, Part::FfnOutputNorm);
  }

  //===--------------------------------------------------------------------===//
  // Attention
  //===--------------------------------------------------------------------===//

  void addAttention(const std::string &prefix) {
    const int64_t queries = config.heads * config.headDim;
    const int64_t keyRows = config.kvHeads * config.headDim;
    if (keys.queryKeyValue) {
      addFusedAttention(prefix + keys.queryKeyValue + ".");
    } else {
      bool bias = config.queryKeyValueBias;
      addLinear(prefix + "q_proj", queries, config.width, bias, Part::Query);
      addLinear(prefix + "k_proj", keyRows, config.width, bias, Part::Key);
      addLinear(prefix + "v_proj", keyRows, config.width, bias, Part::Value);
    }
    if (norms.queryKey != QueryKeyNorm::None) {
      bool heads = norms.queryKey == QueryKeyNorm::Heads;
      add(prefix + "q_norm.weight", {heads ? config.headDim : queries},
          Part::QueryNorm);
      add(prefix + "k_norm.weight", {heads ? config.headDim : keyRows},
          Part::KeyNorm);
    }
    addLinear(prefix + keys.output, config.width, queries, config.outputBias,
              Part::Output);
  }

  void addLinear(const std::string &prefix, int64_t out, int64_t in, bool bias,
                 Part part) {
    add(prefix + ".weight", {out, in}, part);
    if (bias)
      add(prefix + ".bias", {out}, part);
  }

  /// One tensor holds queries, keys and values, or those of one head after the
  /// other.
  void addFusedAttention(const std::string &prefix) {
    const struct {
      const char *name;
      int64_t heads;
      Part part;
    } parts[] = {{"q", config.heads, Part::Query},
                 {"k", config.kvHeads, Part::Key},
                 {"v", config.kvHeads, Part::Value}};
    const int64_t heads = config.heads + 2 * config.kvHeads;
    const int64_t rows = heads * config.headDim;
    int64_t first = 0;
    for (const auto &part : parts) {
      int64_t block =
          keys.headByHead ? config.headDim : part.heads * config.headDim;
      RowSelection selection{first, block,
                             keys.headByHead ? 3 * config.headDim : rows};
      first += block;
      auto addPart = [&](const std::string &kind, Shape shape, Shape fused) {
        std::string name = prefix + part.name;
        name.append(".").append(kind);
        add(std::move(name), std::move(shape), part.part).locations = {
            {KeyForm::Own, prefix + kind, std::move(fused), selection}};
      };
      const int64_t own = part.heads * config.headDim;
      addPart("weight", {own, config.width}, {rows, config.width});
      if (config.queryKeyValueBias)
        addPart("bias", {own}, {rows});
    }
  }

  //===--------------------------------------------------------------------===//
  // FFN and experts
  //===--------------------------------------------------------------------===//

  void addFfns(const std::string &prefix) {
    int64_t experts = config.experts[layer];
    if (experts > 1) {
      ParameterLayout &router = add(mlir::moe::routerName(prefix),
                                    {experts, config.width}, Part::Router);
      if (hasOtherKeys())
        router.locations.push_back({KeyForm::Mixtral,
                                    mixtralPrefix(prefix) + "gate.weight",
                                    router.shape, std::nullopt});
    }
    if (config.gates[layer])
      add(mlir::moe::languageGateName(mlir::moe::routerName(prefix)),
          {2, config.width}, Part::LanguageGate);
    for (int64_t e = 0; e < experts; ++e)
      addFfn(prefix, e);
  }

  /// Mixtral's name of an FFN.
  static std::string mixtralPrefix(const std::string &prefix) {
    return prefix.substr(0, prefix.rfind('.', prefix.size() - 2) + 1) +
           "block_sparse_moe.";
  }

  void addFfn(const std::string &prefix, int64_t expert) {
    const int64_t hidden = config.hidden;
    const Shape up = {hidden, config.width}, down = {config.width, hidden};
    if (keys.gateUp) {
      addGateUp(prefix, expert, "gate", 0);
      addGateUp(prefix, expert, "up", hidden);
    } else {
      if (family.gated())
        addMatrix(prefix, expert, keys.gate, up,
                  {"w1", "gate_up_proj", 0, 2 * hidden});
      addMatrix(prefix, expert, keys.up, up,
                {"w3", "gate_up_proj", hidden, 2 * hidden});
    }
    addMatrix(prefix, expert, keys.down, down,
              {"w2", "down_proj", 0, config.width});
    if (config.activation == FfnActivation::Xielu)
      for (const char *name : {"act_fn.alpha_p", "act_fn.alpha_n"})
        addExpertPart(prefix, expert, name, {1});
  }

  /// One matrix or vector of an expert, or of the dense FFN.
  ParameterLayout &addExpertPart(const std::string &prefix, int64_t expert,
                                 const std::string &name, Shape shape) {
    ParameterLayout &parameter = add(
        expert ? mlir::moe::expertName(prefix, expert, name) : prefix + name,
        std::move(shape), Part::Ffn);
    parameter.expert = expert;
    parameter.locations[0].key = expertKey(prefix, expert, name);
    return parameter;
  }

  std::string expertKey(const std::string &prefix, int64_t expert,
                        const std::string &name) const {
    return config.experts[layer] > 1
               ? mlir::moe::expertName(prefix, expert, name)
               : prefix + name;
  }

  /// The gate or the up projection, some rows of a tensor that holds both.
  void addGateUp(const std::string &prefix, int64_t expert,
                 const std::string &part, int64_t firstRow) {
    const std::string tensor = keys.gateUp;
    const int64_t rows = 2 * config.hidden;
    addExpertPart(prefix, expert, tensor + "." + part + ".weight",
                  {config.hidden, config.width})
        .locations = {{KeyForm::Own,
                       expertKey(prefix, expert, tensor + ".weight"),
                       {rows, config.width},
                       RowSelection{firstRow, config.hidden, rows}}};
  }

  /// Where a matrix of an expert lies in Mixtral, and in a tensor that holds
  /// `rows` rows of each expert.
  struct OtherKeys {
    const char *mixtral, *packed;
    int64_t firstRow, rows;
  };

  void addMatrix(const std::string &prefix, int64_t expert,
                 const std::string &name, const Shape &shape,
                 const OtherKeys &others) {
    ParameterLayout &matrix =
        addExpertPart(prefix, expert, name + ".weight", shape);
    const int64_t experts = config.experts[layer];
    if (hasOtherKeys() && experts > 1) {
      matrix.locations.push_back({KeyForm::Mixtral,
                                  mixtralPrefix(prefix) + "experts." +
                                      std::to_string(expert) + "." +
                                      others.mixtral + ".weight",
                                  shape, std::nullopt});
      matrix.locations.push_back(
          {KeyForm::Packed, prefix + "experts." + others.packed,
           Shape{experts, others.rows, shape[1]},
           RowSelection{expert * others.rows + others.firstRow, shape[0],
                        experts * others.rows}});
    }
    if (family.ffnBias)
      addExpertPart(prefix, expert, name + ".bias", {shape[0]});
  }

  bool hasOtherKeys() const { return family.gated() && !keys.gateUp; }

  const ModelConfig &config;
  const Family &family;
  const Family::Keys &keys;
  const Family::Norms &norms;
  int64_t layer = -1;
  std::vector<ParameterLayout> parameters;
};

} // namespace

std::vector<ParameterLayout> polymoe::layoutOf(const ModelConfig &config) {
  return LayoutBuilder(config).build();
}

std::vector<ConstantTensor> polymoe::constantsOf(const ModelConfig &config) {
  std::vector<ConstantTensor> constants;
  if (config.activation != FfnActivation::Xielu)
    return constants;
  const std::string_view alpha = "alpha_p";
  for (const ParameterLayout &parameter : layoutOf(config)) {
    std::string key = parameter.locations.front().key;
    if (!key.ends_with(alpha))
      continue;
    key.resize(key.size() - alpha.size());
    constants.push_back({key + "beta", 0.5});
    constants.push_back({key + "eps", -1e-6});
  }
  return constants;
}

bool polymoe::mayBeIgnored(const std::string &key) {
  for (const char *suffix :
       {".rotary_emb.inv_freq", ".rotary_emb.cos_cached",
        ".rotary_emb.sin_cached", ".self_attention.masked_bias",
        ".self_attention.scale_mask_softmax.causal_mask"})
    if (key.ends_with(suffix))
      return true;
  return false;
}
