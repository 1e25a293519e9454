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
def program():
    """program("moe-run") -> its path"""
    folder = Path(os.environ.get("POLYMOE_BIN", REPOSITORY / "build" / "bin"))

    def find(name):
        path = folder / name
        assert path.is_file(), f"{path}: build the tools first, or set POLYMOE_BIN"
        return str(path)

    return find


@pytest.fixture(scope="session")
def tool(program):
    """tool("moe-run", "score", ...) -> stdout; a failure shows stderr."""

    def run(name, *arguments):
        command = [program(name), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, f"{' '.join(command)}\nexit code {result.returncode}\n{result.stderr}"
        return result.stdout

    return run


@pytest.fixture(scope="session")
def upcycle(tool):
    """upcycle(model.mlir) -> mixture of experts beside it"""

    def run(module, experts="experts=4"):
        moe = module.with_name(f"moe-{experts.replace(',', '-')}-{module.name}")
        tool("moe-opt", module, f"--moe-upcycle={experts} top-k=2 seed=0", "--moe-freeze-backbone", "-o", moe)
        return moe

    return run


@pytest.fixture(scope="session")
def tokens_file(tmp_path_factory):
    """tokens_file(rows) -> random rows of ids below 331, longer than mistral's
    window, of an old and a new language in turn."""
    import torch
    from safetensors.torch import save_file

    @functools.cache
    def make(rows, length=37):
        path = tmp_path_factory.mktemp("tokens") / "tokens.safetensors"
        generator = torch.Generator().manual_seed(7)
        save_file(
            {
                "tokens": torch.randint(0, 331, (rows, length), generator=generator, dtype=torch.int32),
                "languages": torch.arange(rows, dtype=torch.int32) % 2,
            },
            path,
            metadata={"languages": "en,el", "rounds": "0,1"},
        )
        return path

    return make


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
