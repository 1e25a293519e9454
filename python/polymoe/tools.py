# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The compiled tools: every flag that this package gives them stands here."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

from polymoe.errors import UserError

# The file descriptor, whatever sys.stderr has become.
STDERR = 2

BUILD = Path("build/bin")

# A save writes all that trains with its optimiser's state, gigabytes.
MIN_STEPS_BETWEEN_SAVES = 20


# The keys of a recipe's phase -> flags of `moe-run train`.
_TRAINING = {
    "stage": "--stage",
    "steps": "--steps",
    "lr": "--lr",
    "warmup": "--warmup",
    "batch": "--batch",
    "sequence": "--sequence",
    "balance": "--balance",
    "language_prior": "--language-prior",
}


class Tools:
    """moe-translate, moe-opt and moe-run of one folder."""

    def __init__(self, folder=None, threads=None, dtype=None):
        """Without a folder: build/bin here, or where the shell finds moe-run."""
        if folder is None:
            found = shutil.which("moe-run")
            folder = Path(found).parent if found and not BUILD.is_dir() else BUILD
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

    def upcycle(self, module, moe, experts, top_k, seed, gates=()):
        """`experts` has a number for each layer; `gates` is what language_gates returns."""
        options = f"counts={','.join(map(str, experts))} top-k={top_k} seed={seed}"
        self._run("moe-opt", module, f"--moe-upcycle={options}", *gates, "--moe-freeze-backbone", "-o", moe)

    def allocate(self, module, moe, profile, budget, top_k, seed, gates=()):
        options = f"profile={profile} budget={budget} top-k={top_k} seed={seed}"
        self._run("moe-opt", module, f"--moe-allocate-experts={options}", *gates, "--moe-freeze-backbone", "-o", moe)

    def language_gates(self, profile, count, seed):
        """The passes that gate the `count` layers in which languages are most alike."""
        options = f"profile={profile} most-similar={count} seed={seed}"
        return [f"--moe-insert-language-gates={options}"] if count else []

    def profile_similarity(self, model, data, languages, tokens, sequence, out):
        self._run(
            "moe-run", "profile", "similarity", model, "--data", data, f"--languages={','.join(languages)}",
            f"--tokens={tokens}", f"--sequence={sequence}", "--out", out, *self._machine(),
        )  # fmt: skip

    def train(self, model, phase, mix, data, out, seed):
        """Trains, or goes on where an interrupted run was: --resume starts a
        phase that has not begun and leaves alone one that is finished.
        `mix` says how often each document of a language comes in an epoch."""
        # A new phase of a run folder is named by the folder alone.
        where = [] if model == out else ["--out", out]
        given = {flag: getattr(phase, key) for key, flag in _TRAINING.items()}
        self._run(
            "moe-run", "train", model, *where, "--resume", "--data", data, "--schedule=cosine", f"--seed={seed}",
            f"--mix={','.join(f'{code}={weight}' for code, weight in mix.items())}",
            *(f"{flag}={value}" for flag, value in given.items() if value is not None),
            f"--save-every={max(MIN_STEPS_BETWEEN_SAVES, phase.steps // 5)}", *self._machine(),
        )  # fmt: skip

    def evaluate(self, model, data, split, sequence, out, documents=0):
        self._run(
            "moe-run", "eval", model, "--data", data, f"--split={split}", f"--sequence={sequence}", "--json", out,
            f"--max-documents={documents}", *self._machine(),
        )  # fmt: skip

    def generate(self, model, prompts, max_tokens):
        """The greedy continuations of a file of prompts, in their order."""
        output = self._run(
            "moe-run", "generate", model, "--prompts", prompts, f"--max-tokens={max_tokens}", "--temperature=0",
            "--json-lines", *self._machine(), capture=True,
        )  # fmt: skip
        return [json.loads(line)["text"] for line in output.splitlines()]

    def _machine(self):
        return [
            *([f"--threads={self.threads}"] if self.threads else []),
            *([f"--dtype={self.dtype}"] if self.dtype else []),
        ]

    def _run(self, name, *arguments, capture=False):
        """Runs a tool. Its progress goes to our stderr; our stdout is for
        results. Ctrl-C reaches us alone: we pass it on once, so that the tool
        saves, since a second one would end it unsaved."""
        command = [str(self.folder / name), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE if capture else STDERR, process_group=0)
        try:
            output, _ = process.communicate()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        if process.returncode != 0:
            raise UserError(f"{' '.join(command)}: exit code {process.returncode}")
        return output.decode("utf-8", errors="replace") if capture else None
