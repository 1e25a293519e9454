# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Multilingual mixtures of experts made from dense models.

A model is its family's own, with the FFN of some layers replaced by experts
that are copies of it, of which expert 0 is the original, and a router:

  mlp.experts.<k>.<the FFN's own keys>
  mlp.gate.weight   [experts, hidden]

and in some layers a language gate, which sends tokens of the languages that the
dense model knew to expert 0 alone:

  mlp.language_gate.weight   [2, hidden]
"""

import functools

import torch
import transformers
from torch import nn

from .configuration_polymoe import config_of


class RoutedExperts(nn.Module):
    """Sends every token to its top_k most probable experts and sums what they
    return, weighted by their probabilities, renormalised when top_k > 1.

    Probabilities are a softmax in fp32 over all experts; of equal ones the
    lower index wins.
    """

    def __init__(self, config, make_ffn, experts, gated=False):
        super().__init__()
        self.top_k = min(config.polymoe_top_k, experts)
        self.gate = nn.Linear(config.hidden_size, experts, bias=False)
        self.experts = nn.ModuleList(make_ffn(config) for _ in range(experts))
        self.language_gate = nn.Linear(config.hidden_size, 2, bias=False) if gated else None
        self.pool = config.polymoe_gate_pool if gated else None

    def is_old(self, hidden_states):
        """Which tokens the gate takes for ones that the dense model knew."""
        logits = nn.functional.linear(hidden_states.float(), self.language_gate.weight.float())
        if self.pool == "causal-mean":
            count = torch.arange(1, logits.shape[1] + 1, device=logits.device)
            logits = logits.cumsum(1) / count[:, None]
        elif self.pool == "sequence-sum":
            logits = logits.sum(1, keepdim=True).expand_as(logits)
        return (logits[..., 0] >= logits[..., 1]).flatten()

    def forward(self, hidden_states, residual=None):
        x_TD = hidden_states.reshape(-1, hidden_states.shape[-1])
        logits_TE = nn.functional.linear(x_TD.float(), self.gate.weight.float())
        sorted_TE, order_TE = logits_TE.softmax(-1).sort(dim=-1, descending=True, stable=True)
        weights_TK, indices_TK = sorted_TE[:, : self.top_k], order_TE[:, : self.top_k]
        if self.top_k > 1:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)

        if self.language_gate is not None:
            old_T = self.is_old(hidden_states)
            weights_TK, indices_TK = weights_TK.clone(), indices_TK.clone()
            # Slot 0 goes to expert 0 with a weight of 1, the others to none.
            weights_TK[old_T], indices_TK[old_T] = 0, -1
            weights_TK[old_T, 0], indices_TK[old_T, 0] = 1, 0

        out_TD = torch.zeros_like(x_TD, dtype=torch.float32)
        for index, expert in enumerate(self.experts):
            tokens, slots = (indices_TK == index).nonzero(as_tuple=True)
            if tokens.numel() == 0:
                continue
            rows = x_TD[tokens]
            # BLOOM's FFN also adds the residual, which is added once below.
            result = expert(rows) if residual is None else expert(rows, torch.zeros_like(rows))
            out_TD.index_add_(0, tokens, result.float() * weights_TK[tokens, slots, None])
        out = out_TD.to(hidden_states.dtype).reshape(hidden_states.shape)
        return out if residual is None else residual + out


def _refuse_cache(_, args, kwargs):
    past = kwargs.get("past_key_values")
    if past is not None and past.get_seq_length() > 0:
        raise ValueError(
            "polymoe_gate_pool: expected a sequence from its start, since a gate that pools reads hidden states that no"
            " cache keeps; use_cache=False gives it"
        )


class _Mixture:
    """Replaces the FFNs of its family's model by routed experts."""

    def __init__(self, config):
        super().__init__(config)
        layers = self.transformer.h if hasattr(self, "transformer") else self.model.layers
        counts = config.polymoe_experts
        if len(counts) != len(layers):
            raise ValueError(
                f"polymoe_experts: expected one number for each of {len(layers)} layers, but got {len(counts)}"
            )
        gates = getattr(config, "polymoe_language_gates", None) or []
        for index, (layer, experts) in enumerate(zip(layers, counts, strict=True)):
            name = "shared_mlp" if hasattr(layer, "shared_mlp") else "mlp"
            if experts > 1:
                setattr(layer, name, RoutedExperts(config, type(getattr(layer, name)), experts, index in gates))
        if gates and config.polymoe_gate_pool != "token":
            self.register_forward_pre_hook(_refuse_cache, with_kwargs=True)
        self.post_init()


@functools.cache
def model_of(family):
    """PolyMoE<family>ForCausalLM, for the <family>ForCausalLM of transformers."""
    base = getattr(transformers, f"{family}ForCausalLM")
    config = config_of(base.config_class.__name__.removesuffix("Config"))
    return type(f"PolyMoE{family}ForCausalLM", (_Mixture, base), {"__module__": __name__, "config_class": config})


def __getattr__(name):
    """The mixture of any family that transformers has, made when it is asked
    for."""
    family = name.removeprefix("PolyMoE").removesuffix("ForCausalLM")
    if name != f"PolyMoE{family}ForCausalLM" or not hasattr(transformers, f"{family}ForCausalLM"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return model_of(family)
