# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Generation, prefill and decode: ours against llama.cpp and transformers.

All run the same model, a mixture of the Mixtral layout with random weights in
bf16, on the same tokens with the same number of threads, taking turns. The
logits after the prompt must agree. Decoding is timed token by token, the choice
of the likeliest one included, after a prompt. Prints medians, ratios, and what
share they are of the machine as the same run measures it: of the memory's read
bandwidth (decode reads each active weight once) and of what torch.matmul
reaches in bf16 (prefill).

With --int8, ours takes part a second time, with its weights as integers
(moe-run --frozen-weights=int8), which is half the bytes for a token.

llama.cpp takes part where its Python binding is found, with gguf to write the
model: pip install llama-cpp-python gguf (builds with cmake, for this machine).

usage: python benchmarks/generate.py [--rounds 5] [--prompt 512] [--int8] [--peers ...]
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from pathlib import Path

from common import add_shape, matmul_peak, run

PEERS = ("llama.cpp", "transformers")
INT8 = "ours, int8"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=Path("build/bin"))
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side gets (default: 5)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt (default: 512)")
    parser.add_argument("--new", type=int, default=32, help="tokens decoded in a turn (default: 32)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--int8", action="store_true", help="measure ours with weights as integers, too")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="(default: all)")
    add_shape(
        parser, hidden=1024, intermediate=2816, layers=12, heads=16, kv_heads=4, vocab=32000, experts=6, top_k=2
    )  # fmt: skip
    return parser.parse_args()


def prepare(args, folder):
    """The model as everyone reads it, and the prompt."""
    import torch
    from safetensors.torch import load_file, save_file

    from polymoe.new_model import new_model

    new_model(
        "llama", folder / "dense-hf", vocab=args.vocab, hidden=args.hidden, intermediate=args.intermediate,
        layers=args.layers, heads=args.heads, kv_heads=args.kv_heads, dtype="bf16", tie=False,
        context=2 * (args.prompt + args.new),
    )  # fmt: skip
    run(args, "moe-translate", "--import-hf", folder / "dense-hf", "-o", folder / "dense.mlir")
    upcycle = f"--moe-upcycle=experts={args.experts} top-k={args.top_k} seed=0"
    run(args, "moe-opt", folder / "dense.mlir", upcycle, "-o", folder / "copies.mlir")
    run(args, "moe-translate", "--export-hf", folder / "copies.mlir", "-o", folder / "moe-hf")
    # Experts begin as copies; who takes the wrong one must be found out.
    generator = torch.Generator().manual_seed(0)
    for path in (folder / "moe-hf").glob("*.safetensors"):
        tensors = load_file(path)
        for key, tensor in tensors.items():
            if ".experts." in key:
                noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std()
                tensors[key] = noise.to(tensor.dtype)
        save_file(tensors, path, metadata={"format": "pt"})
    run(args, "moe-translate", "--import-hf", folder / "moe-hf", "-o", folder / "moe.mlir")
    tokens = torch.randint(0, args.vocab, (1, args.prompt), generator=generator, dtype=torch.int32)
    save_file({"tokens": tokens}, folder / "tokens.safetensors")
    return tokens[0].tolist()


def active_weights(args):
    """Elements read for a token: all but the embedding, of which it reads a row."""
    width, size = args.hidden, args.hidden // args.heads
    attention = 2 * width * width + 2 * width * size * args.kv_heads
    mixture = args.top_k * 3 * width * args.intermediate + args.experts * width
    return args.layers * (attention + mixture) + args.vocab * width


def prefill_flops(args):
    """Of a prompt's products; only the last token has logits."""
    head = args.vocab * args.hidden
    scores = args.layers * args.hidden * args.prompt  # two products, half masked
    return 2 * (args.prompt * (active_weights(args) - head + scores) + head)


class Ours:
    """moe-run profile time, a fresh process for every turn."""

    def __init__(self, args, folder, weights="as-is"):
        self.args, self.folder = args, folder
        self.options = [f"--threads={args.threads}", f"--frozen-weights={weights}"]

    def logits(self):
        from safetensors.torch import load_file

        out = self.folder / "scores.safetensors"
        tokens = self.folder / "tokens.safetensors"
        run(self.args, "moe-run", "score", self.folder / "moe.mlir", "--tokens", tokens, "--out", out, "--logits",
            *self.options)  # fmt: skip
        return load_file(out)["logits"][0, -1].float().numpy()

    def turn(self):
        """Seconds of a prefill, and of a token."""
        return self.median("prefill", 3), self.median("decode", self.args.new)

    def median(self, what, repeat):
        printed = run(
            self.args, "moe-run", "profile", "time", self.folder / "moe.mlir", f"--what={what}",
            f"--sequence={self.args.prompt}", f"--repeat={repeat}", *self.options,
        )  # fmt: skip
        return float(re.match(r"\w+: ([\d.]+) ms", printed)[1]) / 1e3


class Peer:
    """One of the others, in a process of its own that lasts."""

    def __init__(self, args, folder, way, prompt):
        self.pipe, other = multiprocessing.Pipe()
        target = {"llama.cpp": LlamaCpp, "transformers": Transformers}[way]
        self.process = multiprocessing.Process(target=serve, args=(target, args, folder, prompt, other), daemon=True)
        self.process.start()
        other.close()

    def ask(self, what):
        self.pipe.send(what)
        answer = self.pipe.recv()
        if isinstance(answer, str):
            raise SystemExit(answer)
        return answer

    def logits(self):
        return self.ask("logits")

    def turn(self):
        return self.ask("turn")


def serve(target, args, folder, prompt, pipe):
    try:
        peer = target(args, folder)
        while True:
            try:
                what = pipe.recv()
            except EOFError:  # All turns are over.
                return
            start = time.perf_counter()
            logits = peer.feed(prompt, fresh=True)
            if what == "logits":
                pipe.send(logits)
                continue
            token = int(logits.argmax())
            prefill, times = time.perf_counter() - start, []
            for _ in range(args.new):
                start = time.perf_counter()
                token = int(peer.feed([token]).argmax())
                times.append(time.perf_counter() - start)
            pipe.send((prefill, statistics.median(times)))
    except Exception as error:  # Told to the parent, which stops.
        pipe.send(f"{target.__name__}: {error}")


class Transformers:
    def __init__(self, args, folder):
        import torch
        import transformers

        torch.set_num_threads(args.threads)
        torch.set_grad_enabled(False)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder / "moe-hf", dtype=torch.bfloat16)
        self.cache = None

    def feed(self, tokens, fresh=False):
        import torch

        out = self.model(
            torch.tensor([tokens]),
            past_key_values=None if fresh else self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        return out.logits[0, -1].float().numpy()


class LlamaCpp:
    def __init__(self, args, folder):
        import llama_cpp

        write_gguf(folder / "moe-hf", folder / "moe.gguf")
        self.api = llama_cpp
        self.vocab = args.vocab
        self.llama = llama_cpp.Llama(
            str(folder / "moe.gguf"), n_ctx=args.prompt + args.new + 1, n_batch=args.prompt, n_ubatch=args.prompt,
            n_threads=args.threads, n_threads_batch=args.threads, verbose=False,
        )  # fmt: skip

    def feed(self, tokens, fresh=False):
        import ctypes

        import numpy

        api, context = self.api, self.llama.ctx
        if fresh:
            api.llama_memory_clear(api.llama_get_memory(context), True)
        ids = (api.llama_token * len(tokens))(*tokens)
        if api.llama_decode(context, api.llama_batch_get_one(ids, len(tokens))) != 0:
            raise RuntimeError("llama_decode failed")
        logits = ctypes.cast(api.llama_get_logits_ith(context, -1), ctypes.POINTER(ctypes.c_float))
        return numpy.ctypeslib.as_array(logits, (self.vocab,)).copy()


def write_gguf(source, path):
    """The Mixtral layout as llama.cpp reads it: matrices in bf16, no tokenizer."""
    import gguf
    import torch
    from safetensors.torch import load_file

    config = json.loads((source / "config.json").read_text())
    tensors = {}
    for file in source.glob("*.safetensors"):
        tensors |= load_file(file)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    layers, experts = config["num_hidden_layers"], config["num_local_experts"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    writer.add_expert_count(experts)
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)

    def precise(name, tensor):
        writer.add_tensor(name, tensor.float().numpy())

    def half(name, tensor):
        writer.add_tensor(
            name,
            tensor.contiguous().view(torch.uint8).numpy(),
            raw_dtype=gguf.GGMLQuantizationType.BF16,
        )

    def rotated(tensor, count):
        # Its rotary embedding turns neighbours, transformers' the two halves.
        return tensor.view(count, 2, size // 2, -1).transpose(1, 2).reshape(tensor.shape)

    half("token_embd.weight", tensors["model.embed_tokens.weight"])
    half("output.weight", tensors["lm_head.weight"])
    precise("output_norm.weight", tensors["model.norm.weight"])
    for layer in range(layers):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        attention, mixture = f"{ours}.self_attn", f"{ours}.block_sparse_moe"
        precise(f"{theirs}.attn_norm.weight", tensors[f"{ours}.input_layernorm.weight"])
        precise(f"{theirs}.ffn_norm.weight", tensors[f"{ours}.post_attention_layernorm.weight"])
        half(f"{theirs}.attn_q.weight", rotated(tensors[f"{attention}.q_proj.weight"], heads))
        half(f"{theirs}.attn_k.weight", rotated(tensors[f"{attention}.k_proj.weight"], kv_heads))
        half(f"{theirs}.attn_v.weight", tensors[f"{attention}.v_proj.weight"])
        half(f"{theirs}.attn_output.weight", tensors[f"{attention}.o_proj.weight"])
        precise(f"{theirs}.ffn_gate_inp.weight", tensors[f"{mixture}.gate.weight"])
        for name, kind in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
            stack = [tensors[f"{mixture}.experts.{e}.{kind}.weight"] for e in range(experts)]
            half(f"{theirs}.ffn_{name}_exps.weight", torch.stack(stack))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_bandwidth(threads):
    """Bytes/s of the fastest way to read a large array with all threads."""
    import torch

    torch.set_num_threads(threads)
    array, best = torch.ones(2**31 // 8, dtype=torch.int64), 0
    for reduction in (torch.max, torch.sum):
        for _ in range(5):
            start = time.perf_counter()
            reduction(array)
            best = max(best, 2**31 / (time.perf_counter() - start))
    return best


def check(name, logits, ours):
    """bf16 keeps eight bits, and near ties may choose another expert."""
    difference = float(((logits - ours) ** 2).mean() ** 0.5 / (ours**2).mean() ** 0.5)
    print(f"{name}: logits after the prompt differ from ours by {difference:.4f} of their size")
    if not difference < 0.1:
        raise SystemExit(f"{name}: expected the same logits as ours, but they differ by {difference:.3f} of their size")


def main():
    args = parse()
    peers = list(args.peers)
    missing = [name for name in ("llama_cpp", "gguf") if not importlib.util.find_spec(name)]
    if missing and "llama.cpp" in peers:
        print(f"without llama.cpp: no {' and no '.join(missing)}; pip install llama-cpp-python gguf")
        peers.remove("llama.cpp")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompt = prepare(args, folder)
        sides = {"ours": Ours(args, folder)}
        if args.int8:
            sides[INT8] = Ours(args, folder, "int8")
        sides |= {peer: Peer(args, folder, peer, prompt) for peer in peers}
        logits = {name: side.logits() for name, side in sides.items()}
        for name in list(sides)[1:]:
            check(name, logits[name], logits["ours"])
        prefills, tokens = ({name: [] for name in sides} for _ in range(2))
        bandwidths, peaks = [], []
        for round_ in range(args.rounds):
            for name, side in sides.items():
                prefill, token = side.turn()
                prefills[name].append(prefill)
                tokens[name].append(token)
                print(
                    f"round {round_ + 1}/{args.rounds} {name}: prefill {prefill * 1e3:.0f} ms, a token {token * 1e3:.2f} ms",
                    flush=True,
                )
            bandwidths.append(read_bandwidth(args.threads))
            peaks.append(matmul_peak("bf16", args.threads))
    report(args, prefills, tokens, statistics.median(bandwidths), statistics.median(peaks))


def report(args, prefills, tokens, bandwidth, peak):
    print(
        f"\n{active_weights(args) / 1e6:.0f} M active weights in bf16, {args.threads} threads; memory is read at "
        f"{bandwidth / 1e9:.1f} GB/s, torch.matmul reaches {peak / 1e9:.0f} GFLOP/s"
    )
    for what, seconds, count, limit in (
        (f"prefill of {args.prompt}", prefills, args.prompt, peak),
        ("decode", tokens, 1, bandwidth),
    ):
        unit = "GFLOP/s" if limit is peak else "GB/s"
        print(f"\n{what:18}{'tokens/s':>10}{unit:>9}{'of peak':>9}{'ours/this':>11}")
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        for name, median in medians.items():
            # Ratios of turns of one round: who else uses the machine changes slowly.
            ratio = statistics.median(
                theirs / ours for theirs, ours in zip(seconds[name], seconds["ours"], strict=True)
            )
            read = (1 if name == INT8 else 2) * active_weights(args)
            rate = (prefill_flops(args) if limit is peak else read) / median
            print(f"{name:18}{count / median:10.1f}{rate / 1e9:9.1f}{rate / limit:9.0%}{ratio:11.2f}")


if __name__ == "__main__":
    # Large pages for torch's memory, as ours has them.
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
    multiprocessing.set_start_method("spawn")
    main()
