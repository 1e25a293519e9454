//===-- ExportConfig.cpp - the configuration of a module
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RopeKeys.h"
#include "moe/Dialect/MoE.h"
#include "moe/Import/Export.h"
#include "moe/Import/Module.h"
#include "moe/Runtime/Error.h"
#include "moe/Transforms/Layers.h"

#include <nlohmann/json.hpp>

#include <algorithm>

using namespace mlir;
using namespace polymoe;
using Json = nlohmann::ordered_json;

//===----------------------------------------------------------------------===//
// What the module says
//===----------------------------------------------------------------------===//

/// Whether a layer has a language gate that trains or has trained. Others
/// decide nothing (moe-drop-untrained-gates).
static bool hasTrainedGate(const moe::Layer &layer,
                           const SymbolTable &symbols) {
  moe::LanguageGateOp gate =
      layer.route ? moe::languageGateOf(layer.route) : moe::LanguageGateOp();
  if (!gate)
    return false;
  moe::ParameterOp weight;
  diagnose(*gate.getContext(), [&] {
    auto found =
        moe::parameterOf(layer, gate.getWeight(), "a language gate", symbols);
    if (succeeded(found))
      weight = *found;
    return LogicalResult(found);
  });
  return moe::isTrained(weight);
}

/// How a route's gate pools its logits.
static GatePool gatePoolOf(moe::RouteOp route) {
  auto pool = route.getGate().getDefiningOp<moe::PoolOp>();
  if (!pool)
    return GatePool::Token;
  return pool.getKind() == moe::PoolKind::CausalMean ? GatePool::CausalMean
                                                     : GatePool::SequenceSum;
}

/// Checks that a checkpoint can express a route to `topK` experts, or to all
/// where there are fewer.
static void checkRoute(moe::RouteOp route, int64_t topK) {
  moe::RoutesType routes = route.getRoutes().getType();
  if (route.getForcedExpert())
    fail("moe.route: expected routes that follow the router, but got ones "
         "forced to expert ",
         *route.getForcedExpert(), ", which no checkpoint can express");
  if (route.getGroups())
    fail("moe.route: expected routes that follow the router, but got ones by "
         "the groups of languages, which no checkpoint can express");
  if (routes.getTopK() != std::min(topK, routes.getExperts()))
    fail("moe.route: expected ", std::min(topK, routes.getExperts()),
         " experts a token, as in other layers, but got ", routes.getTopK());
  if (routes.getTopK() > 1 && !route.getRenormalize())
    fail("moe.route: expected scores that are renormalised, but got ones "
         "that are not, which no checkpoint can express");
}

/// Whether the mixture that transformers has for the family can be this model.
/// Mixtral has neither biases nor windows of some layers only, one number of
/// experts, and gives a token's only expert a weight of 1.
static bool isStockMixture(const ModelConfig &config) {
  auto sameEverywhere = [](const auto &values) {
    return std::all_of(values.begin(), values.end(), [&](const auto &value) {
      return value == values.front();
    });
  };
  return config.family->stockMixture && !config.queryKeyValueBias &&
         !config.outputBias && sameEverywhere(config.windows) &&
         sameEverywhere(config.experts) && config.topK > 1 &&
         std::none_of(config.gates.begin(), config.gates.end(),
                      [](bool gated) { return gated; });
}

static DType computeTypeOf(ModuleOp module) {
  for (auto parameter : module.getOps<moe::ParameterOp>()) {
    Type element = cast<RankedTensorType>(parameter.getType()).getElementType();
    if (element.isF64())
      return DType::F64;
    return element.isBF16() ? DType::BF16 : DType::F32;
  }
  fail("expected a module with parameters, but there are none");
}

ModelConfig polymoe::exportedConfig(ModuleOp module, ModelConfig config) {
  config.dtype = computeTypeOf(module);
  SymbolTable symbols(module);
  SmallVector<moe::Layer> layers;
  diagnose(*module.getContext(), [&] {
    auto found = moe::findLayers(module, symbols);
    if (succeeded(found))
      layers = *found;
    return LogicalResult(found);
  });
  if (static_cast<int64_t>(layers.size()) != config.layers)
    fail("expected a module of ", config.layers,
         " layers, as its configuration says, but got ", layers.size());

  config.topK = 0;
  std::optional<GatePool> pool;
  for (auto [i, layer] : llvm::enumerate(layers)) {
    config.experts[i] = layer.experts();
    config.gates[i] = hasTrainedGate(layer, symbols);
    if (layer.route)
      config.topK =
          std::max(config.topK, layer.route.getRoutes().getType().getTopK());
    if (!config.gates[i])
      continue;
    GatePool own = gatePoolOf(layer.route);
    if (pool && *pool != own)
      fail("moe.route: expected language gates of one pool, but got ",
           nameOf(*pool), " and ", nameOf(own),
           ", which no checkpoint can express");
    pool = own;
  }
  config.gatePool = pool.value_or(GatePool::Token);
  for (moe::Layer &layer : layers)
    if (layer.route)
      checkRoute(layer.route, config.topK);
  config.mixture = config.topK == 0         ? MixtureForm::None
                   : isStockMixture(config) ? MixtureForm::Mixtral
                                            : MixtureForm::Own;
  return config;
}

//===----------------------------------------------------------------------===//
// As JSON
//===----------------------------------------------------------------------===//

/// The family of the model type that `config` is written as.
static const Family &writtenFamily(const ModelConfig &config) {
  return config.mixture == MixtureForm::Mixtral
             ? *findFamily(config.family->stockMixture)
             : *config.family;
}

/// Writes out what `source` leaves to defaults, which another family may have
/// others of.
static void makeExplicit(const ModelConfig &config, Json &json) {
  const Family &family = *config.family;
  json["num_key_value_heads"] = config.kvHeads;
  json["head_dim"] = config.headDim;
  json["tie_word_embeddings"] = config.tied;
  json[family.norms.epsilonKey] = config.epsilon;
  json["sliding_window"] =
      config.windows.front() ? Json(*config.windows.front()) : Json();
}

static void erase(Json &json, std::initializer_list<const char *> keys) {
  for (const char *key : keys)
    json.erase(key);
}

/// Takes out what a mixture's configuration has beside that of the dense model.
static void eraseMixture(Json &json) {
  erase(json, {"auto_map", "polymoe_experts", "polymoe_top_k",
               "polymoe_language_gates", "polymoe_gate_pool"});
  const Family *family = findFamily(json.value("model_type", ""));
  if (family && family->denseOf)
    erase(json, {"num_local_experts", "num_experts", "num_experts_per_tok",
                 "output_router_logits", "router_aux_loss_coef",
                 "router_jitter_noise"});
}

Json polymoe::toJson(const ModelConfig &config, const Json &source) {
  const Family &family = writtenFamily(config);
  const bool own = config.mixture == MixtureForm::Own;
  const std::string prefix = own ? "PolyMoE" : "";
  const std::string type = (own ? "polymoe_" : "") + std::string(family.name);
  const std::string model = prefix + family.model + "ForCausalLM";

  Json json = textConfigOf(source);
  const std::string sourceType = json.value("model_type", "");
  const Family *read = findFamily(sourceType);
  eraseMixture(json);
  if (type != sourceType &&
      (&family != config.family || (read && read->denseOf)))
    makeExplicit(config, json);
  if (auto types = json.find("layer_types"); types != json.end())
    for (Json &layer : *types)
      if (layer == "full_attention")
        layer = family.fullAttention;
  if (config.rope)
    writeRope(*config.rope, family.rope, json);
  json["architectures"] = {model};
  json["model_type"] = type;
  json[json.contains("torch_dtype") ? "torch_dtype" : "dtype"] =
      configNameOf(*config.dtype);
  if (json.contains("torch_dtype"))
    json.erase("dtype");

  if (config.mixture == MixtureForm::Mixtral) {
    erase(json,
          {"attention_bias", "layer_types", "mlp_bias", "pretraining_tp"});
    json["num_local_experts"] = config.experts.front();
    json["num_experts_per_tok"] = config.topK;
  }
  if (own) {
    json["auto_map"] = {{"AutoConfig", "configuration_polymoe." + prefix +
                                           family.configName() + "Config"},
                        {"AutoModelForCausalLM", "modeling_polymoe." + model}};
    json["polymoe_experts"] = config.experts;
    json["polymoe_top_k"] = config.topK;
    std::vector<int64_t> gated;
    for (int64_t layer = 0; layer < config.layers; ++layer)
      if (config.gates[layer])
        gated.push_back(layer);
    if (!gated.empty()) {
      json["polymoe_language_gates"] = gated;
      json["polymoe_gate_pool"] = nameOf(config.gatePool);
    }
  }
  return json;
}
