//===-- Config.cpp - what config.json says of a model
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Config.h"

#include "HarmlessKeys.h"
#include "RopeKeys.h"
#include "StrictReader.h"
#include "moe/Runtime/Error.h"

#include <algorithm>
#include <cmath>

using namespace polymoe;
using Json = JsonReader::Json;

namespace {

template <typename T> using Names = std::pair<T, const char *>[];

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

constexpr Names<FfnActivation> activationNames = {
    {FfnActivation::Silu, "silu"},
    {FfnActivation::Gelu, "gelu"},
    {FfnActivation::GeluTanh, "gelu_pytorch_tanh"},
    {FfnActivation::Xielu, "xielu"},
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

/// The model types that are read, for an error.
std::string knownTypes() {
  std::string names;
  for (const Family &family : allFamilies())
    names += std::string(family.name) + ", ";
  return names + "or polymoe_ and one of them";
}

class ConfigParser {
public:
  explicit ConfigParser(const JsonReader &object) : reader(object) {}

  ModelConfig parse(const std::vector<std::string> &ignored) {
    parseModelType();
    parseDType();
    parseSizes();
    parseActivation();
    parsePositions();
    parseScalars();
    parseMixture();
    for (const Family::Fixed &fixed : family->fixed)
      if (fixed.key)
        reader.only(fixed.key, Json::parse(fixed.value), fixed.required);
    rejectUnsupported(reader);
    reader.finish(
        [&](const std::string &key) { return isHarmless(*family, key); },
        ignored);
    return std::move(config);
  }

private:
  void parseModelType() {
    std::string type = reader.string("model_type");
    std::string name = type;
    if (name.starts_with("polymoe_")) {
      config.mixture = MixtureForm::Own;
      name = name.substr(8);
    }
    if (const char *reason = whyRefused(name))
      reader.fail("model_type",
                  "a model type that is read (" + name + " is not, since " +
                      reason + ")",
                  type);
    family = findFamily(name);
    if (!family || (family->denseOf && config.mixture == MixtureForm::Own))
      reader.fail("model_type", "one of " + knownTypes(), type);
    config.family = family;
    if (family->denseOf) {
      config.mixture = MixtureForm::Mixtral;
      config.family = findFamily(family->denseOf);
    }
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

  //===--------------------------------------------------------------------===//
  // Sizes
  //===--------------------------------------------------------------------===//

  /// A size that the family may call by another name.
  int64_t size(const std::string &key) {
    std::string own = family->nameOf(key);
    return own == key ? reader.integer(key) : reader.integer(key, own);
  }

  void parseSizes() {
    config.vocabulary = size("vocab_size");
    config.width = size("hidden_size");
    config.hidden =
        family->hiddenKey ? size(family->hiddenKey) : 4 * config.width;
    config.layers = size("num_hidden_layers");
    constexpr int64_t most = 10000;
    if (config.layers > most)
      reader.fail(family->nameOf("num_hidden_layers"),
                  "at most " + std::to_string(most) + " layers",
                  std::to_string(config.layers));
    config.heads = size("num_attention_heads");
    parseHeads();
    config.epsilon =
        reader.positiveNumber(family->norms.epsilonKey, family->norms.epsilon);
    config.tied = reader.findBool("tie_word_embeddings").value_or(family->tied);

    bool bias = family->attentionBias == AttentionBias::All;
    if (family->attentionBias == AttentionBias::ByKey)
      bias = reader.findBool("attention_bias").value_or(false);
    config.outputBias = bias;
    config.queryKeyValueBias =
        bias || family->attentionBias == AttentionBias::QueryKeyValue;
  }

  void parseHeads() {
    config.kvHeads = config.heads;
    if (auto heads = reader.findInteger("num_key_value_heads"))
      config.kvHeads = *heads;
    else if (family->kvHeads && !reader.contains("num_key_value_heads"))
      config.kvHeads = family->kvHeads;
    if (config.heads % config.kvHeads != 0)
      reader.fail("num_key_value_heads",
                  "a divisor of 'num_attention_heads', " +
                      std::to_string(config.heads),
                  std::to_string(config.kvHeads));

    if (auto dim = reader.findInteger("head_dim"))
      config.headDim = *dim;
    else if (family->headDim)
      config.headDim = family->headDim;
    else if (config.width % config.heads == 0)
      config.headDim = config.width / config.heads;
    else
      reader.fail(family->nameOf("num_attention_heads"),
                  "a divisor of the width, " + std::to_string(config.width) +
                      ", since there is no 'head_dim'",
                  std::to_string(config.heads));
    if (family->positions != Positions::Alibi && config.headDim % 2 != 0)
      reader.fail("head_dim",
                  "an even width of a head, since its halves are rotated",
                  std::to_string(config.headDim));
  }

  void parseActivation() {
    config.activation = family->activation;
    if (!family->activationKey)
      return;
    std::string key = family->activationKey;
    auto name = reader.findString(key);
    if (family->olderActivationKey) {
      auto older = reader.findString(family->olderActivationKey);
      if (!name && older) {
        key = family->olderActivationKey;
        name = older;
      }
    }
    if (!name)
      return;
    if (family->geluIsTanh && *name == "gelu")
      name = "gelu_pytorch_tanh";
    auto known = valueIn(activationNames, *name);
    if (!known || (*known == FfnActivation::Xielu && family->gated()))
      reader.fail(key,
                  family->gated() ? "silu, gelu or gelu_pytorch_tanh"
                                  : "silu, gelu, gelu_pytorch_tanh or xielu",
                  *name);
    config.activation = *known;
  }

  //===--------------------------------------------------------------------===//
  // Positions and windows
  //===--------------------------------------------------------------------===//

  void parsePositions() {
    std::vector<bool> rotated = parseRotated();
    bool windowed = parseWindows(rotated).has_value();
    if (family->positions == Positions::RotaryInWindows ||
        (family->positions == Positions::RotaryUnlessFull && windowed))
      for (int64_t i = 0; i < config.layers; ++i)
        rotated[i] = config.windows[i].has_value();
    config.rotates = rotated;
    if (family->positions == Positions::Alibi)
      config.rotates.assign(config.layers, false);
    else
      config.rope = readRope(reader, config.headDim, family->rope);
  }

  /// Which layers rotate, as far as that does not follow from their windows.
  std::vector<bool> parseRotated() {
    std::vector<bool> rotated(config.layers, true);
    if (family->positions == Positions::RotaryByType) {
      auto type = reader.find("position_embedding_type");
      bool rotates =
          type && type->oneOf<bool>({{"rope", true}, {"nope", false}});
      rotated.assign(config.layers, rotates);
    } else if (family->positions == Positions::RotaryListed) {
      int64_t interval =
          reader.findInteger("no_rope_layer_interval").value_or(4);
      for (int64_t i = 0; i < config.layers; ++i)
        rotated[i] = (i + 1) % interval != 0;
      if (auto list = reader.find("no_rope_layers")) {
        std::vector<JsonReader> elements = oneForEachLayer(*list, "0 or 1");
        for (int64_t i = 0; i < config.layers; ++i)
          rotated[i] = elements[i].integer<int64_t>(0, 1) == 1;
      }
    }
    return rotated;
  }

  /// Returns 'sliding_window'.
  std::optional<int64_t> parseWindows(const std::vector<bool> &rotated) {
    std::optional<int64_t> window = reader.findInteger("sliding_window");
    if (!reader.contains("sliding_window"))
      window = family->window;
    if (family->windows == Windows::None)
      reader.only("sliding_window", nullptr);
    bool switchedOff = family->windowSwitch &&
                       !reader.findBool("use_sliding_window").value_or(false);
    if (family->windowSwitch && !switchedOff && !window)
      reader.fail("sliding_window",
                  "a number, since 'use_sliding_window' is true", "none");

    std::vector<bool> sliding = parseLayerTypes(
        windowedByRule(switchedOff ? std::nullopt : window, rotated));
    config.windows.resize(config.layers);
    for (int64_t i = 0; i < config.layers; ++i) {
      if (!sliding[i])
        continue;
      if (switchedOff)
        reader.at("layer_types")
            .elements()[i]
            .expected("full_attention, since 'use_sliding_window' is false");
      if (!window)
        reader.fail("sliding_window",
                    "a number, since layer " + std::to_string(i) +
                        " has a window",
                    "none");
      config.windows[i] = window;
    }
    return window;
  }

  /// The layers with a window where 'layer_types' does not say.
  std::vector<bool> windowedByRule(std::optional<int64_t> window,
                                   const std::vector<bool> &rotated) {
    std::vector<bool> sliding(config.layers, false);
    int64_t pattern = family->windowPattern, first = 0;
    // Beside 'layer_types' the pattern decides nothing, and EXAONE 4 writes it
    // in letters.
    if (family->windowPatternKey && reader.find("sliding_window_pattern") &&
        !reader.find("layer_types"))
      pattern = reader.integer("sliding_window_pattern");
    if (family->windows == Windows::FromLayer) {
      auto value = reader.find("max_window_layers");
      // Zero means that every layer has a window.
      first = value ? value->integer() : 28;
    }
    for (int64_t i = 0; i < config.layers; ++i)
      switch (family->windows) {
      case Windows::None:
        break;
      case Windows::All:
      case Windows::AllUnlessListed:
        sliding[i] = window.has_value();
        break;
      case Windows::Pattern:
        sliding[i] = (i + 1) % pattern != 0;
        break;
      case Windows::FromLayer:
        sliding[i] = window && first <= i;
        break;
      case Windows::WithoutRotary:
        sliding[i] = window && !rotated[i];
        break;
      }
    return sliding;
  }

  std::vector<JsonReader> oneForEachLayer(const JsonReader &list,
                                          const std::string &what) {
    if (!list.json().is_array() ||
        static_cast<int64_t>(list.json().size()) != config.layers)
      list.expected("one " + what + " for each of " +
                    std::to_string(config.layers) + " layers");
    return list.elements();
  }

  std::vector<bool> parseLayerTypes(std::vector<bool> sliding) {
    auto types = reader.find("layer_types");
    if (!types)
      return sliding;
    std::vector<JsonReader> elements = oneForEachLayer(*types, "type");
    for (int64_t i = 0; i < config.layers; ++i) {
      bool listed = elements[i].oneOf<bool>({{"full_attention", false},
                                             {"sliding_attention", true},
                                             {"attention", false}});
      // Other families do not read the list.
      bool fixed =
          family->windows == Windows::None || family->windows == Windows::All;
      if (fixed && listed != sliding[i])
        elements[i].expected(sliding[i] ? "sliding_attention"
                                        : "full_attention");
      sliding[i] = listed;
    }
    return sliding;
  }

  //===--------------------------------------------------------------------===//
  // Scalars
  //===--------------------------------------------------------------------===//

  void parseScalars() {
    config.embeddingScale = parseScalar(family->embeddingScale);
    config.residualScale = parseScalar(family->residualScale);
    config.logitScale = parseScalar(family->logitScale);
    config.attentionScale =
        family->attentionScale.key
            ? parseScalar(family->attentionScale)
            : 1.0 / std::sqrt(static_cast<double>(config.headDim));
    config.attentionCap = parseCap(family->attentionCap);
    config.logitCap = parseCap(family->logitCap);
  }

  double parseScalar(const Scalar &scalar) {
    if (!scalar.key)
      return 1.0;
    double value = reader.positiveNumber(scalar.key, scalar.missing);
    switch (scalar.use) {
    case Scalar::Use::Multiplies:
      return value;
    case Scalar::Use::Divides:
      return 1.0 / value;
    case Scalar::Use::DividesRoot:
      return 1.0 / std::sqrt(value);
    }
    return value;
  }

  std::optional<double> parseCap(const SoftCap &cap) {
    if (!cap.key)
      return std::nullopt;
    if (!reader.contains(cap.key))
      return cap.missing;
    if (!reader.find(cap.key))
      return std::nullopt;
    return reader.positiveNumber(cap.key);
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
  const Family *family = nullptr;
  ModelConfig config;
};

} // namespace

const char *polymoe::nameOf(GatePool pool) { return nameIn(poolNames, pool); }

const char *polymoe::configNameOf(DType type) {
  return nameIn(typeNames, type);
}

nlohmann::ordered_json
polymoe::textConfigOf(const nlohmann::ordered_json &json) {
  const Wrapper *wrapper = findWrapper(json.value("model_type", ""));
  if (!wrapper || !json.contains("text_config") ||
      !json["text_config"].is_object())
    return json;
  nlohmann::ordered_json text = json["text_config"];
  if (!text.contains("model_type"))
    text["model_type"] = wrapper->text;
  // What the file says of the whole model holds for the text.
  for (const char *key : {"torch_dtype", "dtype", "tie_word_embeddings",
                          "bos_token_id", "eos_token_id", "pad_token_id"})
    if (!text.contains(key) && json.contains(key))
      text[key] = json[key];
  return text;
}

ModelConfig polymoe::parseConfig(const Json &json, const std::string &file,
                                 const std::vector<std::string> &ignored) {
  JsonReader whole(json, file);
  auto type = json.find("model_type");
  if (type == json.end() || !type->is_string() ||
      !findWrapper(type->get<std::string>()))
    return ConfigParser(whole).parse(ignored);
  for (const char *key : {"quantization_config", "compression_config"})
    StrictReader(whole).only(key, nullptr);
  whole.at("text_config").expectObject();
  const Json text = textConfigOf(json);
  ModelConfig config =
      ConfigParser(JsonReader(text, file, "text_config")).parse(ignored);
  config.wrapped = true;
  return config;
}

ModelConfig polymoe::readConfig(const std::filesystem::path &file,
                                const std::vector<std::string> &ignored) {
  return parseConfig(readJsonObject(file), file.string(), ignored);
}
