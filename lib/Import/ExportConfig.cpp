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
  if (routes.getTopK() != std::min(topK, routes.getExperts()))
    fail("moe.route: expected ", std::min(topK, routes.getExperts()),
         " experts a token, as in other layers, but got ", routes.getTopK());
  if (routes.getTopK() > 1 && !route.getRenormalize())
    fail("moe.route: expected scores that are renormalised, but got ones "
         "that are not, which no checkpoint can express");
}

/// Mixtral has neither biases nor windows of some layers only, one number of
/// experts, and gives a token's only expert a weight of 1.
static bool isMixtral(const ModelConfig &config) {
  auto sameEverywhere = [](const auto &values) {
    return std::all_of(values.begin(), values.end(), [&](const auto &value) {
      return value == values.front();
    });
  };
  return (config.family == Family::Llama || config.family == Family::Mistral) &&
         !config.queryKeyValueBias && !config.outputBias &&
         sameEverywhere(config.windows) && sameEverywhere(config.experts) &&
         config.topK > 1 &&
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
  config.mixture = config.topK == 0    ? MixtureForm::None
                   : isMixtral(config) ? MixtureForm::Mixtral
                                       : MixtureForm::Own;
  return config;
}

//===----------------------------------------------------------------------===//
// As JSON
//===----------------------------------------------------------------------===//

static std::string classNameOf(Family family) {
  std::string name = nameOf(family);
  name[0] = static_cast<char>(name[0] - 'a' + 'A');
  return name;
}

/// Writes the keys whose defaults differ between families.
static void makeExplicit(const ModelConfig &config, Json &json) {
  json["num_key_value_heads"] = config.kvHeads;
  json["head_dim"] = config.headDim;
  json["tie_word_embeddings"] = config.tied;
  json["sliding_window"] =
      config.windows.front() ? Json(*config.windows.front()) : Json();
}

Json polymoe::toJson(const ModelConfig &config, Json json) {
  const std::string sourceType = json.value("model_type", "");
  std::string name = classNameOf(config.family), type = nameOf(config.family);
  if (config.mixture == MixtureForm::Mixtral) {
    name = "Mixtral";
    type = "mixtral";
  } else if (config.mixture == MixtureForm::Own) {
    name = "PolyMoE" + name;
    type = "polymoe_" + type;
  }
  json["architectures"] = {name + "ForCausalLM"};
  json["model_type"] = type;
  json[json.contains("torch_dtype") ? "torch_dtype" : "dtype"] =
      configNameOf(*config.dtype);
  if (json.contains("torch_dtype"))
    json.erase("dtype");

  for (const char *key :
       {"auto_map", "num_local_experts", "num_experts", "num_experts_per_tok",
        "polymoe_experts", "polymoe_top_k", "polymoe_language_gates",
        "polymoe_gate_pool"})
    json.erase(key);
  if (config.rope)
    writeRope({*config.rope, *config.rope}, {}, json);
  if (type != sourceType &&
      (type == "mixtral" || config.family == Family::Mistral))
    makeExplicit(config, json);
  if (type == "mixtral") {
    for (const char *key : {"attention_bias", "mlp_bias", "pretraining_tp"})
      json.erase(key);
    json["num_local_experts"] = config.experts.front();
    json["num_experts_per_tok"] = config.topK;
  } else {
    for (const char *key : {"output_router_logits", "router_aux_loss_coef",
                            "router_jitter_noise"})
      json.erase(key);
  }
  if (config.mixture == MixtureForm::Own) {
    json["auto_map"] = {
        {"AutoConfig", "configuration_polymoe." + name + "Config"},
        {"AutoModelForCausalLM", "modeling_polymoe." + name + "ForCausalLM"}};
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
