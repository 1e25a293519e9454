//===-- Families.cpp - the table of families
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A new family is an entry here: copy the one that is closest and change what
// differs in modeling_<name>.py and configuration_<name>.py of transformers.
// What an entry does not mention is as in Llama (Family.h has the defaults, and
// says what each member means). Then add the family to FAMILIES in
// python/polymoe/new_model.py, and the tests try it.
//
// Defaults are those of transformers 5.
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Family.h"

#include <iterator>

using namespace polymoe;

namespace {

using Use = Scalar::Use;

/// Norms before and after both halves of a layer.
constexpr Family::Norms gemmaNorms = {
    .kind = NormKind::RmsPlusOne,
    .attentionOutput = "post_attention_layernorm",
    .ffnInput = "pre_feedforward_layernorm",
    .ffnOutput = "post_feedforward_layernorm",
};

/// Norms after both halves of a layer, none before.
constexpr Family::Norms olmoNorms = {
    .epsilon = 1e-5,
    .attentionInput = nullptr,
    .attentionOutput = "post_attention_layernorm",
    .ffnInput = nullptr,
    .ffnOutput = "post_feedforward_layernorm",
    .queryKey = QueryKeyNorm::Projection,
};

/// One norm for both halves of a layer.
constexpr Family::Norms cohereNorms = {
    .kind = NormKind::Layer,
    .epsilonKey = "layer_norm_eps",
    .epsilon = 1e-5,
    .ffnInput = nullptr,
};

constexpr Family::Norms withQueryKey(Family::Norms norms, QueryKeyNorm kind) {
  norms.queryKey = kind;
  return norms;
}

constexpr Family families[] = {
    {
        .name = "llama",
        .model = "Llama",
        .stockMixture = "mixtral",
    },
    {
        .name = "mistral",
        .model = "Mistral",
        .stockMixture = "mixtral",
        .attentionBias = AttentionBias::None,
        .windows = Windows::All,
        .window = 4096,
        .kvHeads = 8,
    },
    {
        .name = "mixtral",
        .model = "Mixtral",
        .denseOf = "mistral",
        .norms = {.epsilon = 1e-5},
        .attentionBias = AttentionBias::None,
        .windows = Windows::All,
        .rope = {.theta = 1e6},
        .kvHeads = 8,
    },
    {
        .name = "ministral",
        .model = "Ministral",
        .stockMixture = "mixtral",
        .attentionBias = AttentionBias::None,
        .windows = Windows::AllUnlessListed,
        .window = 4096,
        .kvHeads = 8,
    },
    {
        .name = "qwen2",
        .model = "Qwen2",
        .attentionBias = AttentionBias::QueryKeyValue,
        .windows = Windows::FromLayer,
        .windowSwitch = true,
        .window = 4096,
        .kvHeads = 32,
        .fixed = {{"qkv_bias", "true"}, {"use_mrope", "false"}},
    },
    {
        .name = "qwen3",
        .model = "Qwen3",
        .norms = {.queryKey = QueryKeyNorm::Heads},
        .windows = Windows::FromLayer,
        .windowSwitch = true,
        .window = 4096,
        .kvHeads = 32,
        .headDim = 128,
    },
    {
        .name = "gemma",
        .model = "Gemma",
        .norms = {.kind = NormKind::RmsPlusOne},
        .activation = FfnActivation::GeluTanh,
        .tied = true,
        .geluIsTanh = true,
        .embeddingTimesRoot = true,
        .activationKey = "hidden_activation",
        .olderActivationKey = "hidden_act",
        .kvHeads = 16,
        .headDim = 256,
    },
    {
        .name = "gemma2",
        .model = "Gemma2",
        .norms = gemmaNorms,
        .activation = FfnActivation::GeluTanh,
        .windows = Windows::Pattern,
        .tied = true,
        .embeddingTimesRoot = true,
        .activationKey = "hidden_activation",
        .window = 4096,
        .windowPattern = 2,
        .attentionScale = {"query_pre_attn_scalar", 256, Use::DividesRoot},
        .attentionCap = {"attn_logit_softcapping", 50.0},
        .logitCap = {"final_logit_softcapping", 30.0},
        .kvHeads = 4,
        .headDim = 256,
        .harmless = {"hidden_act"},
    },
    {
        .name = "gemma3_text",
        .model = "Gemma3",
        .config = "Gemma3Text",
        .norms = withQueryKey(gemmaNorms, QueryKeyNorm::Heads),
        .activation = FfnActivation::GeluTanh,
        .windows = Windows::Pattern,
        .tied = true,
        .embeddingTimesRoot = true,
        .activationKey = "hidden_activation",
        .rope = {.theta = 1e6, .ofEachKind = true, .slidingTheta = 1e4},
        .window = 4096,
        .windowPattern = 6,
        .windowPatternKey = true,
        .attentionScale = {"query_pre_attn_scalar", 256, Use::DividesRoot},
        .logitCap = {"final_logit_softcapping", std::nullopt},
        .kvHeads = 4,
        .headDim = 256,
        .harmless = {"hidden_act"},
    },
    {
        .name = "olmo2",
        .model = "Olmo2",
        .norms = olmoNorms,
    },
    {
        .name = "olmo3",
        .model = "Olmo3",
        .norms = olmoNorms,
        .windows = Windows::Pattern,
        .rope = {.theta = 5e5, .ofEachKind = true},
        .window = 4096,
        .windowPattern = 4,
    },
    {
        .name = "smollm3",
        .model = "SmolLM3",
        .positions = Positions::RotaryListed,
        .windows = Windows::WithoutRotary,
        .tied = true,
        .windowSwitch = true,
        .rope = {.theta = 2e6},
        .kvHeads = 4,
        .harmless = {"max_window_layers"},
    },
    {
        .name = "granite",
        .model = "Granite",
        .embeddingScale = {"embedding_multiplier"},
        .attentionScale = {"attention_multiplier"},
        .residualScale = {"residual_multiplier"},
        .logitScale = {"logits_scaling", 1.0, Use::Divides},
    },
    {
        .name = "granitemoehybrid",
        .model = "GraniteMoeHybrid",
        .keys = {.ffn = "shared_mlp",
                 .down = "output_linear",
                 .gateUp = "input_linear"},
        .positions = Positions::RotaryByType,
        .fullAttention = "attention",
        .embeddingScale = {"embedding_multiplier"},
        .attentionScale = {"attention_multiplier"},
        .residualScale = {"residual_multiplier"},
        .logitScale = {"logits_scaling", 1.0, Use::Divides},
        .hiddenKey = "shared_intermediate_size",
        // Without experts and state spaces it is Granite with fused tensors.
        .fixed = {{"num_local_experts", "0", /*required=*/true},
                  {"normalization_function", "\"rmsnorm\""}},
        .harmless = {"init_method", "intermediate_size", "num_experts_per_tok",
                     "mamba_*", "time_step_limit"},
    },
    {
        .name = "phi3",
        .model = "Phi3",
        .keys = {.queryKeyValue = "qkv_proj", .gateUp = "gate_up_proj"},
        .norms = {.epsilon = 1e-5},
        .attentionBias = AttentionBias::None,
        .windows = Windows::All,
        .rope = {.originalPositions = 4096, .partial = true},
        .fixed = {{"lm_head_bias", "false"},
                  {"full_attn_mod", "1"},
                  {"interpolate_factor", "1"}},
        .harmless = {"embd_pdrop", "resid_pdrop"},
    },
    {
        .name = "apertus",
        .model = "Apertus",
        .keys = {.gate = nullptr},
        .norms = {.epsilon = 1e-5,
                  .attentionInput = "attention_layernorm",
                  .ffnInput = "feedforward_layernorm",
                  .queryKey = QueryKeyNorm::Heads},
        .activation = FfnActivation::Xielu,
        .rope = {.theta = std::nullopt},
        .fixed = {{"post_norm", "false"}, {"qk_norm", "true"}},
    },
    {
        .name = "cohere",
        .model = "Cohere",
        .norms = cohereNorms,
        .parallel = true,
        .tied = true,
        .rope = {.theta = 5e5, .interleaved = true},
        .logitScale = {"logit_scale", 0.0625},
        .fixed = {{"use_qk_norm", "false"}},
    },
    {
        .name = "cohere2",
        .model = "Cohere2",
        .norms = cohereNorms,
        .positions = Positions::RotaryInWindows,
        .windows = Windows::Pattern,
        .parallel = true,
        .tied = true,
        .rope = {.interleaved = true},
        .window = 4096,
        .windowPattern = 4,
        .windowPatternKey = true,
        .logitScale = {"logit_scale", 0.0625},
        .fixed = {{"order_of_interleaved_layers", "\"local_attn_first\""},
                  {"position_embedding_type", "\"rope_gptj\""},
                  {"rotary_pct", "1.0"},
                  {"use_embedding_sharing", "true"},
                  {"use_gated_activation", "true"},
                  {"use_parallel_block", "true"}},
        .harmless = {"layer_switch", "use_parallel_embedding"},
    },
    {
        .name = "exaone4",
        .model = "Exaone4",
        .norms = withQueryKey(olmoNorms, QueryKeyNorm::Heads),
        .attentionBias = AttentionBias::None,
        .positions = Positions::RotaryUnlessFull,
        .windows = Windows::Pattern,
        .window = 4096,
        .windowPattern = 4,
        .windowPatternKey = true,
        .kvHeads = 32,
    },
    {
        .name = "bloom",
        .model = "Bloom",
        .keys = {.root = "transformer",
                 .embedding = "word_embeddings",
                 .embeddingNorm = "word_embeddings_layernorm",
                 .layers = "h",
                 .finalNorm = "ln_f",
                 .attention = "self_attention",
                 .queryKeyValue = "query_key_value",
                 .headByHead = true,
                 .output = "dense",
                 .gate = nullptr,
                 .up = "dense_h_to_4h",
                 .down = "dense_4h_to_h"},
        .norms = {.kind = NormKind::LayerBiased,
                  .epsilonKey = "layer_norm_epsilon",
                  .epsilon = 1e-5},
        .attentionBias = AttentionBias::All,
        .activation = FfnActivation::GeluTanh,
        .positions = Positions::Alibi,
        .ffnBias = true,
        .tied = true,
        .activationKey = nullptr,
        .hiddenKey = nullptr,
        .aliases = {{"hidden_size", "n_embed"},
                    {"num_attention_heads", "n_head"},
                    {"num_hidden_layers", "n_layer"}},
        .fixed = {{"apply_residual_connection_post_layernorm", "false"}},
    },
};

/// Models of text and images.
constexpr Wrapper wrappers[] = {
    {"gemma3", "gemma3_text"},
    {"mistral3", "mistral"},
};

struct Refusal {
  const char *name, *reason;
};

constexpr Refusal refusals[] = {
    {"ministral3", "it scales queries by their position"},
};

/// The entry of `table` called `name`, or null.
template <typename Entry>
const Entry *findEntry(std::span<const Entry> table, const std::string &name) {
  for (const Entry &entry : table)
    if (entry.name == name)
      return &entry;
  return nullptr;
}

} // namespace

std::string Family::nameOf(const std::string &key) const {
  for (const Alias &alias : aliases)
    if (alias.usual && alias.usual == key)
      return alias.own;
  return key;
}

std::span<const Family> polymoe::allFamilies() { return families; }

const Family *polymoe::findFamily(const std::string &name) {
  return findEntry(allFamilies(), name);
}

const Wrapper *polymoe::findWrapper(const std::string &name) {
  return findEntry(std::span<const Wrapper>(wrappers), name);
}

const char *polymoe::whyRefused(const std::string &name) {
  const Refusal *found = findEntry(std::span<const Refusal>(refusals), name);
  return found ? found->reason : nullptr;
}
