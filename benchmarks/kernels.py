# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Routed matmuls: the compiled kernels against torch.matmul on the same FLOPs, dense.

Parts, each for fp32 and bf16:
  matmuls  every kernel alone and all in one program, taking turns with
           torch.matmul on products of the same extents; also as a share of the
           multiply-adds that the cores reach in registers in the same run
  skew     80% of the rows on one expert and one expert without rows, against
           balanced
  frozen   weight gradients where a frozen expert holds a share p0 of the rows,
           against 1 - p0
  experts  the time of all kernels against the number of experts, at two
           experts a token and 8192 rows

Ours gathers rows, packs weights that train, applies activations and combines;
torch.matmul finds its operands ready, and memory for its results. Prints
medians.

usage: python benchmarks/kernels.py [--parts ...] [--dtypes ...] [--rounds 5]
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from common import add_shape, run, torch_dtype

PARTS = ("matmuls", "skew", "frozen", "experts")
KERNELS = ("up", "down", "down_grad", "input_grad", "weight_grad")
SHARES = (0, 0.5, 0.9)
TYPES = {"fp32": "f32", "bf16": "bf16"}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=Path("build/bin"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--dtypes", nargs="+", choices=TYPES, default=list(TYPES), help="(default: both)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured (default: 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    add_shape(parser, width=2048, hidden=5504, experts=6, top_k=2, tokens=2048)
    sweep = parser.add_argument_group("shape of the part 'experts'")
    sweep.add_argument("--sweep", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="(default: 4 8 16 32 64)")
    sweep.add_argument("--sweep-width", type=int, default=512, help="(default: 512)")
    sweep.add_argument("--sweep-hidden", type=int, default=1408, help="(default: 1408)")
    sweep.add_argument("--sweep-tokens", type=int, default=4096, help="(default: 4096)")
    return parser.parse_args()


def ours(args, names, dtype, repetitions=1, **shape):
    """{name: [(seconds, FLOP/s), ...]} of benchmarks by name, without the type."""
    shape = {"width": args.width, "hidden": args.hidden, "experts": args.experts, "top_k": args.top_k,
             "tokens": args.tokens} | shape  # fmt: skip
    patterns = [name.replace("/", f"/{TYPES[dtype]}/") if "/" in name else f"{name}/{TYPES[dtype]}" for name in names]
    printed = run(
        args, "moe-kernel-benchmark", f"--threads={args.threads}",
        *(f"--{name.replace('_', '-')}={value}" for name, value in shape.items()),
        f"--benchmark_filter=^({'|'.join(patterns)})/real_time$", "--benchmark_format=json",
        f"--benchmark_repetitions={repetitions}", "--benchmark_enable_random_interleaving=true",
        "--benchmark_min_time=0.1",
    )  # fmt: skip
    results = {name: [] for name in names}
    for result in json.loads(printed)["benchmarks"]:
        if result["run_type"] != "iteration":
            continue
        name = names[patterns.index(result["run_name"].removesuffix("/real_time"))]
        if not result.get("error_occurred"):
            results[name].append((result["real_time"] / 1e3, result["FLOP/s"]))
    return results


def products(args):
    """[(M, N, K)] of torch.matmul for each kernel."""
    rows, width, hidden = args.tokens * args.top_k, args.width, args.hidden
    return {
        "up": [(rows, 2 * hidden, width)],
        "down": [(rows, width, hidden)],
        "down_grad": [(rows, hidden, width)],
        "input_grad": [(rows, width, 2 * hidden)],
        "weight_grad": [(width, hidden, rows), (2 * hidden, width, rows)],
    }


class Torch:
    """Operands and results of all products, and the time of each."""

    def __init__(self, args, dtype):
        import torch

        torch.set_num_threads(args.threads)
        self.matmul = torch.matmul
        self.operands = {}
        for name, extents in products(args).items():
            self.operands[name] = [
                [torch.randn(shape).to(torch_dtype(dtype)) for shape in ((m, k), (k, n), (m, n))] for m, n, k in extents
            ]
            self.seconds(name)  # the first time costs more

    def seconds(self, name):
        start = time.perf_counter()
        for a, b, c in self.operands[name]:
            self.matmul(a, b, out=c)
        return time.perf_counter() - start


def matmuls(args, dtype):
    flops = {name: sum(2 * m * n * k for m, n, k in extents) for name, extents in products(args).items()}
    flops["all"] = sum(flops.values())
    names = [*KERNELS, "all"]
    torch = Torch(args, dtype)
    mine, theirs, peaks = {name: [] for name in names}, {name: [] for name in names}, []
    for round_ in range(args.rounds):
        found = ours(args, ["peak", *(f"{name}/balanced" for name in names)], dtype)
        peaks += [rate for _, rate in found["peak"]]
        for name in names:
            mine[name].append(found[f"{name}/balanced"][0][0])
        turn = {name: torch.seconds(name) for name in KERNELS}
        turn["all"] = sum(turn.values())
        for name, seconds in turn.items():
            theirs[name].append(seconds)
        print(
            f"{dtype} round {round_ + 1}/{args.rounds}: all {mine['all'][-1]:.2f} s, torch {turn['all']:.2f} s",
            flush=True,
        )
    peak = statistics.median(peaks) if peaks else float("nan")
    print(f"\nmatmuls, {dtype}, {args.threads} threads: multiply-adds in registers reach {peak / 1e9:.0f} GFLOP/s")
    print(f"{'kernel':12}{'GFLOP/s':>9}{'torch.matmul':>14}{'ratio':>7}{'of peak':>9}{'torch of peak':>15}")
    for name in names:
        rate, other = (flops[name] / statistics.median(times[name]) for times in (mine, theirs))
        print(f"{name:12}{rate / 1e9:9.0f}{other / 1e9:14.0f}{rate / other:7.2f}{rate / peak:9.1%}{other / peak:15.1%}")


def medians(found):
    return {name: statistics.median(seconds for seconds, _ in results) for name, results in found.items()}


def skew(args, dtype):
    print(f"\nskew, {dtype}: 80% of the rows on one expert, one without rows")
    print(f"{'kernel':12}{'balanced s':>11}{'skewed s':>10}{'ratio':>7}")
    for name in ("all", "weight_grad"):
        times = medians(ours(args, [f"{name}/balanced", f"{name}/skewed"], dtype, args.rounds))
        balanced, skewed = times.values()
        print(f"{name:12}{balanced:11.3f}{skewed:10.3f}{skewed / balanced:7.2f}", flush=True)


def frozen(args, dtype):
    names = {share: f"weight_grad/frozen_{share * 100:.0f}" for share in SHARES}
    times = medians(ours(args, list(names.values()), dtype, args.rounds))
    print(f"\nfrozen, {dtype}: weight gradients where a frozen expert holds a share p0 of the rows")
    print(f"{'p0':>4}{'s':>9}{'of p0 = 0':>11}{'1 - p0':>8}{'ratio':>7}")
    for share, name in names.items():
        part = times[name] / times[names[0]]
        print(f"{share:4}{times[name]:9.3f}{part:11.3f}{1 - share:8.1f}{part / (1 - share):7.2f}")


def experts(args, dtype):
    times = {count: [] for count in args.sweep}
    for _ in range(args.rounds):
        for count in times:
            found = ours(
                args, ["all/balanced"], dtype, experts=count, width=args.sweep_width, hidden=args.sweep_hidden,
                tokens=args.sweep_tokens,
            )  # fmt: skip
            times[count].append(found["all/balanced"][0][0])
    least = min(statistics.median(values) for values in times.values())
    rows = args.sweep_tokens * args.top_k
    print(f"\nexperts, {dtype}: all kernels, nothing frozen, {rows} rows, D={args.sweep_width}, F={args.sweep_hidden}")
    print(f"{'experts':>8}{'s':>9}{'of least':>10}")
    for count, values in times.items():
        print(f"{count:8}{statistics.median(values):9.3f}{statistics.median(values) / least:10.2f}")


def main():
    args = parse()
    parts = {"matmuls": matmuls, "skew": skew, "frozen": frozen, "experts": experts}
    for dtype in args.dtypes:
        for part in args.parts:
            parts[part](args, dtype)


if __name__ == "__main__":
    main()
