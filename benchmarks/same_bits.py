# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Records the numbers that a build computes, and compares two records bit for bit.

For small random models of every family in fp32 and bf16, of sizes that are no
multiples of a vector, a record holds: twenty steps each of stage 1, of stage 2
and of training everything (losses, gradient norms, the parameters and moments
that result), then the logits of scoring and greedily generated tokens, all of
it with one thread and with two, which must agree; and the sizes of the
programs' arenas. A tensor is recorded as its hash, logits also as some values.

Compiling takes nearly all of the time: about five minutes on two idle cores,
and with --quick one. A record belongs to an instruction set and to a version of
PyTorch, which draws the weights: compare records of one machine. `record` and
`compare` exit with 1 where something differs.

usage: python benchmarks/same_bits.py record before.json --build ../before/build
       python benchmarks/same_bits.py record after.json --build build
       python benchmarks/same_bits.py compare before.json after.json
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from polymoe.new_model import new_model

VOCAB, STEPS = 331, 20
# Prompts are fed in pieces of 512, 256 and 32 tokens, what is shorter token by token.
SHORT, LONG = (1, 7, 31, 33, 70), (300, 2, 615, 40)


@dataclasses.dataclass(frozen=True)
class Case:
    family: str
    dtype: str
    experts: str  # options of moe-upcycle
    gates: str = ""  # options of moe-insert-language-gates
    sizes: dict = dataclasses.field(default_factory=dict)  # of new_model
    every: tuple = ()  # options of training, scoring and generation
    train: tuple = ()  # options of training
    infer: tuple = ()  # options of scoring and generation
    budget: int = 0  # MiB of activations that a step saves
    accumulate: int = 1
    rows: int = 3
    length: int = 37
    prompts: tuple = SHORT  # tokens of each
    documents: bool = False  # train on documents, not on rows of tokens


WIDE = {"hidden": 1032, "intermediate": 1416, "layers": 1, "head_dim": 64}
EVEN = {"odd": False, "vocab": VOCAB, "hidden": 128, "intermediate": 256, "layers": 2}
CASES = {
    "llama fp32": Case("llama", "fp32", "experts=4 top-k=2"),
    "llama bf16": Case("llama", "bf16", "counts=3,1,5 top-k=2", prompts=LONG),
    "mistral fp32": Case("mistral", "fp32", "experts=5 top-k=2", prompts=LONG),
    "mistral bf16": Case("mistral", "bf16", "experts=2 top-k=1"),
    "qwen2 fp32": Case("qwen2", "fp32", "experts=3 top-k=1"),
    "qwen2 bf16": Case("qwen2", "bf16", "experts=4 top-k=2", rows=2, length=67),
    "qwen3 fp32": Case("qwen3", "fp32", "experts=2 top-k=2", rows=5, length=13),
    "qwen3 bf16": Case("qwen3", "bf16", "experts=5 top-k=1"),
    "gemma fp32": Case("gemma", "fp32", "counts=1,4,2 top-k=2"),
    "gemma bf16": Case("gemma", "bf16", "experts=3 top-k=2", prompts=LONG),
    "bloom fp32": Case("bloom", "fp32", "experts=4 top-k=2", prompts=LONG),
    "bloom bf16": Case("bloom", "bf16", "experts=5 top-k=1"),
    "gates of tokens": Case("qwen2", "fp32", "counts=3,1,4 top-k=2", gates="pool=token seed=3"),
    "gates of means": Case("bloom", "bf16", "experts=4 top-k=2", gates="pool=causal-mean seed=3 layers=0,2"),
    "gates of sums": Case("qwen3", "fp32", "experts=4 top-k=1", gates="pool=sequence-sum seed=3", prompts=()),
    "micro-batches": Case("llama", "bf16", "experts=4 top-k=2", accumulate=3, rows=2, sizes={"rope_scaling": "llama3"}),
    "8-bit states, released losses": Case("gemma", "bf16", "experts=3 top-k=2", train=(
        "--optimizer-states=8bit", "--balance-form=reference", "--language-prior-form=reference")),
    "recomputed activations": Case("llama", "fp32", "experts=4 top-k=2", budget=1, rows=4, length=61),
    "documents": Case("mistral", "fp32", "experts=3 top-k=2", train=("--segments", "--sequence=37"), documents=True),
    "integers": Case("qwen3", "bf16", "experts=4 top-k=2", infer=("--frozen-weights=int8",), prompts=LONG),
    "bf16 from fp32": Case("qwen2", "fp32", "experts=3 top-k=2", every=("--dtype=bf16",)),
    "widened bf16": Case("llama", "bf16", "experts=4 top-k=2", every=("--bf16-products=widened",)),
    "wide fp32": Case("llama", "fp32", "experts=3 top-k=2", sizes=WIDE, rows=2, length=150, prompts=(1, 40)),
    "wide bf16": Case("llama", "bf16", "experts=3 top-k=2", sizes=WIDE, rows=2, length=150, prompts=(1, 40)),
    "even bf16": Case("llama", "bf16", "experts=4 top-k=2", sizes=EVEN, rows=2, length=64, prompts=(64, 32, 3)),
}  # fmt: skip
QUICK = ("llama fp32", "bloom bf16", "gates of tokens", "micro-batches")


def digests(path):
    """Of a safetensors file's tensors, by name."""
    data = {name: tensor.flatten().view(torch.uint8).numpy().tobytes() for name, tensor in load_file(path).items()}
    return {name: hashlib.sha256(data[name]).hexdigest()[:16] for name in sorted(data)}


def write_tokens(path, rows, length):
    """Random rows of an old and a new language in turn."""
    tokens = torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(7), dtype=torch.int32)
    languages = torch.arange(rows, dtype=torch.int32) % 2
    save_file({"tokens": tokens, "languages": languages}, path, {"languages": "en,el", "rounds": "0,1"})


def write_documents(folder):
    """A corpus of an old and a new language, 90 documents of 1 to 30 random tokens each."""
    folder.mkdir()
    generator, shards = torch.Generator().manual_seed(9), []
    for code in ("en", "el"):
        lengths = torch.randint(1, 31, (90,), generator=generator)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        tokens = torch.randint(1, VOCAB, (int(offsets[-1]),), generator=generator, dtype=torch.int32)
        tokens[offsets[1:] - 1] = 0
        save_file({"tokens": tokens, "documents": offsets, "bytes": 3 * lengths}, folder / code)
        shards.append({"file": code, "split": "train", "language": code, "documents": 90, "tokens": len(tokens)})
    corpus = {"format": "polymoe-corpus", "version": 1, "vocabulary": VOCAB, "eos": 0, "tokenizer": "tokenizer.json",
              "languages": [{"code": "en", "round": 0}, {"code": "el", "round": 1}], "shards": shards}  # fmt: skip
    (folder / "corpus.json").write_text(json.dumps(corpus))
    (folder / "tokenizer.json").write_text("{}")


class Recorder:
    """Runs the tools on a case, in a folder of its own."""

    def __init__(self, build, folder, case, seed):
        self.build, self.folder, self.case, self.data = build, folder, case, folder / "data"
        folder.mkdir()
        new_model(case.family, folder / "hf", **{"odd": True, "dtype": case.dtype, "seed": seed} | case.sizes)
        if case.documents:
            write_documents(self.data)
        else:
            write_tokens(self.data, STEPS * case.rows * case.accumulate, case.length)
        write_tokens(folder / "few", 4, case.length)
        prompts = [{"tokens": [(7 * i + 3 * length) % VOCAB for i in range(length)]} for length in case.prompts]
        (folder / "prompts").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))

    def tool(self, name, *arguments):
        command = [str(self.build / "bin" / name), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"{' '.join(command)}\nexit code {result.returncode}\n{result.stderr}")
        return result.stdout

    def run(self):
        dense, moe = self.folder / "dense.mlir", self.folder / "moe.mlir"
        self.tool("moe-translate", "--import-hf", self.folder / "hf", "-o", dense)
        passes = [f"--moe-upcycle={self.case.experts} seed=0", "--moe-freeze-backbone"]
        passes += [f"--moe-insert-language-gates={self.case.gates}"] if self.case.gates else []
        self.tool("moe-opt", dense, *passes, "-o", moe)
        found = {"inputs": digests(self.folder / "hf/model.safetensors"), "arenas": self.arenas(moe)}
        for threads in (1, 2):
            found[f"threads={threads}"] = self.train(moe, threads) | self.infer(threads)
        return found

    def arenas(self, moe):
        """Bytes of each program, compiled as moe-run does."""
        case, shape = self.case, f"embed-model=false rows={self.case.rows} length={self.case.length}"
        step = f"train-pipeline={shape} memory-budget={case.budget}"
        cpu = "packed-once=frozen" + (" gradients=written" if case.accumulate == 1 else "")
        gate, classifier = (",language_gate", "classifier=0.1") if case.gates else ("", "")
        stage1, generate = f"{step} balance=0.01", "generate-pipeline=embed-model=false capacity=96"
        programs = {
            "stage 1": ("expert,router", stage1, cpu),
            # What this machine cannot run, it can still compile.
            "stage 1 with AVX2": ("expert,router", stage1, f"{cpu} vector-bytes=32"),
            "stage 1 with AMX": ("expert,router", stage1, f"{cpu} bf16-products=amx"),
            "stage 2": (f"router{gate}", f"{step} language-prior=0.1 {classifier}", cpu),
            "dense": ("backbone,expert,router", step, cpu),
            "score": ("", f"score-pipeline={shape} logits=true", ""),
            "prefill": ("", f"{generate} rows=1 length=32", ""),
            "decode": ("", f"{generate} rows=3 length=1", ""),
        }
        found = {}
        for name, (roles, pipeline, target) in programs.items():
            # A gate takes part once stage 2 has trained it.
            passes = [] if "gate" in roles else ["--moe-drop-untrained-gates"]
            passes += [f"--moe-freeze-backbone=train={roles}"] if roles else []
            module = self.tool("moe-opt", moe, *passes, f"--moe-{pipeline}", f"--moe-cpu-pipeline={target}")
            found[name] = sorted(map(int, re.findall(r'binding<arena, "arena"(?:>, | in )memref<(\d+)xi8>', module)))
        return found

    def train(self, moe, threads):
        case, out, found = self.case, self.folder / f"run-{threads}", {}
        for phase, stage in enumerate(("1", "2", "dense")):
            where = [moe, "--out", out] if phase == 0 else [out]
            self.tool("moe-run", "train", *where, f"--stage={stage}", "--data" if case.documents else "--tokens",
                      self.data, f"--steps={STEPS}", f"--batch={case.rows}", f"--accumulate={case.accumulate}",
                      "--lr=1e-3", "--warmup=2", "--save-every=0", f"--memory-budget={case.budget}",
                      f"--threads={threads}", *case.every, *case.train)  # fmt: skip
            lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
            lines = [line for line in lines if line["phase"] == phase]
            checkpoint = out / "checkpoints" / f"step-{lines[-1]['step']:08}"
            found[f"stage {stage}"] = {name: [line[name] for line in lines] for name in lines[0] if name != "seconds"}
            for file in ("parameters", "optimizer"):
                found[f"stage {stage}"][file] = digests(checkpoint / f"{file}.safetensors")
        return found

    def infer(self, threads):
        case, folder, run = self.case, self.folder, self.folder / f"run-{threads}"
        options = [f"--threads={threads}", *case.every, *case.infer]
        scores = folder / f"scores-{threads}"
        self.tool(
            "moe-run", "score", run, "--tokens", folder / "few", "--batch=3", "--logits", "--out", scores, *options
        )
        found = {"scores": digests(scores), "some logits": load_file(scores)["logits"].flatten()[::4999].tolist()}
        if case.documents:
            self.tool("moe-run", "eval", run, "--data", self.data, "--split=train", "--json", folder / "eval", *options)
            found["evaluation"] = json.loads((folder / "eval").read_text())
        if case.prompts:
            texts = self.tool("moe-run", "generate", run, "--prompts", folder / "prompts", "--batch=3", "--json-lines",
                              "--max-tokens=32", "--temperature=0", "--context=0", *options)  # fmt: skip
            found["texts"] = [json.loads(line)["tokens"] for line in texts.splitlines()]
        return found


def record(args):
    """The numbers of `args.build`, written to `args.out`; how many differ between one thread and two."""
    names = [name for name in CASES if name in args.only]
    found, running = {}, {}
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        try:
            for name in names:
                recorder = Recorder(args.build, Path(folder, name), CASES[name], args.seed)
                running[pool.submit(recorder.run)] = name
            for done in concurrent.futures.as_completed(running):
                found[running[done]] = done.result()
                args.out.write_text(json.dumps({name: found[name] for name in names if name in found}, indent=1) + "\n")
                print(f"{len(found)}/{len(names)} {running[done]}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return differences(*({name: case[f"threads={n}"] for name, case in found.items()} for n in (1, 2)))


def compare(args):
    records = [json.loads(path.read_text()) for path in args.records]
    return differences(*({name: case for name, case in cases.items() if name in args.only} for cases in records))


def flat(value, path=""):
    """{"a": {"b": [1, 2]}} as ("a: b: 0: ", 1), ("a: b: 1: ", 2)"""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(inner, f"{path}{key}: ")
    else:
        yield path, value


def differences(first, second):
    """Prints what differs; returns how much."""
    first, second = dict(flat(first)), dict(flat(second))
    paths = [path for path in first | second if first.get(path) != second.get(path)]
    for path in paths:
        print(f"{path}{first.get(path, 'nothing')} and {second.get(path, 'nothing')}")
    print(f"{len(paths)} of {len(first | second)} numbers differ")
    return len(paths)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    recording = commands.add_parser("record", help="run a build and write what it computes")
    recording.add_argument("out", type=Path, help="JSON file to write")
    recording.add_argument("--build", type=Path, default=Path("build"), help="build folder (default: build)")
    recording.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    recording.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time (default: processors)")
    recording.set_defaults(run=record)
    comparing = commands.add_parser("compare", help="list every number that differs between two records")
    comparing.add_argument("records", type=Path, nargs=2, metavar="RECORD", help="file that record wrote")
    comparing.set_defaults(run=compare)
    for command in (recording, comparing):
        command.set_defaults(only=tuple(CASES))
        command.add_argument("--quick", dest="only", action="store_const", const=QUICK, help=f"only {', '.join(QUICK)}")
        command.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help="only these")
    args = parser.parse_args()
    sys.exit(args.run(args) != 0)


if __name__ == "__main__":
    main()
