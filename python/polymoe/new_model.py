# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Make a small random dense checkpoint, in the form that transformers writes.

Writes OUT/config.json and safetensors, and with --tokenizer the tokenizer
beside them, as `moe-translate --import-hf OUT` reads. Matrices are drawn from
N(0, init-std), those that write into the residual stream divided by
sqrt(2 x layers); norms start at one, biases at zero.

--odd is for tests: sizes on which nothing divides evenly (head dimension 22,
width and FFN no multiple of 16, vocabulary 331, six heads sharing two, sliding
windows of 8), large weights, and norms, biases and scalars that are not
neutral. Size options given with it win.

examples:
  polymoe new-model llama --tokenizer work/tokenizer --out work/base \\
      --hidden 256 --intermediate 1024 --layers 4 --heads 4
  polymoe new-model qwen3 --odd --dtype bf16 --out odd/qwen3
  polymoe new-model llama --odd --rope-scaling llama3 --config-form v4 --out odd/llama
"""

import math
import shutil
from pathlib import Path

from polymoe.errors import UserError
from polymoe.files import atomic_folder, read_json, write_json
from polymoe.progress import say

FAMILIES = (
    "llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "olmo3", "smollm3",
    "granite", "granitemoehybrid", "phi3", "apertus", "cohere", "cohere2", "exaone4", "bloom",
)  # fmt: skip

_PLAIN = {
    "vocab": 8192,
    "hidden": 256,
    "intermediate": 1024,
    "layers": 4,
    "heads": 4,
    "kv_heads": None,
    "head_dim": None,
    "context": 1024,
    "window": None,
    "tie": True,
    "init_std": 0.02,
}
_ODD = {
    "vocab": 331,
    "hidden": 102,
    "intermediate": 150,
    "layers": 3,
    "heads": 6,
    "kv_heads": 2,
    "head_dim": 22,
    "context": 128,
    "window": None,
    "tie": False,
    "init_std": 0.1,
}
# Families that derive the head dimension from the width; bloom also derives the
# FFN's, and it has no shared heads.
_DERIVED_HEAD_DIM = (
    "qwen2", "olmo2", "olmo3", "smollm3", "granite", "granitemoehybrid", "phi3", "apertus", "cohere", "cohere2", "bloom",
)  # fmt: skip
# Families that take turns: layers with a window and layers without.
_ALTERNATING = ("gemma2", "gemma3_text", "olmo3", "cohere2", "exaone4")
_WINDOWED = ("mistral", "ministral", "phi3", *_ALTERNATING)
_ODD_BY_FAMILY = {
    **{family: {"hidden": 132, "head_dim": None} for family in _DERIVED_HEAD_DIM},
    "bloom": {"hidden": 126, "intermediate": None, "kv_heads": None, "head_dim": None},
}
_TIED = ("qwen2", "gemma", "gemma2", "gemma3_text", "smollm3", "granitemoehybrid", "cohere", "cohere2", "bloom")
# Options of config.json that --odd sets, so that each of them matters.
_ODD_OPTIONS = {
    "gemma2": {"query_pre_attn_scalar": 17, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {"query_pre_attn_scalar": 17, "final_logit_softcapping": 4.0},
    "smollm3": {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 8},
    "granite": {
        "embedding_multiplier": 1.7,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.6,
        "logits_scaling": 1.3,
    },
    "granitemoehybrid": {
        "embedding_multiplier": 2.3,
        "attention_multiplier": 0.15,
        "residual_multiplier": 0.8,
        "logits_scaling": 0.7,
        "position_embedding_type": "rope",
    },
    "phi3": {"partial_rotary_factor": 0.75},
    "cohere": {"logit_scale": 0.6},
    "cohere2": {"logit_scale": 1.4},
}
_INTO_RESIDUAL = ("o_proj.weight", "down_proj.weight", "output_linear.weight", "dense.weight", "dense_4h_to_h.weight")
_ROPE_SCALINGS = {
    "none": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "dynamic": {"rope_type": "dynamic", "factor": 2.5},
    # The lists of factors are as long as there are frequencies: _config writes them.
    "longrope": {"rope_type": "longrope", "original_max_position_embeddings": 64},
}


def add_arguments(parser):
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--odd", action="store_true", help="awkward sizes and values, for tests")
    parser.add_argument("--tokenizer", type=Path, help="folder whose tokenizer is copied and gives the vocabulary")
    parser.add_argument("--vocab", type=int, help="vocabulary without a tokenizer (default: 8192)")
    parser.add_argument("--hidden", type=int, help="width D (default: 256)")
    parser.add_argument("--intermediate", type=int, help="FFN width F (default: 1024; bloom always has 4 x D)")
    parser.add_argument("--layers", type=int, help="layers (default: 4)")
    parser.add_argument("--heads", type=int, help="attention heads (default: 4)")
    parser.add_argument("--kv-heads", type=int, help="key and value heads (default: as many as heads)")
    parser.add_argument("--head-dim", type=int, help="head dimension (default: D / heads)")
    parser.add_argument("--context", type=int, help="positions (default: 1024)")
    parser.add_argument("--window", type=int, help="sliding window of the families that have one (default: none)")
    parser.add_argument(
        "--rope-theta", type=float, default=10000.0, help="base of the rotary embedding (default: 10000)"
    )
    parser.add_argument(
        "--rope-scaling", choices=sorted(_ROPE_SCALINGS), default="none", help="rotary scaling (default: none)"
    )
    parser.add_argument("--tie", action="store_true", default=None, help="share embedding and head (default)")
    parser.add_argument("--no-tie", dest="tie", action="store_false", help="a head of its own")
    parser.add_argument("--init-std", type=float, help="standard deviation of the weights (default: 0.02)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="type on disk (default: fp32)")
    parser.add_argument(
        "--config-form",
        choices=("v4", "v5"),
        default="v5",
        help="config.json as transformers 4 or 5 writes it (default: v5)",
    )
    parser.add_argument(
        "--max-shard-size", default="5GB", help="split the weights into files of at most this size (default: 5GB)"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")


def run(args):
    given = {key: getattr(args, key) for key in _PLAIN}
    parameters = new_model(
        args.family,
        args.out,
        odd=args.odd,
        tokenizer=args.tokenizer,
        rope_theta=args.rope_theta,
        rope_scaling=args.rope_scaling,
        seed=args.seed,
        dtype=args.dtype,
        config_form=args.config_form,
        max_shard_size=args.max_shard_size,
        force=args.force,
        **given,
    )
    say(f"{args.out}: {args.family} with {parameters} parameters, {args.dtype}")


def new_model(
    family,
    out,
    odd=False,
    tokenizer=None,
    rope_theta=10000.0,
    rope_scaling="none",
    seed=0,
    dtype="fp32",
    config_form="v5",
    max_shard_size="5GB",
    force=False,
    options=None,
    **given,
):
    """Writes the checkpoint; returns its number of parameters. `options` are
    further ones of the family's configuration."""
    unknown = set(given) - set(_PLAIN)
    if unknown:
        raise TypeError(f"new_model() got unexpected arguments {sorted(unknown)}")
    defaults = dict(_PLAIN)
    if odd:
        defaults = {**_ODD, "tie": family in _TIED, **_ODD_BY_FAMILY.get(family, {})}
        defaults["window"] = 8 if family in _WINDOWED else None
    sizes = defaults | {key: value for key, value in given.items() if value is not None}
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if tokenizer is not None:
        sizes["vocab"], special["eos_token_id"] = _read_tokenizer(tokenizer)
    _check(family, sizes, rope_scaling, given)

    import torch
    import transformers

    rope = {"rope_theta": rope_theta, **_ROPE_SCALINGS[rope_scaling]}
    config = _config(family, sizes, rope, special, {**(_ODD_OPTIONS.get(family, {}) if odd else {}), **(options or {})})
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        _initialise(model, sizes, odd, seed)
    model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    model.generation_config.eos_token_id = special["eos_token_id"]
    with atomic_folder(out, replace=force) as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        if tokenizer is not None:
            source = tokenizer if tokenizer.is_dir() else tokenizer.parent
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copyfile(source / name, folder / name)
        if config_form == "v4":
            write_json(folder / "config.json", to_v4_form(read_json(folder / "config.json")))
    return sum(parameter.numel() for parameter in model.parameters())


def to_v4_form(config):
    """config.json as transformers 4 wrote it: rope_theta, rope_scaling, torch_dtype."""
    config = dict(config, transformers_version="4.51.0")
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    if "rope_parameters" in config:
        scaling = dict(config.pop("rope_parameters"))
        if "full_attention" in scaling:
            sliding = scaling["sliding_attention"]["rope_theta"]
            if sliding != scaling["full_attention"]["rope_theta"]:
                config["rope_local_base_freq"] = sliding
            scaling = dict(scaling["full_attention"])
        config["rope_theta"] = scaling.pop("rope_theta")
        # Where Apertus has none, transformers takes one of its own.
        plain = scaling.get("rope_type") == "default" and config.get("model_type") != "apertus"
        config["rope_scaling"] = None if plain else scaling
    return config


def _read_tokenizer(path):
    from polymoe.tokenize import find_tokenizer, load_tokenizer

    file = find_tokenizer(path)
    loaded = load_tokenizer(file)
    eos = read_json(file.with_name("tokenizer_config.json")).get("eos_token")
    identifier = loaded.token_to_id(eos) if isinstance(eos, str) else None
    if identifier is None:
        raise UserError(
            f"{file.with_name('tokenizer_config.json')}: expected 'eos_token' to name a token of the vocabulary, but got {eos!r}"
        )
    return loaded.get_vocab_size(with_added_tokens=True), identifier


def _check(family, sizes, rope_scaling, given):
    for key in ("vocab", "hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "context", "window"):
        if sizes[key] is not None and sizes[key] < 1:
            raise UserError(f"--{key.replace('_', '-')}: expected at least 1, but got {sizes[key]}")
    if sizes["head_dim"] is None and sizes["hidden"] % sizes["heads"]:
        raise UserError(f"--heads: expected a divisor of --hidden {sizes['hidden']}, but got {sizes['heads']}")
    if sizes["kv_heads"] and sizes["heads"] % sizes["kv_heads"]:
        raise UserError(f"--kv-heads: expected a divisor of --heads {sizes['heads']}, but got {sizes['kv_heads']}")
    head_dim = sizes["head_dim"] or sizes["hidden"] // sizes["heads"]
    if family != "bloom" and head_dim % 2:
        raise UserError(f"--head-dim: expected an even number for rotary embeddings, but got {head_dim}")
    if family not in _WINDOWED and sizes["window"] is not None:
        raise UserError(f"--window: expected one of {', '.join(_WINDOWED)}, but got {family}")
    if family in _DERIVED_HEAD_DIM and given.get("head_dim") is not None:
        raise UserError(f"--head-dim: {family} always has hidden / heads")
    if family == "bloom":
        for key in ("kv_heads", "intermediate"):
            if given.get(key) is not None:
                raise UserError(f"--{key.replace('_', '-')}: bloom has no such option")
        if rope_scaling != "none":
            raise UserError("--rope-scaling: bloom has no rotary embedding")


def _config(family, sizes, rope, special, options):
    import transformers

    if family == "bloom":
        return transformers.BloomConfig(
            vocab_size=sizes["vocab"],
            hidden_size=sizes["hidden"],
            n_layer=sizes["layers"],
            n_head=sizes["heads"],
            tie_word_embeddings=sizes["tie"],
            **special,
        )
    if rope["rope_type"] == "longrope":
        count = (sizes["head_dim"] or sizes["hidden"] // sizes["heads"]) // 2
        factors = {"short_factor": 0.01, "long_factor": 0.3}
        rope = rope | {key: [1 + step * i for i in range(count)] for key, step in factors.items()}
    if family == "gemma3_text":
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0}}
    elif family == "olmo3":
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": rope["rope_theta"]}}
    values = {
        "vocab_size": sizes["vocab"],
        "hidden_size": sizes["hidden"],
        "intermediate_size": sizes["intermediate"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv_heads"] or sizes["heads"],
        "max_position_embeddings": sizes["context"],
        "tie_word_embeddings": sizes["tie"],
        "rope_parameters": rope,
        **special,
    }
    if family not in _DERIVED_HEAD_DIM:
        values["head_dim"] = sizes["head_dim"] or sizes["hidden"] // sizes["heads"]
    if family in _WINDOWED:
        values["sliding_window"] = sizes["window"]
    if family in _ALTERNATING:
        values["sliding_window"] = sizes["window"] or sizes["context"]
        values["layer_types"] = [("sliding_attention", "full_attention")[i % 2] for i in range(sizes["layers"])]
    if family == "granitemoehybrid":
        values |= {
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": sizes["intermediate"],
            "layer_types": ["attention"] * sizes["layers"],
            "mamba_n_heads": 2,
        }
    try:
        return transformers.CONFIG_MAPPING[family](**values | options)
    except Exception as error:
        # transformers validates and chains its reason.
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise UserError(f"{family}: transformers refuses these sizes: {reason}") from None


def _initialise(model, sizes, odd, seed):
    import torch

    generator = torch.Generator().manual_seed(seed)
    residual = 1 / math.sqrt(2 * sizes["layers"])
    # Gemma's norms multiply by one plus their weight.
    neutral = 0.0 if model.config.model_type.startswith("gemma") else 1.0
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            value = 0.1 * noise if odd else torch.zeros_like(noise)
        elif parameter.dim() == 1:
            value = neutral + (0.1 * noise if odd else torch.zeros_like(noise))
        else:
            value = sizes["init_std"] * noise
            if not odd and name.endswith(_INTO_RESIDUAL):
                value *= residual
        if odd and sizes["tie"] and "embed" in name:
            # A larger embedding (or its norm, in bloom) would make the model
            # predict the token that it has just read.
            value *= 0.1
        parameter.copy_(value)
