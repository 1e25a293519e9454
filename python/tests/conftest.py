# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the tests share: the tools, random checkpoints, and a small corpus."""

import functools
import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# One thread a process: the machine's cores are for the tools under test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tool():
    """tool("moe-run", "score", ...) -> stdout; a failure shows stderr."""
    folder = Path(os.environ.get("POLYMOE_BIN", REPOSITORY / "build" / "bin"))

    def run(name, *arguments, cwd=None):
        program = folder / name
        assert program.is_file(), f"{program}: build the tools first, or set POLYMOE_BIN"
        command = [str(program), *map(str, arguments)]
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, f"{' '.join(command)}\nexit code {result.returncode}\n{result.stderr}"
        return result.stdout

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """checkpoint("qwen3", dtype="bf16") -> folder of a random odd model, made once."""
    from polymoe.new_model import new_model

    @functools.cache
    def make(family, dtype="fp32", **options):
        out = tmp_path_factory.mktemp(family) / "hf"
        new_model(family, out, odd=True, dtype=dtype, **options)
        return out

    return make


@pytest.fixture
def documents():
    """Five documents, each in English and Greek."""
    texts = {
        "en": ["A cell holds a number.", "Insert a chart.", "Print the sheet.", "Save the file now.", "Sort the rows."],
        "el": [
            "Ένα κελί έχει αριθμό.",
            "Εισαγωγή διαγράμματος.",
            "Εκτύπωση φύλλου.",
            "Αποθήκευση αρχείου.",
            "Ταξινόμηση γραμμών.",
        ],
    }
    return {
        language: [{"id": f"page-{i}", "language": language, "text": text} for i, text in enumerate(group)]
        for language, group in texts.items()
    }
