# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compile time of a MoE-LPR training step against the number of layers.

The model has the shape of Qwen1.5-1.8B with 6 experts a layer; its checkpoint
is a file of the right header and length without contents, since compiling
reads no weights.

usage: python benchmarks/compile_time.py [--bin build/bin] [--layers 4 24]
"""

import argparse
import json
import os
import struct
import subprocess
import tempfile
from pathlib import Path

D, F, V, HEADS = 2048, 5504, 151936, 16


def tensors(layers):
    yield "model.embed_tokens.weight", [V, D]
    for i in range(layers):
        prefix = f"model.layers.{i}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{name}.weight", [D]
        for name in ("q_proj", "k_proj", "v_proj"):
            yield f"{prefix}.self_attn.{name}.weight", [D, D]
            yield f"{prefix}.self_attn.{name}.bias", [D]
        yield f"{prefix}.self_attn.o_proj.weight", [D, D]
        yield f"{prefix}.mlp.gate_proj.weight", [F, D]
        yield f"{prefix}.mlp.up_proj.weight", [F, D]
        yield f"{prefix}.mlp.down_proj.weight", [D, F]
    yield "model.norm.weight", [D]
    yield "lm_head.weight", [V, D]


def write_checkpoint(folder, layers):
    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": D,
        "intermediate_size": F,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": V,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    header, offset = {}, 0
    for name, shape in tensors(layers):
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=Path("build/bin"))
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 24])
    parser.add_argument("--length", type=int, default=1024)
    args = parser.parse_args()

    def run(name, *arguments):
        command = [str(args.bin / name), *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True)

    for layers in args.layers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_checkpoint(folder, layers)
            run("moe-translate", "--import-hf", folder, "-o", folder / "dense.mlir")
            run("moe-opt", folder / "dense.mlir", "--moe-expand-pipeline=experts=6 top-k=2", "-o", folder / "moe.mlir")
            before = os.times()
            result = run("moe-compile-time", folder / "moe.mlir", 1, args.length, 0.01)
            after = os.times()
            cpu = after.children_user - before.children_user
            print(f"{layers} layers: {result.stdout.strip()} ({cpu:.2f} s of processor time)", flush=True)


if __name__ == "__main__":
    main()
