//===-- Layout.cpp - which tensors a model has, under which keys
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Layout.h"

#include "moe/Transforms/Layers.h"

using namespace polymoe;

namespace {

using Part = ParameterLayout::Part;
using Shape = std::vector<int64_t>;

class LayoutBuilder {
public:
  explicit LayoutBuilder(const ModelConfig &config)
      : config(config), bloom(config.family == Family::Bloom) {}

  std::vector<ParameterLayout> build() {
    const Shape table = {config.vocabulary, config.width};
    if (bloom) {
      add("transformer.word_embeddings.weight", table, Part::Embedding);
      addNorm("transformer.word_embeddings_layernorm", Part::EmbeddingNorm);
    } else {
      add("model.embed_tokens.weight", table, Part::Embedding);
    }
    for (layer = 0; layer < config.layers; ++layer)
      addLayer();
    layer = -1;
    addNorm(bloom ? "transformer.ln_f" : "model.norm", Part::FinalNorm);
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

  void addNorm(const std::string &prefix, Part part) {
    add(prefix + ".weight", {config.width}, part);
    if (bloom)
      add(prefix + ".bias", {config.width}, part);
  }

  void addLinear(const std::string &prefix, int64_t out, int64_t in, bool bias,
                 Part part) {
    add(prefix + ".weight", {out, in}, part);
    if (bias)
      add(prefix + ".bias", {out}, part);
  }

  void addLayer() {
    std::string prefix =
        (bloom ? "transformer.h." : "model.layers.") + std::to_string(layer);
    addNorm(prefix + ".input_layernorm", Part::InputNorm);
    if (bloom)
      addFusedAttention(prefix + ".self_attention.");
    else
      addAttention(prefix + ".self_attn.");
    addNorm(prefix + ".post_attention_layernorm", Part::FfnNorm);
    addFfns(prefix);
  }

  void addAttention(const std::string &prefix) {
    int64_t queries = config.heads * config.headDim;
    int64_t keys = config.kvHeads * config.headDim;
    bool bias = config.queryKeyValueBias;
    addLinear(prefix + "q_proj", queries, config.width, bias, Part::Query);
    addLinear(prefix + "k_proj", keys, config.width, bias, Part::Key);
    addLinear(prefix + "v_proj", keys, config.width, bias, Part::Value);
    if (config.queryKeyNorm) {
      add(prefix + "q_norm.weight", {config.headDim}, Part::QueryNorm);
      add(prefix + "k_norm.weight", {config.headDim}, Part::KeyNorm);
    }
    addLinear(prefix + "o_proj", config.width, queries, config.outputBias,
              Part::Output);
  }

  /// BLOOM's tensors hold query, key and value of a head one after the other.
  void addFusedAttention(const std::string &prefix) {
    int64_t width = config.width, dim = config.headDim;
    const std::pair<const char *, Part> parts[] = {
        {"q", Part::Query}, {"k", Part::Key}, {"v", Part::Value}};
    for (int64_t i = 0; i < 3; ++i) {
      RowSelection rows{i * dim, dim, 3 * dim};
      auto addPart = [&](const std::string &kind, Shape shape, Shape fused) {
        std::string key = prefix + "query_key_value.";
        std::string name = key;
        name.append(parts[i].first).append(kind);
        ParameterLayout &parameter =
            add(std::move(name), std::move(shape), parts[i].second);
        parameter.locations = {
            {KeyForm::Own, key + kind.substr(1), std::move(fused), rows}};
      };
      addPart(".weight", {width, width}, {3 * width, width});
      addPart(".bias", {width}, {3 * width});
    }
    addLinear(prefix + "dense", width, width, /*bias=*/true, Part::Output);
  }

  void addFfns(const std::string &prefix) {
    int64_t experts = config.experts[layer];
    if (experts > 1) {
      ParameterLayout &router =
          add(routerOf(prefix), {experts, config.width}, Part::Router);
      if (!bloom)
        router.locations.push_back({KeyForm::Mixtral,
                                    prefix + ".block_sparse_moe.gate.weight",
                                    router.shape, std::nullopt});
    }
    if (config.gates[layer])
      add(mlir::moe::languageGateName(routerOf(prefix)), {2, config.width},
          Part::LanguageGate);
    for (int64_t e = 0; e < experts; ++e)
      bloom ? addPlainFfn(prefix, e) : addGatedFfn(prefix, e);
  }

  static std::string routerOf(const std::string &prefix) {
    return mlir::moe::routerName(prefix + ".mlp.");
  }

  /// One matrix or vector of an expert, or of the dense FFN.
  ParameterLayout &addFfn(const std::string &prefix, int64_t expert,
                          const std::string &name, Shape shape) {
    std::string dense = prefix + ".mlp." + name;
    std::string own = mlir::moe::expertName(prefix + ".mlp.", expert, name);
    ParameterLayout &parameter =
        add(expert ? own : dense, std::move(shape), Part::Ffn);
    parameter.expert = expert;
    if (config.experts[layer] > 1)
      parameter.locations[0].key = own;
    return parameter;
  }

  void addPlainFfn(const std::string &prefix, int64_t expert) {
    int64_t width = config.width, hidden = config.hidden;
    addFfn(prefix, expert, "dense_h_to_4h.weight", {hidden, width});
    addFfn(prefix, expert, "dense_h_to_4h.bias", {hidden});
    addFfn(prefix, expert, "dense_4h_to_h.weight", {width, hidden});
    addFfn(prefix, expert, "dense_4h_to_h.bias", {width});
  }

  void addGatedFfn(const std::string &prefix, int64_t expert) {
    int64_t width = config.width, hidden = config.hidden;
    int64_t experts = config.experts[layer];
    const Shape packedUp = {experts, 2 * hidden, width};
    const Shape packedDown = {experts, width, hidden};
    auto addPart = [&](const std::string &name, const char *mixtral,
                       Shape shape, const char *packed, Shape packedShape,
                       int64_t firstRow) {
      int64_t rows = shape[0];
      ParameterLayout &parameter =
          addFfn(prefix, expert, name + ".weight", std::move(shape));
      if (experts == 1)
        return;
      parameter.locations.push_back({KeyForm::Mixtral,
                                     prefix + ".block_sparse_moe.experts." +
                                         std::to_string(expert) + "." +
                                         mixtral + ".weight",
                                     parameter.shape, std::nullopt});
      RowSelection selection{firstRow, rows, packedShape[0] * packedShape[1]};
      parameter.locations.push_back({KeyForm::Packed,
                                     prefix + ".mlp.experts." + packed,
                                     std::move(packedShape), selection});
    };
    addPart("gate_proj", "w1", {hidden, width}, "gate_up_proj", packedUp,
            expert * 2 * hidden);
    addPart("up_proj", "w3", {hidden, width}, "gate_up_proj", packedUp,
            expert * 2 * hidden + hidden);
    addPart("down_proj", "w2", {width, hidden}, "down_proj", packedDown,
            expert * width);
  }

  const ModelConfig &config;
  const bool bloom;
  int64_t layer = -1;
  std::vector<ParameterLayout> parameters;
};

} // namespace

std::vector<ParameterLayout> polymoe::layoutOf(const ModelConfig &config) {
  return LayoutBuilder(config).build();
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
