# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The compiled tools: every flag that this package gives them stands here."""

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

from polymoe.errors import UserError

# The file descriptor, whatever sys.stderr has become.
STDERR = 2


@dataclasses.dataclass(frozen=True)
class Training:
    """One phase of training, as `moe-run train` takes it."""

    stage: str  # dense, 1 or 2
    mix: dict  # every language -> how often each of its documents comes in an epoch
    steps: int
    lr: float
    batch: int  # rows a step
    length: int  # tokens a row
    warmup: int = 0
    save_every: int = 100


class Tools:
    """moe-translate, moe-opt and moe-run of one folder."""

    def __init__(self, folder, threads=None, dtype=None):
        self.folder = Path(folder)
        self.threads = threads
        self.dtype = dtype
        for name in ("moe-translate", "moe-opt", "moe-run"):
            if not os.access(self.folder / name, os.X_OK):
                raise UserError(
                    f"{self.folder / name}: no such program; scripts/build.sh builds it, --bin names its folder"
                )

    def import_hf(self, checkpoint, module):
        self._run("moe-translate", "--import-hf", checkpoint, "-o", module)

    def export_hf(self, model, checkpoint):
        # What an interrupted call left is replaced.
        self._run("moe-translate", "--export-hf", model, "-o", checkpoint, "--force")

    def upcycle(self, module, moe, experts, top_k, seed):
        """`experts` is a number for every layer, or one for each with commas."""
        option = "counts" if "," in experts else "experts"
        options = f"{option}={experts} top-k={top_k} seed={seed}"
        self._run("moe-opt", module, f"--moe-upcycle={options}", "--moe-freeze-backbone", "-o", moe)

    def train(self, model, training, data, out, seed):
        """Trains, or goes on where an interrupted run was: --resume starts a
        phase that has not begun and leaves alone one that is finished."""
        # A new phase of a run folder is named by the folder alone.
        where = [] if model == out else ["--out", out]
        self._run(
            "moe-run", "train", model, *where, "--resume", f"--stage={training.stage}", "--data", data,
            f"--mix={','.join(f'{code}={weight:g}' for code, weight in training.mix.items())}",
            f"--steps={training.steps}", f"--lr={training.lr:g}", "--schedule=cosine", f"--warmup={training.warmup}",
            f"--batch={training.batch}", f"--sequence={training.length}", f"--save-every={training.save_every}",
            f"--seed={seed}", *self._machine(),
        )  # fmt: skip

    def evaluate(self, model, data, split, length, out):
        self._run(
            "moe-run", "eval", model, "--data", data, f"--split={split}", f"--sequence={length}", "--json", out,
            *self._machine(),
        )  # fmt: skip

    def generate(self, model, prompt, max_tokens):
        """The greedy continuation as text."""
        return self._run(
            "moe-run", "generate", model, "--prompt", prompt, f"--max-tokens={max_tokens}", "--temperature=0",
            *self._machine(), capture=True,
        )  # fmt: skip

    def _machine(self):
        return [
            *([f"--threads={self.threads}"] if self.threads else []),
            *([f"--dtype={self.dtype}"] if self.dtype else []),
        ]

    def _run(self, name, *arguments, capture=False):
        """Runs a tool. Its progress goes to our stderr; our stdout is for
        results. Ctrl-C reaches it too, and it is left the time to save."""
        command = [str(self.folder / name), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE if capture else STDERR)
        try:
            output, _ = process.communicate()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        if process.returncode != 0:
            raise UserError(f"{' '.join(command)}: exit code {process.returncode}")
        return output.decode("utf-8", errors="replace") if capture else None
