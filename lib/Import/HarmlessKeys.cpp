//===-- HarmlessKeys.cpp - keys without an effect on the model
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "HarmlessKeys.h"

#include <string_view>

using namespace polymoe;
using Json = JsonReader::Json;

/// Names, special tokens, training and generation settings, outputs to return.
static const std::set<std::string> &harmlessKeys() {
  static const std::set<std::string> keys = {
      // Names and versions.
      "architectures", "auto_map", "is_llama_config", "model_type",
      "name_or_path", "tokenizer_class", "transformers.js_config",
      "transformers_version", "unsloth_fixed", "unsloth_version",
      // Tokens and lengths.
      "bos_token_id", "decoder_start_token_id", "eos_token_id",
      "max_position_embeddings", "max_sequence_length", "n_positions",
      "pad_token_id", "prefix", "seq_length", "sep_token_id", "unk_token_id",
      // Training.
      "attention_dropout", "bias_dropout_fusion", "finetuning_task",
      "hidden_dropout", "id2label", "initializer_range", "label2id",
      "problem_type", "router_aux_loss_coef", "router_jitter_noise",
      "task_specific_params",
      // How it is computed and what else is returned.
      "attention_softmax_in_fp32", "cache_implementation",
      "chunk_size_feed_forward", "is_decoder", "masked_softmax_fusion",
      "offset_alibi", "output_attentions", "output_hidden_states",
      "output_router_logits", "pretraining_tp", "return_dict", "skip_bias_add",
      "skip_bias_add_qkv", "slow_but_exact", "tf_legacy_loss", "torchscript",
      "use_bfloat16", "use_cache",
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

bool polymoe::isHarmless(const Family &family, const std::string &key) {
  // transformers keeps attributes of its own under such names.
  if (key.starts_with("_") || harmlessKeys().count(key))
    return true;
  for (const char *name : family.harmless) {
    std::string_view known = name ? name : "";
    if (key == known)
      return true;
    if (known.ends_with("*") &&
        key.starts_with(known.substr(0, known.size() - 1)))
      return true;
  }
  return false;
}

void polymoe::rejectUnsupported(StrictReader &reader) {
  auto only = [&](std::initializer_list<const char *> keys,
                  const Json &neutral) {
    for (const char *key : keys)
      if (!reader.hasRead(key))
        reader.only(key, neutral);
  };
  only({"attn_logit_softcapping", "final_logit_softcapping", "logits_soft_cap",
        "query_pre_attn_scalar", "quantization_config", "compression_config",
        "cross_attention_hidden_size", "n_inner", "embedding_multiplier",
        "logits_scaling", "residual_multiplier", "attention_multiplier",
        "logit_scale", "shared_expert_intermediate_size"},
       nullptr);
  only({"is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder",
        "use_bidirectional_attention", "rope_interleaved", "attention_bias",
        "mlp_bias"},
       false);
  only({"pruned_heads"}, Json::object());
}
