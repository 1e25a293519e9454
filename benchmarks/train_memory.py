# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The memory of training a MoE-LPR of Qwen1.5-0.5B's shape, fp32 and 8-bit AdamW states.

Trains stage 1 in bf16 on random weights and tokens, and prints the peak of the
process as the system counts it, beside its bar and beside what nothing can
spare: value, master, gradient and states of what trains, and the frozen
weights once. Of the peak, "file" is the part that is mapped from checkpoints,
which the system can drop and read again. A run is ended when the machine has
less than --reserve left: it would swap.

usage: python benchmarks/train_memory.py [--states fp32 8bit] [--rows 2 --length 512]
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from common import add_shape
from train_step import prepare

BARS = {"fp32": 20, "8bit": 13}  # GiB, for the default shape


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=Path("build/bin"))
    parser.add_argument("--states", nargs="+", choices=BARS, default=list(BARS), help="AdamW's (default: both)")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--steps", type=int, default=3, help="(default: 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory-budget", type=int, default=0, help="as of moe-run train, MiB (default: no limit)")
    parser.add_argument("--reserve", type=float, default=1, help="GiB that the machine must keep (default: 1)")
    parser.add_argument("--folder", type=Path, help="keep the model here, and take it from here the next time")
    add_shape(
        parser, hidden=1024, intermediate=2816, layers=24, heads=16, kv_heads=16, vocab=151936, experts=6, top_k=2,
        rows=2, length=512,
    )  # fmt: skip
    return parser.parse_args()


def status(pid):
    """Bytes by their names in /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def available():
    return int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024


def train(args, folder, states):
    """Peaks in bytes, and the metrics of the steps."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        command = [
            str(args.bin / "moe-run"), "train", str(folder / "moe.mlir"), "--stage=1",
            "--tokens", str(folder / "tokens.safetensors"), "--out", f"{name}/run", f"--steps={args.steps}",
            f"--batch={args.rows}", "--lr=1e-5", "--schedule=constant", f"--dtype={args.dtype}",
            f"--threads={args.threads}", f"--memory-budget={args.memory_budget}", "--save-every=0",
            f"--optimizer-states={states}",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        errors = []
        reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
        reader.start()
        peaks, is_starved = {"VmHWM": 0, "RssAnon": 0, "RssFile": 0}, False
        while True:
            pid, code, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if not is_starved and available() < args.reserve * 2**30:
                is_starved = True
                process.kill()
            now = status(process.pid)
            if now.get("VmRSS", 0) > peaks.get("VmRSS", 0):  # what the largest consisted of
                peaks |= {name: now.get(name, 0) for name in ("VmRSS", "RssAnon", "RssFile")}
            peaks["VmHWM"] = max(peaks["VmHWM"], now.get("VmHWM", 0))
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(code)
        reader.join()
        if is_starved:
            raise SystemExit(f"{states}: ended at {gib(peaks['VmHWM'])} GiB, the machine has no more")
        if code:
            raise SystemExit(f"{states}: {errors[0]}")
        peaks["maxrss"] = usage.ru_maxrss * 1024
        steps = [json.loads(line) for line in Path(f"{name}/run/metrics.jsonl").read_text().splitlines()]
        return peaks, steps


def unavoidable(args, states):
    """Bytes of parameters, and of all that training keeps for those that train."""
    width, heads = args.hidden, args.hidden // args.heads * args.kv_heads
    expert = 3 * width * args.intermediate
    trained = args.layers * ((args.experts - 1) * expert + args.experts * width)
    frozen = args.vocab * width + args.layers * (expert + 2 * width * width + 2 * width * heads)
    value = {"fp32": 4, "bf16": 2}[args.dtype]
    master = 0 if args.dtype == "fp32" else 2
    moments = 8 if states == "fp32" else 2 * (1 + 4 / 256)
    return trained * (value + master + 4 + moments) + frozen * value


def gib(size):
    return f"{size / 2**30:.2f}"


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        if not (folder / "tokens.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            prepare(args, folder, family="qwen2", tie=True)
        print(
            f"{'states':8}{'peak GiB':>10}{'bar':>6}{'VmHWM':>8}{'anon':>8}{'file':>7}{'needed':>9}{'s/step':>8}  loss"
        )
        for states in args.states:
            peaks, steps = train(args, folder, states)
            seconds = sorted(step["seconds"] for step in steps)[len(steps) // 2]
            print(
                f"{states:8}{gib(peaks['maxrss']):>10}{BARS[states]:6}{gib(peaks['VmHWM']):>8}"
                f"{gib(peaks['RssAnon']):>8}{gib(peaks['RssFile']):>7}{gib(unavoidable(args, states)):>9}"
                f"{seconds:8.2f}  {' '.join(format(step['loss'], '.5f') for step in steps)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
