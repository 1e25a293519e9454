#!/usr/bin/env python3
# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes a tiny checkpoint of a family, or one that is wrong in one way.

Only the standard library is used, so that it is no tool of ours that both
writes and reads. Every element of every tensor has another value.
"""

import argparse
import json
import struct
from pathlib import Path

V, D, F, L, H, KV, DIM = 11, 12, 10, 2, 3, 1, 6

CONFIGS = {
    "llama": {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1},
    "mistral": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 1},
    "qwen3": {"attention_bias": False, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 1},
    "gemma": {"attention_bias": False, "hidden_act": "gelu_pytorch_tanh"},
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": None},
    "gemma2": {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 9, "sliding_window": 4},
    "gemma3_text": {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 9,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "olmo2": {},
    "granite": {
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.0625,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    },
    "phi3": {},
    "apertus": {"hidden_act": "xielu"},
    "cohere2": {
        "rms_norm_eps": None,
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.25,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "exaone4": {
        "sliding_window": 4,
        "sliding_window_pattern": "LG",
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
TIED = ("qwen2", "gemma", "gemma2", "gemma3_text", "cohere2")
OLMO_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
GEMMA_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
NORMS = {
    "gemma2": GEMMA_NORMS,
    "gemma3_text": GEMMA_NORMS,
    "olmo2": OLMO_NORMS,
    "exaone4": OLMO_NORMS,
    "apertus": ("attention_layernorm", "feedforward_layernorm"),
    "cohere2": ("input_layernorm",),
}


def config_of(family, args):
    dtype = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}[args.dtype]
    base = family.removeprefix("polymoe_")
    if base == "bloom":
        config = {
            "vocab_size": V, "hidden_size": D, "n_layer": L, "n_head": H, "layer_norm_epsilon": 1e-5,
            "apply_residual_connection_post_layernorm": False, "tie_word_embeddings": True,
        }  # fmt: skip
    else:
        config = {
            "vocab_size": V, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": L,
            "num_attention_heads": H, "num_key_value_heads": KV, "head_dim": DIM, "rms_norm_eps": 1e-6,
            "hidden_act": "silu", "tie_word_embeddings": base in TIED,
            "max_position_embeddings": 64,
        } | CONFIGS[base]  # fmt: skip
        if args.form == "v4":
            config |= {"rope_theta": 10000.0, "rope_scaling": None}
        else:
            config |= {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
    name = base.capitalize()
    if family.startswith("polymoe_"):
        name = "PolyMoE" + name
        auto = {
            "AutoConfig": f"configuration_polymoe.{name}Config",
            "AutoModelForCausalLM": f"modeling_polymoe.{name}ForCausalLM",
        }
        config |= {"polymoe_experts": args.experts, "polymoe_top_k": 2, "auto_map": auto}
    config |= {"model_type": family, "architectures": [name + "ForCausalLM"], "use_cache": True, "eos_token_id": [1, 2]}
    config["torch_dtype" if args.form == "v4" else "dtype"] = dtype
    return config


def shapes_of(family, args, config):
    base = family.removeprefix("polymoe_")
    shapes = {}
    experts = args.experts if family.startswith("polymoe_") else [3 if base == "mixtral" else 0] * L
    if base == "bloom":
        shapes["transformer.word_embeddings.weight"] = [V, D]
        norms = ["transformer.word_embeddings_layernorm", "transformer.ln_f"]
        for i in range(L):
            p = f"transformer.h.{i}."
            norms += [p + "input_layernorm", p + "post_attention_layernorm"]
            linear = {"self_attention.query_key_value": [3 * D, D], "self_attention.dense": [D, D]}
            ffn = {"dense_h_to_4h": [4 * D, D], "dense_4h_to_h": [D, 4 * D]}
            linear |= ffn_keys(ffn, experts[i])
            for name, shape in linear.items():
                shapes[p + name + ".weight"] = shape
                shapes[p + name + ".bias"] = shape[:1]
            if experts[i] > 1:
                shapes[p + "mlp.gate.weight"] = [experts[i], D]
            if i in config.get("polymoe_language_gates", []):
                shapes[p + "mlp.language_gate.weight"] = [2, D]
        for name in norms:
            shapes[name + ".weight"] = shapes[name + ".bias"] = [D]
        return shapes

    shapes["model.embed_tokens.weight"] = [V, D]
    shapes["model.norm.weight"] = [D]
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [V, D]
    for i in range(L):
        p = f"model.layers.{i}."
        bias = base == "qwen2" or config.get("attention_bias")
        projections = [("q", H * DIM, D), ("k", KV * DIM, D), ("v", KV * DIM, D), ("o", D, H * DIM)]
        if base == "phi3":
            projections[:3] = [("qkv", (H + 2 * KV) * DIM, D)]
        for name, rows, columns in projections:
            shapes[f"{p}self_attn.{name}_proj.weight"] = [rows, columns]
            if bias and (name != "o" or config.get("attention_bias")):
                shapes[f"{p}self_attn.{name}_proj.bias"] = [rows]
        if base in ("qwen3", "gemma3_text", "apertus", "olmo2", "exaone4"):
            whole = base == "olmo2"
            shapes[p + "self_attn.q_norm.weight"] = [H * DIM if whole else DIM]
            shapes[p + "self_attn.k_norm.weight"] = [KV * DIM if whole else DIM]
        for name in NORMS.get(base, ("input_layernorm", "post_attention_layernorm")):
            shapes[f"{p}{name}.weight"] = [D]
        count = experts[i]
        if count > 1:
            block = "block_sparse_moe." if base == "mixtral" and not args.packed else "mlp."
            shapes[p + block + "gate.weight"] = [count, D]
        if i in config.get("polymoe_language_gates", []):
            shapes[p + "mlp.language_gate.weight"] = [2, D]
        if count > 1 and args.packed:
            shapes[p + "mlp.experts.gate_up_proj"] = [count, 2 * F, D]
            shapes[p + "mlp.experts.down_proj"] = [count, D, F]
        elif base == "mixtral":
            for k in range(count):
                for name, shape in (("w1", [F, D]), ("w2", [D, F]), ("w3", [F, D])):
                    shapes[f"{p}block_sparse_moe.experts.{k}.{name}.weight"] = shape
        else:
            ffn = {"gate_proj": [F, D], "up_proj": [F, D], "down_proj": [D, F]}
            if base == "phi3":
                ffn = {"gate_up_proj": [2 * F, D], "down_proj": [D, F]}
            if base == "apertus":
                del ffn["gate_proj"]
                for name, shape in ffn_keys({"act_fn.alpha_p": [1], "act_fn.alpha_n": [1]}, count).items():
                    shapes[p + name] = shape
            for name, shape in ffn_keys(ffn, count).items():
                shapes[p + name + ".weight"] = shape
    return shapes


def ffn_keys(ffn, experts):
    if experts < 2:
        return {"mlp." + name: shape for name, shape in ffn.items()}
    return {f"mlp.experts.{k}.{name}": shape for k in range(experts) for name, shape in ffn.items()}


def element(number, dtype):
    # Exact in every type: steps of 1/64 below 4.
    value = (number % 251 - 125) / 64
    if dtype == "F64":
        return struct.pack("<d", value)
    if dtype == "F16":
        return struct.pack("<e", value)
    packed = struct.pack("<f", value)
    return packed[2:] if dtype == "BF16" else packed if dtype == "F32" else b"\0" * 4


def write(path, tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", default="F32")
    parser.add_argument("--form", default="v5")
    parser.add_argument("--experts", type=json.loads, default=[3, 1])
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    parser.add_argument("--unset", action="append", default=[], metavar="KEY")
    parser.add_argument("--drop", action="append", default=[], metavar="TENSOR")
    parser.add_argument("--tensor", action="append", default=[], metavar="NAME=DTYPE,SHAPE")
    parser.add_argument("--copy", action="append", default=[], metavar="NEW=TENSOR")
    parser.add_argument("--strip", default="", metavar="PREFIX")
    parser.add_argument("--prefix", default="", help="put before the name of every tensor")
    parser.add_argument("--wrapper", metavar="MODEL_TYPE", help="model type around the text model")
    parser.add_argument("--metadata", type=json.loads, default={"format": "pt"})
    parser.add_argument("--first", type=int, default=0, help="number that the first element is made of")
    args = parser.parse_args()

    config = config_of(args.family, args)
    for entry in args.set:
        key, value = entry.split("=", 1)
        config[key] = json.loads(value)
    for key in args.unset:
        del config[key]

    types = {name: (args.dtype, shape) for name, shape in shapes_of(args.family, args, config).items()}
    for name in args.drop:
        del types[name]
    for entry in args.tensor:
        name, kind = entry.split("=", 1)
        dtype, shape = kind.split(",", 1)
        types[name] = (dtype, json.loads(shape))
    tensors, number = {}, args.first
    for name, (dtype, shape) in types.items():
        count = 1
        for size in shape:
            count *= size
        content = b"".join(element(number + i, dtype) for i in range(count))
        tensors[args.prefix + name.removeprefix(args.strip)] = (dtype, shape, content)
        number += count
    for entry in args.copy:
        new, old = entry.split("=", 1)
        tensors[new] = tensors[old]

    if args.wrapper:
        config = {"model_type": args.wrapper, "text_config": config, "vision_config": {"hidden_size": 8}}
        tensors["vision_tower.embeddings.weight"] = ("F32", [1], b"\0" * 4)
    args.out.mkdir(parents=True, exist_ok=True)
    for old in args.out.iterdir():
        old.unlink()
    (args.out / "config.json").write_text(json.dumps(config, indent=2))
    if args.shards == 1:
        write(args.out / "model.safetensors", tensors, args.metadata)
        return
    weight_map = {}
    for i in range(args.shards):
        file = f"model-{i + 1:05}-of-{args.shards:05}.safetensors"
        part = dict(list(tensors.items())[i :: args.shards])
        write(args.out / file, part, args.metadata)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (args.out / "model.safetensors.index.json").write_text(json.dumps(index))


main()
