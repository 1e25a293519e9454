# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Configurations of multilingual mixtures of experts made from dense models.

Each is its family's configuration with two to four more keys:

  polymoe_experts   one number a layer: how many experts, the original FFN
                    included; 0 or 1 says that the layer is dense
  polymoe_top_k     how many experts a token goes to

  polymoe_language_gates   the layers, from 0, that have a language gate in
                           front of their router
  polymoe_gate_pool        what a gate looks at: token, causal-mean (needs a
                           sequence from its start: no cache) or sequence-sum

The model types are not the families' own, so that a loader that does not know
the experts refuses the checkpoint instead of ignoring them.
"""

from transformers import BloomConfig, GemmaConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config


class PolyMoELlamaConfig(LlamaConfig):
    model_type = "polymoe_llama"


class PolyMoEMistralConfig(MistralConfig):
    model_type = "polymoe_mistral"


class PolyMoEQwen2Config(Qwen2Config):
    model_type = "polymoe_qwen2"


class PolyMoEQwen3Config(Qwen3Config):
    model_type = "polymoe_qwen3"


class PolyMoEGemmaConfig(GemmaConfig):
    model_type = "polymoe_gemma"


class PolyMoEBloomConfig(BloomConfig):
    model_type = "polymoe_bloom"
