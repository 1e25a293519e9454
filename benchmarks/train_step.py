# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A MoE-LPR training step: ours against PyTorch (eager, torch.compile, grouped_mm).

All train the same weights on the same tokens with the same number of threads,
taking turns; the losses of the first step must agree. Prints medians, the
ratio to the best of PyTorch's ways, model FLOP/s (no work counted on frozen
weights' gradients) as a share of what torch.matmul reaches in the same run,
and the peak memory of each process.

usage: python benchmarks/train_step.py [--dtype fp32|bf16] [--stage 1|2] [--rounds 5]
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from common import add_shape, matmul_peak, run, torch_dtype

WAYS = ("eager", "compile", "grouped")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=Path("build/bin"))
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each way gets (default: 5)")
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn, the first not counted (default: 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--memory-budget", type=int, default=0, help="MiB of activations that ours saves (default: all)"
    )
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS, help="PyTorch's ways (default: all)")
    add_shape(
        parser, hidden=512, intermediate=1408, layers=8, heads=8, kv_heads=2, vocab=16384, experts=6, top_k=2, rows=4,
        length=512,
    )  # fmt: skip
    return parser.parse_args()


def prepare(args, folder, family="llama", tie=False):
    """A mixture with random weights, and tokens for a turn: half old, half new."""
    import torch
    from safetensors.torch import save_file

    from polymoe.new_model import new_model

    new_model(
        family, folder / "dense-hf", vocab=args.vocab, hidden=args.hidden, intermediate=args.intermediate,
        layers=args.layers, heads=args.heads, kv_heads=args.kv_heads, dtype=args.dtype, tie=tie,
        context=args.length,
    )  # fmt: skip
    run(args, "moe-translate", "--import-hf", folder / "dense-hf", "-o", folder / "dense.mlir")
    upcycle = f"--moe-upcycle=experts={args.experts} top-k={args.top_k} seed=0"
    run(args, "moe-opt", folder / "dense.mlir", upcycle, "--moe-freeze-backbone", "-o", folder / "moe.mlir")
    generator = torch.Generator().manual_seed(0)
    rows = args.rows * args.steps
    tokens = torch.randint(0, args.vocab, (rows, args.length), generator=generator, dtype=torch.int32)
    languages = torch.arange(rows, dtype=torch.int32) % 2
    metadata = {"languages": "en,el", "rounds": "0,1"}
    save_file({"tokens": tokens, "languages": languages}, folder / "tokens.safetensors", metadata=metadata)


class Ours:
    """moe-run train, a fresh run for every turn."""

    def __init__(self, args, folder):
        self.args, self.folder, self.turns, self.peak = args, folder, 0, 0

    def turn(self):
        args, out = self.args, self.folder / f"run-{self.turns}"
        self.turns += 1
        command = [
            str(args.bin / "moe-run"), "train", str(self.folder / "moe.mlir"), f"--stage={args.stage}",
            "--tokens", str(self.folder / "tokens.safetensors"), "--out", str(out), f"--steps={args.steps}",
            f"--batch={args.rows}", "--lr=1e-4", "--schedule=constant", f"--dtype={args.dtype}",
            f"--threads={args.threads}", "--save-every=0", f"--memory-budget={args.memory_budget}",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(process.stderr.read().decode())
        self.peak = max(self.peak, usage.ru_maxrss * 1024)
        steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [(step["seconds"], step["loss"]) for step in steps]

    def peak_bytes(self):
        return self.peak


class Peer:
    """One of PyTorch's ways, in a process of its own that lasts. `make` gives
    its trainer, whose step(tokens, old) returns the loss."""

    def __init__(self, args, folder, way, make):
        self.pipe, other = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=serve, args=(args, folder, way, make, other), daemon=True)
        self.process.start()

    def turn(self):
        self.pipe.send("turn")
        answer = self.pipe.recv()
        if isinstance(answer, str):
            raise SystemExit(answer)
        return answer

    def peak_bytes(self):
        self.pipe.send("peak")
        return self.pipe.recv()


def make_trainer(args, folder, way):
    from torch_moe import Model, Trainer

    config, take = checkpoint(folder / "moe-hf", args.experts)
    model = Model(take, config, torch_dtype(args.dtype), "grouped" if way == "grouped" else "eager", args.stage)
    return Trainer(model, lr=1e-4, compiled=way == "compile")


def serve(args, folder, way, make, pipe):
    import torch

    torch.set_num_threads(args.threads)
    trainer = make(args, folder, way)
    from safetensors.torch import load_file

    data = load_file(folder / "tokens.safetensors")
    old = (data["languages"] == 0).float()[:, None].expand(data["tokens"].shape)
    while True:
        try:
            request = pipe.recv()
        except EOFError:  # The parent is done.
            return
        if request == "peak":
            pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
            continue
        try:
            results = []
            for tokens, flags in zip(data["tokens"].long().split(args.rows), old.split(args.rows), strict=True):
                start = time.perf_counter()
                loss = trainer.step(tokens, flags)
                results.append((time.perf_counter() - start, loss))
            pipe.send(results)
        except Exception as error:  # Told to the parent, which stops.
            pipe.send(f"{way}: {error}")


def checkpoint(folder, experts):
    """config.json, and a function from our keys to tensors of the Mixtral layout."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)

    def take(key):
        prefix, _, last = key.rpartition(".")
        if last == "router":
            return tensors[f"{prefix}.block_sparse_moe.gate.weight"]
        if last == "experts":
            names = [f"{prefix}.block_sparse_moe.experts.{e}" for e in range(experts)]
            return [[tensors[f"{name}.{w}.weight"] for w in ("w1", "w3", "w2")] for name in names]
        return tensors[key]

    return config, take


def flops(args):
    """Of a step's products: forward, gradients to inputs where something
    trains below, gradients to weights that train, with even routing."""
    width, layers, size = args.hidden, args.layers, args.hidden // args.heads
    projections = 2 * width * width + 2 * width * size * args.kv_heads
    scores = width * args.length  # of two products of S x D, half is masked
    expert = width * args.intermediate
    router, head = width * args.experts, width * args.vocab
    forward = layers * (projections + scores + 3 * args.top_k * expert + router) + head
    # Of layer 0, only the hidden rows' gradient is wanted.
    inputs = (layers - 1) * (projections + 2 * scores + 3 * args.top_k * expert + router) + args.top_k * expert + head
    trained = (args.experts - 1) / args.experts if args.stage == 1 else 0  # of the rows
    weights = layers * (trained * 3 * args.top_k * expert + router)
    return 2 * args.rows * args.length * (forward + inputs + weights)


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(args, folder)
        run(args, "moe-translate", "--export-hf", folder / "moe.mlir", "-o", folder / "moe-hf")  # for the peers
        contestants = {"ours": Ours(args, folder)} | {way: Peer(args, folder, way, make_trainer) for way in args.ways}
        seconds, losses, peaks = {name: [] for name in contestants}, {}, []
        for round_ in range(args.rounds):
            for name, contestant in contestants.items():
                results = contestant.turn()
                losses.setdefault(name, results[0][1])
                seconds[name] += [time_ for time_, _ in results[1:]]
                print(f"round {round_ + 1}/{args.rounds} {name}: {statistics.median(seconds[name]):.3f} s", flush=True)
            peaks.append(matmul_peak(args.dtype, args.threads))
        tolerance = {"fp32": 1e-4, "bf16": 2e-2}[args.dtype]
        for name, loss in losses.items():
            if abs(loss - losses["ours"]) > tolerance * abs(loss):
                raise SystemExit(f"{name}: loss {loss} of the first step, but ours is {losses['ours']}")
        report(args, contestants, seconds, statistics.median(peaks))


def report(args, contestants, seconds, peak):
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    memory = {name: contestant.peak_bytes() for name, contestant in contestants.items()}
    best = min((medians[way] for way in args.ways), default=medians["ours"])
    work = flops(args)
    print(f"\nstage {args.stage}, {args.dtype}, {args.threads} threads; torch.matmul reaches {peak / 1e9:.0f} GFLOP/s")
    print(f"{'':10}{'s/step':>8}{'GFLOP/s':>9}{'of matmul':>11}{'best/this':>11}{'peak GiB':>10}")
    for name, median in medians.items():
        rate = work / median
        print(
            f"{name:10}{median:8.3f}{rate / 1e9:9.0f}{rate / peak:11.0%}{best / median:11.2f}{memory[name] / 2**30:10.2f}"
        )


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
