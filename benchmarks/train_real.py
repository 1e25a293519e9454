# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Stage 1 on a real checkpoint: ours against transformers' best way.

Ours expands the checkpoint (a Hugging Face folder, as `polymoe import-gguf`
makes one) in all layers and trains it; transformers trains the same mixture,
exported as a stock class, on the same tokens: frozen backbone, AdamW on routers
and new experts, auxiliary loss on, clipping at 1. Its experts are one tensor,
so the frozen expert's gradient is computed there and set to zero.

The ways of transformers: "eager" loops over experts, "grouped" sorts rows under
grouped_mm; both in bf16 with fp32 masters, and with "-autocast" in fp32
parameters under bf16 autocast; "-compile" puts torch.compile on top. All take
turns, each turn in a fresh process, whose first step is not counted. A way that
does not run is named and left out. Prints medians, tokens/s, peak memory, and
the ratios to the fastest of transformers' ways.

usage: python benchmarks/train_real.py CHECKPOINT [--text FILE.jsonl ...] [--rounds 3]
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
from pathlib import Path

from common import add_shape, run, torch_dtype
from train_step import Ours, Peer

WAYS = ("eager", "grouped", "eager-autocast", "grouped-autocast", "eager-compile", "grouped-compile")
BARS = {"speed": 2.5, "memory": 0.6}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a dense model, as a Hugging Face folder")
    parser.add_argument("--text", nargs="*", type=Path, help="documents of JSON lines (default: random tokens)")
    parser.add_argument("--bin", type=Path, default=Path("build/bin"))
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each way gets (default: 3)")
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn, the first not counted (default: 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--memory-budget", type=int, default=0, help="MiB of activations that ours saves (default: all)"
    )
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS, help="transformers' ways (default: all)")
    add_shape(parser, experts=4, top_k=2, rows=4, length=512)
    args = parser.parse_args()
    args.stage = 1
    return args


def prepare(args, folder):
    """The mixture, its export, and the tokens of a turn: half old, half new."""
    import torch
    from safetensors.torch import save_file

    run(args, "moe-translate", "--import-hf", args.checkpoint, "-o", folder / "dense.mlir")
    upcycle = f"--moe-upcycle=experts={args.experts} top-k={args.top_k} seed=0"
    run(args, "moe-opt", folder / "dense.mlir", upcycle, "--moe-freeze-backbone", "-o", folder / "moe.mlir")
    run(args, "moe-translate", "--export-hf", folder / "moe.mlir", "-o", folder / "moe-hf")
    rows = args.rows * args.steps
    languages = torch.arange(rows, dtype=torch.int32) % 2
    metadata = {"languages": "en,el", "rounds": "0,1"}
    save_file(
        {"tokens": tokens(args, rows * args.length).view(rows, args.length), "languages": languages},
        folder / "tokens.safetensors",
        metadata=metadata,
    )


def tokens(args, count):
    import torch

    if args.text:
        from polymoe.files import read_documents
        from polymoe.tokenize import find_tokenizer, load_tokenizer

        tokenizer = load_tokenizer(find_tokenizer(args.checkpoint))
        # A document of each file in turn, as languages are mixed.
        texts = zip(*(read_documents(path) for path in args.text), strict=False)
        ids = (tokenizer.encode(record["text"]).ids for group in texts for _, record in group)
        found = list(itertools.islice(itertools.chain.from_iterable(ids), count))
        if len(found) < count:
            raise SystemExit(f"--text: expected {count} tokens, but got {len(found)}")
        return torch.tensor(found, dtype=torch.int32)
    from transformers import AutoConfig

    size = AutoConfig.from_pretrained(args.checkpoint).vocab_size
    return torch.randint(0, size, (count,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)


def make_trainer(args, folder, way):
    """torch_moe.Trainer on the exported mixture."""
    import torch
    from torch_moe import Trainer
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    kind, *options = way.split("-")
    dtype = torch_dtype(args.dtype)
    mixture = AutoModelForCausalLM.from_pretrained(
        folder / "moe-hf",
        dtype=dtype,
        experts_implementation={"eager": "eager", "grouped": "grouped_mm"}[kind],
        output_router_logits=True,
        router_aux_loss_coef=0.01,
        use_cache=False,
    )
    for name, parameter in mixture.named_parameters():
        is_experts = ".experts." in name
        parameter.requires_grad_(is_experts or name.endswith(".gate.weight"))
        if is_experts:
            parameter.register_post_accumulate_grad_hook(freeze_first)
        if parameter.requires_grad and "autocast" in options:
            parameter.data = parameter.data.float()

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mixture = mixture

        def forward(self, tokens, old):
            with torch.autocast("cpu", dtype, enabled="autocast" in options):
                return self.mixture(input_ids=tokens, labels=tokens).loss

    return Trainer(Loss().train(), lr=1e-4, compiled="compile" in options)


def freeze_first(experts):
    experts.grad[0].zero_()


class Fresh:
    """A way of transformers whose every turn has a process of its own: several
    at once would not fit the memory."""

    def __init__(self, args, folder, way):
        self.arguments, self.peak = (args, folder, way, make_trainer), 0

    def turn(self):
        peer = Peer(*self.arguments)
        try:
            results = peer.turn()
            self.peak = max(self.peak, peer.peak_bytes())
        finally:
            peer.process.kill()
            peer.process.join()
        return results

    def peak_bytes(self):
        return self.peak


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(args, folder)
        contestants = {"ours": Ours(args, folder)} | {way: Fresh(args, folder, way) for way in args.ways}
        seconds, losses = {name: [] for name in contestants}, {}
        for round_ in range(args.rounds):
            for name in list(contestants):
                try:
                    results = contestants[name].turn()
                except (SystemExit, EOFError) as error:
                    if name == "ours":
                        raise
                    print(f"{name} does not run here: {str(error).splitlines()[:1]}", flush=True)
                    del contestants[name], seconds[name]
                    continue
                losses.setdefault(name, results[0][1])
                seconds[name] += [time_ for time_, _ in results[1:]]
                print(f"round {round_ + 1}/{args.rounds} {name}: {statistics.median(seconds[name]):.3f} s", flush=True)
        for name, loss in losses.items():
            # The auxiliary losses are not the same formula.
            if abs(loss - losses["ours"]) > 2e-2 * abs(loss):
                raise SystemExit(f"{name}: loss {loss} of the first step, but ours is {losses['ours']}")
        report(args, contestants, seconds)


def report(args, contestants, seconds):
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    memory = {name: contestant.peak_bytes() for name, contestant in contestants.items()}
    peers = [name for name in medians if name != "ours"]
    if not peers:
        raise SystemExit("none of transformers' ways runs here")
    best = min(peers, key=medians.get)
    tokens_ = args.rows * args.length
    print(f"\nstage 1, {args.dtype}, {args.threads} threads, {args.rows} x {args.length} tokens a step")
    print(f"{'':18}{'s/step':>9}{'tokens/s':>10}{'peak GiB':>10}")
    for name, median in medians.items():
        print(f"{name:18}{median:9.3f}{tokens_ / median:10.0f}{memory[name] / 2**30:10.2f}")
    print(
        f"against {best}: {medians[best] / medians['ours']:.2f} times the tokens/s (bar {BARS['speed']}),"
        f" {memory['ours'] / memory[best]:.2f} of the memory (bar {BARS['memory']})"
    )


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
