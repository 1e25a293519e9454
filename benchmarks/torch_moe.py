# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A Llama with MoE-LPR layers in plain PyTorch: what our training step is measured against.

Written as a careful user would: fused attention, no work on frozen weights,
rows gathered once for each expert. `experts` is "eager" (a loop over experts,
one parameter each), or "grouped" (the new experts in one parameter under
torch's grouped_mm, the frozen one beside it).
"""

import torch
from torch import nn
from torch.nn import functional as F


class Experts(nn.Module):
    """A loop over experts."""

    def __init__(self, weights, dtype):
        super().__init__()
        self.gate, self.up, self.down = (
            nn.ParameterList([nn.Parameter(w[k].to(dtype), requires_grad=e > 0) for e, w in enumerate(weights)])
            for k in range(3)
        )

    def forward(self, x, weights, selected):
        result = torch.zeros_like(x)
        for e in range(len(self.gate)):
            token, slot = (selected == e).nonzero(as_tuple=True)
            rows = x[token]
            h = F.silu(F.linear(rows, self.gate[e])) * F.linear(rows, self.up[e])
            y = F.linear(h, self.down[e]) * weights[token, slot, None]
            result = result.index_add(0, token, y.to(x.dtype))
        return result


class GroupedExperts(nn.Module):
    """Sorted rows under grouped_mm."""

    def __init__(self, weights, dtype):
        super().__init__()
        self.frozen, self.new = nn.ParameterList(), nn.ParameterList()
        for k in range(3):
            self.frozen.append(nn.Parameter(weights[0][k].t()[None].to(dtype), requires_grad=False))
            self.new.append(nn.Parameter(torch.stack([w[k].t() for w in weights[1:]]).to(dtype)))

    def ffn(self, rows, weights, offsets):
        gate, up, down = weights
        h = F.silu(F.grouped_mm(rows, gate, offs=offsets)) * F.grouped_mm(rows, up, offs=offsets)
        return F.grouped_mm(h, down, offs=offsets)

    def forward(self, x, weights, selected):
        order = selected.flatten().argsort(stable=True)
        counts = torch.bincount(selected.flatten(), minlength=len(self.new[0]) + 1)
        rows = x[order // selected.shape[1]]
        first = int(counts[0])
        ends = counts[1:].cumsum(0).to(torch.int32)
        y = torch.cat([
            self.ffn(rows[:first], self.frozen, counts[:1].to(torch.int32)),
            self.ffn(rows[first:], self.new, ends),
        ])  # fmt: skip
        y = y * weights.flatten()[order, None]
        return torch.zeros_like(x).index_add(0, order // selected.shape[1], y.to(x.dtype))


class Layer(nn.Module):
    def __init__(self, take, prefix, config, dtype, experts):
        super().__init__()
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.top_k, self.epsilon = config["num_experts_per_tok"], config["rms_norm_eps"]
        frozen = ("input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj",
                  "self_attn.v_proj", "self_attn.o_proj")  # fmt: skip
        self.norm1, self.norm2, self.q, self.k, self.v, self.o = (
            nn.Parameter(take(f"{prefix}.{name}.weight").to(dtype), requires_grad=False) for name in frozen
        )
        self.router = nn.Parameter(take(f"{prefix}.router").to(dtype))
        kind = {"eager": Experts, "grouped": GroupedExperts}[experts]
        self.experts = kind(take(f"{prefix}.experts"), dtype)

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        h = F.rms_norm(x, (width,), self.norm1, self.epsilon)
        q, k, v = (
            F.linear(h, w).view(batch, length, heads, -1).transpose(1, 2)
            for w, heads in ((self.q, self.heads), (self.k, self.kv_heads), (self.v, self.kv_heads))
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + F.linear(a.transpose(1, 2).reshape(batch, length, width), self.o)
        h = F.rms_norm(x, (width,), self.norm2, self.epsilon).view(-1, width)
        probabilities = F.linear(h, self.router).float().softmax(-1)
        weights, selected = probabilities.topk(self.top_k, -1)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        return x + self.experts(h, weights, selected).view_as(x), probabilities, selected


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def balance_loss(probabilities, selected):
    """sum_i f_i P_i, 1 when all is even (MoE-LPR, stage 1)."""
    share = F.one_hot(selected, probabilities.shape[-1]).float().mean((0, 1))
    return probabilities.shape[-1] * (share * probabilities.mean(0)).sum()


def language_prior_loss(probabilities, old):
    """-log G_0 of old tokens (MoE-LPR, stage 2)."""
    return -(probabilities[:, 0].log() * old).sum() / old.sum()


class Model(nn.Module):
    """The loss of a stage on tokens [B, S], `old` [B, S] saying which are of old languages."""

    def __init__(self, take, config, dtype, experts, stage):
        super().__init__()
        self.config, self.stage = config, stage
        self.embedding = nn.Parameter(take("model.embed_tokens.weight").to(dtype), requires_grad=False)
        self.norm = nn.Parameter(take("model.norm.weight").to(dtype), requires_grad=False)
        self.head = nn.Parameter(take("lm_head.weight").to(dtype), requires_grad=False)
        layers = range(config["num_hidden_layers"])
        self.layers = nn.ModuleList([Layer(take, f"model.layers.{i}", config, dtype, experts) for i in layers])
        if stage == 2:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.endswith("router"))

    def forward(self, tokens, old):
        length, config = tokens.shape[1], self.config
        size = config["hidden_size"] // config["num_attention_heads"]
        angles = torch.outer(torch.arange(length), config["rope_theta"] ** (-torch.arange(0, size, 2) / size))
        cos, sin = (f(torch.cat([angles, angles], -1)).to(self.embedding.dtype) for f in (torch.cos, torch.sin))
        x = F.embedding(tokens, self.embedding)
        routing = []
        for layer in self.layers:
            x, probabilities, selected = layer(x, cos, sin)
            if self.stage == 1:
                routing.append(balance_loss(probabilities, selected))
            else:
                routing.append(language_prior_loss(probabilities, old.flatten()))
        x = F.rms_norm(x, x.shape[-1:], self.norm, config["rms_norm_eps"])
        logits = F.linear(x[:, :-1], self.head).flatten(0, 1)
        loss = F.cross_entropy(logits.float(), tokens[:, 1:].flatten())
        return loss + {1: 0.01, 2: 0.1}[self.stage] * torch.stack(routing).mean()


class Trainer:
    """A training step: forward, backward, clipping, AdamW with fp32 states and masters."""

    def __init__(self, model, lr, compiled=False):
        self.model = model
        self.forward = torch.compile(model, dynamic=True) if compiled else model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.masters = [p if p.dtype == torch.float32 else p.detach().float().requires_grad_() for p in self.parameters]
        self.optimiser = torch.optim.AdamW(self.masters, lr=lr, weight_decay=0.0, fused=True)

    def step(self, tokens, old):
        loss = self.forward(tokens, old)
        loss.backward()
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            if master is not parameter and parameter.grad is not None:
                master.grad = parameter.grad.float()
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                if master is not parameter:
                    parameter.copy_(master)
        return float(loss.detach())
