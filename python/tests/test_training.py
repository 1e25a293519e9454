# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Training: compiled code against LibTorch, interruptions, and threads."""

import json
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file

from polymoe.new_model import FAMILIES

pytestmark = pytest.mark.tools

OPTIONS = ("--steps=20", "--batch=2", "--lr=1e-3", "--warmup=2")


@pytest.fixture(scope="module")
def mixture(tool, checkpoint, upcycle, tmp_path_factory):
    """mixture("gemma") -> moe.mlir of a random odd model"""

    def make(family, **options):
        module = tmp_path_factory.mktemp(family) / "model.mlir"
        tool("moe-translate", "--import-hf", checkpoint(family, **options), "-o", module)
        return upcycle(module)

    return make


def checkpoints(run):
    """Whole ones, oldest first."""
    return sorted((run / "checkpoints").glob("step-????????"))


def last_checkpoint(run):
    return checkpoints(run)[-1]


def losses(run, phase=0):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["phase"] == phase and "loss" in line]


def assert_same_training(got, expected, initial, phase):
    """Losses within 1e-5, and updates within 1e-3 of their norm."""
    assert len(losses(expected, phase)) == 20
    assert losses(got, phase) == pytest.approx(losses(expected, phase), rel=1e-5, abs=0)
    got = load_file(last_checkpoint(got) / "parameters.safetensors")
    expected = load_file(last_checkpoint(expected) / "parameters.safetensors")
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        update = (value.double() - initial[key].double()).norm()
        assert update > 0, key
        error = (got[key].double() - value.double()).norm() / update
        assert error <= 1e-3, f"{key}: update differs by {error:.1e} of its norm"


def export(tool, run, out):
    tool("moe-translate", "--export-hf", run, "-o", out)
    tensors = {}
    for path in out.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


@pytest.mark.parametrize("family", FAMILIES)
def test_both_stages_train_as_libtorch_does(family, mixture, tool, tokens_file, tmp_path):
    # Where a token's second and third expert are as likely as each other, a
    # rounding error decides, and the loss of a step tells: few tokens keep that
    # unlikely.
    moe, tokens = mixture(family), tokens_file(40, length=13)
    compiled, other = tmp_path / "compiled", tmp_path / "torch"
    start = tmp_path / "start"
    tool("moe-run", "train", moe, "--stage=1", "--tokens", tokens, "--out", start, "--steps=0", "--executor=torch")
    initial = load_file(last_checkpoint(start) / "parameters.safetensors")
    tool("moe-run", "train", moe, "--stage=1", "--tokens", tokens, "--out", compiled, *OPTIONS)
    tool("moe-run", "train", moe, "--stage=1", "--tokens", tokens, "--out", other, *OPTIONS, "--executor=torch")
    assert_same_training(compiled, other, initial, phase=0)

    # Stage 2 of both begins where stage 1 of one ended.
    shutil.rmtree(other)
    shutil.copytree(compiled, other)
    stage1 = load_file(last_checkpoint(compiled) / "parameters.safetensors")
    before = export(tool, compiled, tmp_path / "stage1-hf")
    tool("moe-run", "train", compiled, "--stage=2", "--tokens", tokens, *OPTIONS)
    tool("moe-run", "train", other, "--stage=2", "--tokens", tokens, *OPTIONS, "--executor=torch")
    assert_same_training(compiled, other, stage1, phase=1)

    # Only routers moved.
    after = export(tool, compiled, tmp_path / "stage2-hf")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert len(changed) == 3 and all(key.endswith(".gate.weight") for key in changed), changed


# The rest is the runtime's: one small model.


@pytest.fixture(scope="module")
def small(mixture):
    return mixture("llama", layers=1, hidden=24, intermediate=40, heads=2, kv_heads=1, head_dim=8)


STEPS = 80
RUN = ("--stage=1", f"--steps={STEPS}", "--batch=2", "--lr=1e-2", "--save-every=1")


@pytest.fixture(scope="module")
def uninterrupted(small, tool, tokens_file, tmp_path_factory):
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    tool("moe-run", "train", small, "--tokens", tokens_file(2 * STEPS), "--out", run, *RUN, "--threads=1")
    return run


def assert_same_bits(run, expected):
    for name in ("parameters.safetensors", "optimizer.safetensors"):
        got, want = last_checkpoint(run) / name, last_checkpoint(expected) / name
        assert got.read_bytes() == want.read_bytes(), f"{got} differs from {want}"


@pytest.mark.parametrize("threads", [2, 4])
def test_results_do_not_depend_on_threads(threads, small, uninterrupted, tool, tokens_file, tmp_path):
    run = tmp_path / "run"
    options = [option.replace("--save-every=1", "--save-every=0") for option in RUN]
    tool(
        "moe-run", "train", small, "--tokens", tokens_file(2 * STEPS), "--out", run, *options, f"--threads={threads}"
    )  # fmt: skip
    assert losses(run) == losses(uninterrupted)
    assert_same_bits(run, uninterrupted)


@pytest.fixture(scope="module")
def pace(uninterrupted):
    """Seconds from one checkpoint to the next."""
    before, last = checkpoints(uninterrupted)[-2:]
    return last.stat().st_mtime - before.stat().st_mtime


def interrupt(command, run, signal_, seconds):
    """Sends the signal so long after the first new checkpoint, or after the
    start where seconds is negative. Returns the exit code."""
    before = checkpoints(run)[-1:]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while seconds >= 0 and checkpoints(run)[-1:] == before and process.poll() is None:
        time.sleep(0.001)
    time.sleep(abs(seconds))
    process.send_signal(signal_)
    _, errors = process.communicate(timeout=600)
    assert process.returncode in (-signal_, 3), errors
    return process.returncode


@pytest.fixture
def resumed(small, program, tokens_file, tmp_path):
    """(run folder, command that begins it or goes on with it)"""
    run = tmp_path / "run"
    data = ["--tokens", str(tokens_file(2 * STEPS))]
    return run, [program("moe-run"), "train", str(small), *data, "--out", str(run), *RUN, "--resume"]


def test_twenty_kills_change_nothing(resumed, uninterrupted, pace):
    (run, command), draw = resumed, random.Random(5)
    saved = []
    for kill in range(20):
        # Every fourth while it starts; else within a few steps of a checkpoint.
        seconds = -draw.uniform(0, 0.5) if kill % 4 == 3 else draw.uniform(0, 1.5 * pace)
        assert interrupt(command, run, signal.SIGKILL, seconds) == -signal.SIGKILL
        saved += [path.name for path in checkpoints(run)[-1:]]
    assert saved == sorted(saved) and len(set(saved)) >= 15 and saved[-1] < f"step-{STEPS:08}"
    subprocess.run(command, check=True, capture_output=True)
    assert_same_bits(run, uninterrupted)
    assert losses(run) == losses(uninterrupted)
    # Nothing half-written stays.
    assert sorted((run / "checkpoints").iterdir()) == checkpoints(run)


def test_kills_change_nothing_with_8_bit_states(mixture, tool, program, tokens_file, tmp_path):
    # Large enough that experts have such states, and in bf16, where masters lie in two halves.
    moe = mixture("llama", layers=1, hidden=64, intermediate=80, heads=2, kv_heads=1, head_dim=32)
    steps = 30
    command = [
        program("moe-run"), "train", str(moe), "--tokens", str(tokens_file(2 * steps)), "--stage=1", f"--steps={steps}",
        "--batch=2", "--lr=1e-2", "--save-every=1", "--dtype=bf16", "--optimizer-states=8bit", "--resume", "--out",
    ]  # fmt: skip
    whole, run, draw = tmp_path / "whole", tmp_path / "run", random.Random(7)
    subprocess.run([*command, str(whole), "--threads=1"], check=True, capture_output=True)
    states = load_file(last_checkpoint(whole) / "optimizer.safetensors")
    name = "model.layers.0.mlp.experts.1.up_proj.weight"
    assert states[f"{name}.m"].dtype == torch.uint8 and states[f"{name}.v"].dtype == torch.uint8
    assert states[f"{name}.m.absmax"].shape == (64 * 80 // 256,)
    assert states["model.layers.0.mlp.gate.weight.m"].dtype == torch.float32
    for _ in range(4):
        assert interrupt([*command, str(run)], run, signal.SIGKILL, draw.uniform(0, 0.01)) == -signal.SIGKILL
    assert checkpoints(run) and last_checkpoint(run).name < f"step-{steps:08}"
    subprocess.run([*command, str(run)], check=True, capture_output=True)
    assert_same_bits(run, whole)
    assert losses(run) == losses(whole)


def test_ctrl_c_saves(resumed, uninterrupted, pace):
    run, command = resumed
    assert interrupt(command, run, signal.SIGINT, pace) == 3
    saved = last_checkpoint(run)
    assert saved.name < f"step-{STEPS:08}"
    # The last run goes on, the one after it finds all done.
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True)
        assert_same_bits(run, uninterrupted)
