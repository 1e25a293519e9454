# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Profiles of deviations: what they say, and that they go on where they stopped."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import REPOSITORY
from safetensors.numpy import load_file

pytestmark = pytest.mark.tools

INPUTS = REPOSITORY / "test" / "Integration" / "Inputs"
TINY = INPUTS / "tiny.mlir"
CODES = ("en", "es", "el")
DATA = ("--batch=2", "--accumulate=2", "--sequence=20", "--lr=1e-3")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("languages") / "corpus"
    subprocess.run([sys.executable, INPUTS / "make_languages.py", out, "en:0", "es:0", "el:1"], check=True)
    return out


def trained(tool, out, corpus, code, steps):
    """The parameters after some steps of training everything on one language."""
    options = ("--stage=dense", "--schedule=linear", "--clip=0", f"--mix={code}=1", f"--steps={steps}", *DATA)
    tool("moe-run", "train", TINY, "--data", corpus, "--out", out, *options)
    return load_file(out / "checkpoints" / f"step-{steps:08}" / "parameters.safetensors")


def test_deviations_are_those_of_training_on_each_language(tool, corpus, tmp_path):
    out = tmp_path / "deviation.json"
    options = ("--data", corpus, "-o", out, "--steps=3", "--similarity-layers=1", *DATA)
    tool("moe-run", "profile", "deviation", TINY, *options)
    profile = json.loads(out.read_text())
    assert [language["code"] for language in profile["languages"]] == list(CODES)
    base = trained(tool, tmp_path / "base", corpus, "en", 0)
    deltas = []
    for code in CODES:
        tuned = trained(tool, tmp_path / code, corpus, code, 3)
        layers = [
            np.concatenate([
                (base[name].astype(float) - tuned[name]).ravel()
                for name in (f"layers.{layer}.mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
            ])
            for layer in range(2)
        ]  # fmt: skip
        deltas.append(layers)
    norms = [[np.linalg.norm(layer) for layer in layers] for layers in deltas]
    np.testing.assert_allclose(profile["layer_deviation"], norms, rtol=1e-12)
    last = np.array([layers[1] / np.linalg.norm(layers[1]) for layers in deltas])
    np.testing.assert_allclose(profile["similarity"], last @ last.T, atol=1e-6)
    assert np.abs(last @ last.T - np.eye(3)).max() < 0.999


def test_an_interrupted_measurement_goes_on(tool, program, corpus, tmp_path):
    options = (TINY, "--data", corpus, "--steps=40", *DATA)
    tool("moe-run", "profile", "deviation", *options, "-o", tmp_path / "whole.json")
    out, parts = tmp_path / "deviation.json", tmp_path / "deviation.json.parts"
    command = [program("moe-run"), "profile", "deviation", *map(str, options), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(parts.glob("language-0.safetensors")):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate()
    assert process.returncode == 3, text
    assert "of 3 languages, which are kept" in text and not out.exists()
    done = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert 0 < len(done) < 3
    # With other options it is another measurement.
    other = subprocess.run([*command, "--seed=1"], capture_output=True, text=True)
    assert other.returncode == 1 and "expected what an interrupted measurement of the same model" in other.stderr
    # Other values of the same names and shapes are another model.
    twin = tmp_path / "tiny.mlir"
    twin.write_text(TINY.read_text().replace("seed = 1", "seed = 2"))
    other = subprocess.run(
        [str(twin) if part == str(TINY) else part for part in command], capture_output=True, text=True
    )
    assert other.returncode == 1 and "expected what an interrupted measurement of the same model" in other.stderr
    assert {path.name: path.stat().st_mtime_ns for path in parts.iterdir()} == done
    tool("moe-run", *command[1:])
    assert out.read_text() == (tmp_path / "whole.json").read_text()
    assert not parts.exists()
