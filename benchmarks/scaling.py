# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The time of a training step against tokens and against layers.

Trains stage 1 of small random models (moe-run profile time, medians), 512 to
8192 tokens at one sequence length and 2 to 32 layers; prints the line that fits
best (least squares of relative residuals) and the largest residual relative to
what was measured. All sizes of a sweep take turns. With --out, draws both.

usage: python benchmarks/scaling.py [--dtype fp32|bf16] [--rounds 5] [--out scaling.png]
"""

import argparse
import copy
import os
import re
import statistics
import tempfile
from pathlib import Path

from common import add_shape, run
from train_step import prepare


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=Path("build/bin"))
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=5, help="medians of so many (default: 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4, 8, 16, 32], help="numbers of layers")
    parser.add_argument("--out", type=Path, help="a PNG")
    add_shape(
        parser, hidden=256, intermediate=704, layers=4, heads=4, kv_heads=2, vocab=4096, experts=6, top_k=2, rows=2,
        length=256,
    )  # fmt: skip
    return parser.parse_args()


def make_model(args, folder, layers):
    shape = copy.copy(args)
    shape.layers, shape.steps = layers, 1
    folder.mkdir()
    prepare(shape, folder)
    return folder / "moe.mlir"


def seconds(args, model, rows):
    """The median of a step's time in a fresh process."""
    printed = run(
        args, "moe-run", "profile", "time", model, f"--batch={rows}", f"--sequence={args.length}", "--repeat=3",
        f"--threads={args.threads}", f"--dtype={args.dtype}",
    )  # fmt: skip
    return float(re.match(r"train: ([\d.]+) ms", printed)[1]) / 1e3


def fit(sizes, times):
    """(a, b) of a + b size, and the largest relative residual."""
    import numpy

    weights = 1 / numpy.array(times)
    matrix = numpy.stack([weights, weights * sizes], axis=1)
    (a, b), *_ = numpy.linalg.lstsq(matrix, numpy.ones(len(times)), rcond=None)
    return float(a), float(b), float(abs(matrix @ [a, b] - 1).max())


def report(what, times):
    """Prints a sweep; returns it with its line."""
    a, b, worst = fit(list(times), list(times.values()))
    print(f"\n{what:>8}{'s/step':>9}{'line':>9}{'residual':>10}")
    for size, measured in times.items():
        line = a + b * size
        print(f"{size:8}{measured:9.3f}{line:9.3f}{line / measured - 1:+10.1%}")
    print(f"{a:.4f} s + {b:.3g} s for each of {what}; largest residual {worst:.1%}")
    return what, times, (a, b)


def draw(sweeps, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(sweeps), figsize=(9, 4))
    for axes, (what, times, (a, b)) in zip(panels, sweeps, strict=True):
        ends = [0, max(times)]
        axes.plot(ends, [a + b * end for end in ends], color="#7a7f85", linewidth=1)
        axes.plot(list(times), list(times.values()), "o", color="#2c6fad")
        axes.set(xlabel=what, ylabel="seconds of a step", xlim=(0, None), ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {layers: make_model(args, folder / f"{layers}", layers) for layers in {args.layers, *args.depths}}
        by_tokens = {tokens: [] for tokens in args.tokens}
        by_layers = {layers: [] for layers in args.depths}
        for _ in range(args.rounds):
            for tokens, times in by_tokens.items():
                times.append(seconds(args, models[args.layers], tokens // args.length))
            for layers, times in by_layers.items():
                times.append(seconds(args, models[layers], args.rows))
    print(f"{args.dtype}, {args.threads} threads, sequences of {args.length} tokens")
    sweeps = []
    for what, sweep in (("tokens", by_tokens), ("layers", by_layers)):
        sweeps.append(report(what, {size: statistics.median(times) for size, times in sweep.items()}))
    if args.out:
        draw(sweeps, args.out)


if __name__ == "__main__":
    main()
