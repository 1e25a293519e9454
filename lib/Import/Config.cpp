//===-- Config.cpp - what config.json says of a model
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Config.h"

#include "RopeKeys.h"
#include "StrictReader.h"
#include "moe/Runtime/Error.h"

#include <algorithm>

using namespace polymoe;
using Json = JsonReader::Json;

namespace {

template <typename T> using Names = std::pair<T, const char *>[];

constexpr Names<Family> familyNames = {
    {Family::Llama, "llama"}, {Family::Mistral, "mistral"},
    {Family::Qwen2, "qwen2"}, {Family::Qwen3, "qwen3"},
    {Family::Gemma, "gemma"}, {Family::Bloom, "bloom"},
};

constexpr Names<DType> typeNames = {
    {DType::F64, "float64"},
    {DType::F32, "float32"},
    {DType::BF16, "bfloat16"},
    {DType::F16, "float16"},
};

constexpr Names<GatePool> poolNames = {
    {GatePool::Token, "token"},
    {GatePool::CausalMean, "causal-mean"},
    {GatePool::SequenceSum, "sequence-sum"},
};

template <typename Table, typename T>
const char *nameIn(const Table &table, T value) {
  for (const auto &[known, name] : table)
    if (known == value)
      return name;
  return "";
}

template <typename T, size_t N>
std::optional<T> valueIn(const std::pair<T, const char *> (&table)[N],
                         const std::string &wanted) {
  for (const auto &[known, name] : table)
    if (name == wanted)
      return known;
  return std::nullopt;
}

/// Keys that do not change what the model computes in inference: names,
/// special tokens, training and generation settings, outputs to return.
const std::set<std::string> &harmlessKeys() {
  static const std::set<std::string> keys = {
      // Names and versions.
      "_name_or_path", "architectures", "auto_map", "model_type",
      "name_or_path", "tokenizer_class", "transformers_version",
      "unsloth_fixed", "unsloth_version",
      // Tokens and lengths.
      "bos_token_id", "decoder_start_token_id", "eos_token_id",
      "max_position_embeddings", "n_positions", "pad_token_id", "prefix",
      "seq_length", "sep_token_id", "unk_token_id",
      // Training.
      "attention_dropout", "bias_dropout_fusion", "finetuning_task",
      "hidden_dropout", "id2label", "initializer_range", "label2id",
      "problem_type", "router_aux_loss_coef", "router_jitter_noise",
      "task_specific_params",
      // How it is computed and what else is returned.
      "_attn_implementation", "_attn_implementation_autoset",
      "attention_softmax_in_fp32", "chunk_size_feed_forward", "is_decoder",
      "masked_softmax_fusion", "offset_alibi", "output_attentions",
      "output_hidden_states", "output_router_logits", "pretraining_tp",
      "return_dict", "skip_bias_add", "skip_bias_add_qkv", "slow_but_exact",
      "torchscript", "use_bfloat16", "use_cache",
      // Generation.
      "bad_words_ids", "begin_suppress_tokens", "diversity_penalty",
      "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
      "exponential_decay_length_penalty", "forced_bos_token_id",
      "forced_eos_token_id", "length_penalty", "max_length", "min_length",
      "no_repeat_ngram_size", "num_beam_groups", "num_beams",
      "num_return_sequences", "output_scores", "remove_invalid_values",
      "repetition_penalty", "return_dict_in_generate", "suppress_tokens",
      "temperature", "top_k", "top_p", "typical_p"};
  return keys;
}

/// Keys of other architectures, with the value that means "not used".
void rejectUnsupported(StrictReader &reader) {
  for (const char *key :
       {"attn_logit_softcapping", "final_logit_softcapping", "logits_soft_cap",
        "query_pre_attn_scalar", "quantization_config", "compression_config",
        "cross_attention_hidden_size", "n_inner", "embedding_multiplier",
        "logits_scaling", "residual_multiplier", "attention_multiplier",
        "shared_expert_intermediate_size"})
    reader.only(key, nullptr);
  for (const char *key :
       {"is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder",
        "use_bidirectional_attention", "rope_interleaved"})
    reader.only(key, false);
  reader.only("pruned_heads", Json::object());
}

class ConfigParser {
public:
  ConfigParser(const Json &json, const std::string &file)
      : reader(JsonReader(json, file)) {}

  ModelConfig parse() {
    parseModelType();
    parseDType();
    rejectUnsupported(reader);
    if (config.family == Family::Bloom)
      parseBloom();
    else
      parseDecoder();
    parseMixture();
    reader.finish(harmlessKeys());
    return std::move(config);
  }

private:
  void parseModelType() {
    std::string type = reader.string("model_type");
    std::string name = type;
    if (name == "mixtral") {
      config.mixture = MixtureForm::Mixtral;
      name = "mistral";
    } else if (name.starts_with("polymoe_")) {
      config.mixture = MixtureForm::Own;
      name = name.substr(8);
    }
    auto family = familyNamed(name);
    if (!family)
      reader.fail("model_type",
                  "one of llama, mistral, mixtral, qwen2, qwen3, gemma, bloom, "
                  "or polymoe_ and one of them",
                  type);
    config.family = *family;
  }

  void parseDType() {
    auto older = parseDType("torch_dtype"), newer = parseDType("dtype");
    if (older && newer && *older != *newer)
      reader.fail("dtype",
                  std::string("the value of 'torch_dtype', ") +
                      configNameOf(*older),
                  std::string(configNameOf(*newer)));
    config.dtype = newer ? newer : older;
  }

  std::optional<DType> parseDType(const std::string &key) {
    auto name = reader.findString(key);
    if (!name)
      return std::nullopt;
    if (auto type = valueIn(typeNames, *name))
      return type;
    reader.fail(key, "float32, bfloat16, float16 or float64", *name);
  }

  void parseBloom() {
    config.vocabulary = reader.integer("vocab_size");
    config.width = reader.integer("hidden_size", "n_embed");
    config.layers = parseLayers(reader.integer("n_layer", "num_hidden_layers"));
    config.heads = reader.integer("n_head", "num_attention_heads");
    config.kvHeads = config.heads;
    config.headDim = widthOfHead("n_head");
    config.hidden = 4 * config.width;
    config.epsilon = reader.positiveNumber("layer_norm_epsilon");
    config.activation = FfnActivation::GeluTanh;
    config.tied = reader.findBool("tie_word_embeddings").value_or(true);
    config.queryKeyValueBias = config.outputBias = true;
    config.windows.assign(config.layers, std::nullopt);
    reader.only("apply_residual_connection_post_layernorm", false);
  }

  void parseDecoder() {
    config.vocabulary = reader.integer("vocab_size");
    config.width = reader.integer("hidden_size");
    config.hidden = reader.integer("intermediate_size");
    config.layers = parseLayers(reader.integer("num_hidden_layers"));
    config.heads = reader.integer("num_attention_heads");
    parseHeads();
    config.epsilon = reader.positiveNumber("rms_norm_eps");
    parseActivation();
    config.tied = reader.findBool("tie_word_embeddings")
                      .value_or(config.family == Family::Gemma);
    parseBiases();
    RopeDefaults rope;
    // Llama's first configurations have no such key.
    if (config.family == Family::Llama)
      rope.theta = 10000.0;
    config.rope = readRope(reader, config.headDim, rope).full;
    parseWindows();
  }

  int64_t parseLayers(int64_t layers) {
    constexpr int64_t most = 10000;
    if (layers > most)
      reader.fail("num_hidden_layers",
                  "at most " + std::to_string(most) + " layers",
                  std::to_string(layers));
    return layers;
  }

  int64_t widthOfHead(const std::string &key) {
    if (config.width % config.heads != 0)
      reader.fail(key,
                  "a divisor of the width, " + std::to_string(config.width) +
                      ", since there is no 'head_dim'",
                  std::to_string(config.heads));
    return config.width / config.heads;
  }

  void parseHeads() {
    // Llama's first configurations have no such key. For the other families
    // transformers would assume a number that says nothing about the model.
    if (auto heads = reader.findInteger("num_key_value_heads"))
      config.kvHeads = *heads;
    else if (config.family == Family::Llama ||
             reader.contains("num_key_value_heads"))
      config.kvHeads = config.heads;
    else
      reader.fail("num_key_value_heads", "a number or null", "none");
    if (config.heads % config.kvHeads != 0)
      reader.fail("num_key_value_heads",
                  "a divisor of 'num_attention_heads', " +
                      std::to_string(config.heads),
                  std::to_string(config.kvHeads));

    if (auto dim = reader.findInteger("head_dim"))
      config.headDim = *dim;
    else if (config.family == Family::Qwen3 || config.family == Family::Gemma)
      reader.fail("head_dim", "the width of a head", "none");
    else
      config.headDim = widthOfHead("num_attention_heads");
    if (config.headDim % 2 != 0)
      reader.fail("head_dim",
                  "an even width of a head, since its halves are rotated",
                  std::to_string(config.headDim));
  }

  void parseActivation() {
    auto name = reader.findString("hidden_act");
    std::string key = "hidden_act";
    if (config.family == Family::Gemma) {
      // `hidden_activation` is the newer key and wins. "gelu" in the released
      // files means the tanh approximation.
      if (auto newer = reader.findString("hidden_activation")) {
        key = "hidden_activation";
        name = newer;
      }
      if (name == "gelu")
        name = "gelu_pytorch_tanh";
    }
    if (name == "silu")
      config.activation = FfnActivation::Silu;
    else if (name == "gelu")
      config.activation = FfnActivation::Gelu;
    else if (name == "gelu_pytorch_tanh")
      config.activation = FfnActivation::GeluTanh;
    else
      reader.fail(key, "silu, gelu or gelu_pytorch_tanh",
                  name.value_or("none"));
  }

  void parseBiases() {
    bool bias = false;
    switch (config.family) {
    case Family::Llama:
    case Family::Qwen3:
    case Family::Gemma:
      bias = reader.findBool("attention_bias").value_or(false);
      config.queryKeyValueBias = config.outputBias = bias;
      break;
    case Family::Qwen2:
      config.queryKeyValueBias = true;
      reader.only("qkv_bias", true);
      break;
    default:
      reader.only("attention_bias", false);
    }
    config.queryKeyNorm = config.family == Family::Qwen3;
    // The gated FFN of the dialect has no biases; no released model has them.
    reader.only("mlp_bias", false);
  }

  void parseWindows() {
    auto window = reader.findInteger("sliding_window");
    std::vector<bool> sliding(config.layers, false);
    switch (config.family) {
    case Family::Mistral:
      // Where the key is missing, transformers would assume 4096 for mistral.
      if (config.mixture != MixtureForm::Mixtral &&
          !reader.contains("sliding_window"))
        reader.fail("sliding_window", "a number or null", "none");
      sliding.assign(config.layers, window.has_value());
      break;
    case Family::Qwen2:
    case Family::Qwen3:
      sliding = parseLayerTypes(window);
      break;
    default:
      reader.only("sliding_window", nullptr);
    }
    config.windows.resize(config.layers);
    for (int64_t i = 0; i < config.layers; ++i)
      if (sliding[i])
        config.windows[i] = window;
  }

  std::vector<JsonReader> oneForEachLayer(const JsonReader &list,
                                          const std::string &what) {
    if (!list.json().is_array() ||
        static_cast<int64_t>(list.json().size()) != config.layers)
      list.expected("one " + what + " for each of " +
                    std::to_string(config.layers) + " layers");
    return list.elements();
  }

  std::vector<bool> parseLayerTypes(std::optional<int64_t> window) {
    bool used = reader.findBool("use_sliding_window").value_or(false);
    // Zero means that every layer has a sliding window.
    std::optional<int64_t> first;
    if (auto value = reader.find("max_window_layers"))
      first = value->integer();
    if (used && !window)
      reader.fail("sliding_window",
                  "a number, since 'use_sliding_window' is true", "none");

    std::vector<bool> sliding(config.layers, false);
    auto types = reader.find("layer_types");
    if (!types) {
      if (used && !first)
        reader.fail("max_window_layers",
                    "a number, since 'use_sliding_window' is true", "none");
      for (int64_t i = 0; used && i < config.layers; ++i)
        sliding[i] = *first <= i;
      return sliding;
    }
    std::vector<JsonReader> elements = oneForEachLayer(*types, "type");
    for (int64_t i = 0; i < config.layers; ++i) {
      sliding[i] = elements[i].oneOf<bool>(
          {{"full_attention", false}, {"sliding_attention", true}});
      if (sliding[i] && !used)
        elements[i].expected(
            "full_attention, since 'use_sliding_window' is false");
    }
    return sliding;
  }

  void parseMixture() {
    config.experts.assign(config.layers, 1);
    config.gates.assign(config.layers, false);
    if (config.mixture == MixtureForm::None)
      return;
    if (config.mixture == MixtureForm::Mixtral) {
      int64_t experts =
          checkExperts("num_local_experts",
                       reader.integer("num_local_experts", "num_experts"));
      config.experts.assign(config.layers, experts);
      config.topK = reader.integer("num_experts_per_tok");
      // With one expert per token Mixtral gives it a score of 1, moe.route its
      // probability.
      if (config.topK < 2 || config.topK > experts)
        reader.fail("num_experts_per_tok",
                    "a number from 2 to " + std::to_string(experts),
                    std::to_string(config.topK));
      return;
    }
    config.topK = reader.integer("polymoe_top_k");
    std::vector<JsonReader> counts =
        oneForEachLayer(reader.at("polymoe_experts"), "number");
    for (int64_t i = 0; i < config.layers; ++i)
      // 0 and 1 both mean that the layer is dense.
      config.experts[i] = checkExperts(
          "polymoe_experts", std::max<int64_t>(1, counts[i].integer()));
    parseGates();
  }

  void parseGates() {
    auto layers = reader.find("polymoe_language_gates");
    if (!layers)
      return;
    for (const JsonReader &element : layers->elements()) {
      int64_t layer = element.integer<int64_t>(0, config.layers - 1);
      if (config.experts[layer] == 1)
        layers->expected("layers with experts");
      config.gates[layer] = true;
    }
    std::string pool = reader.string("polymoe_gate_pool");
    auto known = valueIn(poolNames, pool);
    if (!known)
      reader.fail("polymoe_gate_pool", "token, causal-mean or sequence-sum",
                  pool);
    config.gatePool = *known;
  }

  int64_t checkExperts(const std::string &key, int64_t experts) {
    // With more experts in all layers together, listing the parameters would
    // take long.
    constexpr int64_t most = 100000;
    if (experts > most / config.layers)
      reader.fail(key, "at most " + std::to_string(most) + " experts in all",
                  std::to_string(experts));
    return experts;
  }

  StrictReader reader;
  ModelConfig config;
};

} // namespace

const char *polymoe::nameOf(Family family) {
  return nameIn(familyNames, family);
}

const char *polymoe::nameOf(GatePool pool) { return nameIn(poolNames, pool); }

std::optional<Family> polymoe::familyNamed(const std::string &name) {
  return valueIn(familyNames, name);
}

const char *polymoe::configNameOf(DType type) {
  return nameIn(typeNames, type);
}

ModelConfig polymoe::parseConfig(const Json &json, const std::string &file) {
  return ConfigParser(json, file).parse();
}

ModelConfig polymoe::readConfig(const std::filesystem::path &file) {
  return parseConfig(readJsonObject(file), file.string());
}
