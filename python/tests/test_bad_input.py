# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Bad input: one line that names what is wrong, an exit code below 128, and
nothing lost that was saved."""

import fcntl
import json
import os
import shutil
import struct
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.tools


@pytest.fixture
def refused(program):
    """refused(words, "moe-run", "score", ...): the tool fails, says so in one
    line and in these words."""

    def run(words, name, *arguments, **options):
        command = [program(name), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
        assert 1 <= result.returncode < 128, f"exit code {result.returncode}\n{result.stderr}"
        # MLIR shows the place below its error.
        lines = [line for line in result.stderr.splitlines() if "error:" in line or "cannot open" in line]
        assert len(lines) == 1, result.stderr
        for word in words:
            assert word in lines[0], f"expected '{word}' in: {lines[0]}"

    return run


@pytest.fixture
def hf(checkpoint, tmp_path):
    """A copy of a checkpoint, to spoil."""
    return shutil.copytree(checkpoint("llama"), tmp_path / "hf")


@pytest.fixture
def module(tool, checkpoint, tmp_path):
    tool("moe-translate", "--import-hf", checkpoint("llama"), "-o", tmp_path / "model.mlir")
    return tmp_path / "model.mlir"


@pytest.fixture
def tokens(tokens_file):
    return tokens_file(8)


def truncate_file(path):
    os.truncate(path, path.stat().st_size - 5)


def truncate_header(path):
    os.truncate(path, 100)


def enlarge_header(path):
    data = bytearray(path.read_bytes())
    data[:8] = struct.pack("<Q", 1 << 62)
    path.write_bytes(data)


def overlap(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    first, second = [key for key in header if key != "__metadata__"][:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


@pytest.mark.parametrize("spoil", [truncate_file, truncate_header, enlarge_header, overlap])
def test_broken_safetensors_are_refused(spoil, hf, refused, tmp_path):
    spoil(hf / "model.safetensors")
    refused(["model.safetensors"], "moe-translate", "--import-hf", hf, "-o", tmp_path / "x.mlir")
    assert not (tmp_path / "x.mlir").exists()


KEY = "model.layers.1.mlp.up_proj.weight"


def remove(tensors):
    del tensors[KEY]


def reshape(tensors):
    tensors[KEY] = tensors[KEY].T.contiguous()


def retype(tensors):
    tensors[KEY] = tensors[KEY].to(torch.int32)


def add(tensors):
    tensors[KEY + "s"] = tensors[KEY].clone()


@pytest.mark.parametrize("spoil", [remove, reshape, retype, add])
def test_wrong_tensors_are_refused(spoil, hf, refused, tmp_path):
    tensors = load_file(hf / "model.safetensors")
    spoil(tensors)
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    refused([KEY], "moe-translate", "--import-hf", hf, "-o", tmp_path / "x.mlir")
    assert not (tmp_path / "x.mlir").exists()


def test_weights_that_are_no_numbers_are_refused(hf, tool, refused, tokens, tmp_path):
    tensors = load_file(hf / "model.safetensors")
    tensors[KEY][3, 5] = torch.nan
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    tool("moe-translate", "--import-hf", hf, "-o", tmp_path / "model.mlir")
    refused([KEY, "finite"], "moe-run", "score", tmp_path / "model.mlir", "--tokens", tokens, "--out", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_checkpoint_that_changed_since_is_refused(hf, tool, refused, tokens, tmp_path):
    tool("moe-translate", "--import-hf", hf, "-o", tmp_path / "model.mlir")
    tensors = load_file(hf / "model.safetensors")
    remove(tensors)
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    refused([KEY], "moe-run", "score", tmp_path / "model.mlir", "--tokens", tokens, "--out", tmp_path / "s")
    (hf / "model.safetensors").unlink()
    refused(
        ["model.safetensors"], "moe-run", "score", tmp_path / "model.mlir", "--tokens", tokens, "--out", tmp_path / "s"
    )


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_act", "swish9"), ("model_type", "gpt7"), ("num_attention_heads", 5)]
)
def test_unknown_configuration_is_refused(key, value, hf, refused, tmp_path):
    config = json.loads((hf / "config.json").read_text()) | {key: value}
    (hf / "config.json").write_text(json.dumps(config))
    refused([key, "config.json"], "moe-translate", "--import-hf", hf, "-o", tmp_path / "x.mlir")


def test_malformed_ir_is_refused(module, refused, tokens, tmp_path):
    text = module.read_text()
    half = tmp_path / "half.mlir"
    half.write_text(text[: len(text) // 2])
    refused(["half.mlir"], "moe-run", "score", half, "--tokens", tokens, "--out", tmp_path / "s")
    refused(["half.mlir"], "moe-opt", half, "-o", tmp_path / "x.mlir")
    refused(["half.mlir"], "moe-translate", "--export-hf", half, "-o", tmp_path / "x")
    # Well-formed, but the embedding has another width than the layers.
    other = tmp_path / "other.mlir"
    other.write_text(text.replace("tensor<331x102xf32>", "tensor<331x100xf32>", 1))
    assert other.read_text() != text
    refused(["other.mlir"], "moe-opt", other, "-o", tmp_path / "x.mlir")
    # Not a model.
    empty = tmp_path / "empty.mlir"
    empty.write_text("module {}\n")
    refused(["empty.mlir"], "moe-run", "score", empty, "--tokens", tokens, "--out", tmp_path / "s")


def write_tokens(path, metadata=None, **changes):
    tensors = {
        "tokens": torch.full((4, 9), 7, dtype=torch.int32),
        "languages": torch.tensor([0, 1, 0, 1], dtype=torch.int32),
    } | changes
    save_file(
        {key: value for key, value in tensors.items() if value is not None},
        path,
        metadata=metadata or {"languages": "en,el", "rounds": "0,1"},
    )
    return path


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["331"], {"tokens": torch.full((4, 9), 331, dtype=torch.int32)}),
        (["-1"], {"tokens": torch.full((4, 9), -1, dtype=torch.int32)}),
        (["tokens"], {"tokens": None}),
        (["tokens"], {"tokens": torch.ones(4, 9)}),
        (["tokens"], {"tokens": torch.ones(4, dtype=torch.int32)}),
        (["languages"], {"languages": torch.tensor([0, 1, 2, 1], dtype=torch.int32)}),
        (["languages"], {"languages": None}),
        (["rounds"], {"metadata": {"languages": "en,el", "rounds": "0"}}),
    ],
    ids=["large", "negative", "missing", "float", "flat", "unknown-language", "no-languages", "rounds"],
)
def test_bad_tokens_are_refused(words, changes, module, refused, tmp_path):
    path = write_tokens(tmp_path / "bad.safetensors", **changes)
    refused(
        ["bad.safetensors", *words], "moe-run", "train", module, "--stage=dense", "--tokens", path,
        "--out", tmp_path / "run", "--steps=1", "--batch=2",
    )  # fmt: skip
    assert not (tmp_path / "run" / "checkpoints").exists() or not list((tmp_path / "run" / "checkpoints").iterdir())


def train(module, tokens, out):
    # LibTorch has nothing to compile.
    return ["train", module, "--stage=dense", "--tokens", tokens, "--out", out, "--batch=2", "--executor=torch"]  # fmt: skip


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_leaves_the_first_alone(module, tool, refused, tokens, tmp_path):
    run = tmp_path / "run"
    tool("moe-run", *train(module, tokens, run), "--steps=1")
    before = contents(run / "checkpoints")
    refused([str(run), "--resume"], "moe-run", *train(module, tokens, run), "--steps=1")
    # At the same time: the first one's lock is held.
    with open(run / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused([str(run)], "moe-run", *train(module, tokens, run), "--steps=1", "--resume")
    assert contents(run / "checkpoints") == before


def test_a_spoilt_checkpoint_is_passed_over(module, program, tool, tokens, tmp_path):
    """Training goes on from the one before, to the same end."""
    run = tmp_path / "run"
    options = [*train(module, tokens, run), "--steps=3", "--save-every=1"]
    tool("moe-run", *options)
    parameters = max((run / "checkpoints").iterdir()) / "parameters.safetensors"
    whole = parameters.read_bytes()
    parameters.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    command = [program("moe-run"), *map(str, options), "--resume"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"warning: {parameters}: expected checksum" in result.stderr
    assert parameters.read_bytes() == whole


def test_folders_that_cannot_be_written_are_named(module, refused, tokens, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    # A file is no folder, not even for root.
    refused([str(file)], "moe-run", *train(module, tokens, file / "run"), "--steps=1")
    refused([str(file)], "moe-run", "score", module, "--tokens", tokens, "--out", file / "s", "--executor=torch")
    refused([str(file)], "moe-translate", "--export-hf", module, "-o", file / "hf")
    refused([str(file)], "moe-opt", module, "-o", file / "x.mlir")


def test_a_full_disk_is_named(module, program, refused, tokens, tmp_path):
    # Files may grow to 256 KB: the weights do not fit.
    limit = ["bash", "-c", 'trap "" XFSZ; ulimit -f 256; exec "$@"', "limit"]
    command = [*limit, program("moe-run"), *map(str, train(module, tokens, tmp_path / "run")), "--steps=1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert 1 <= result.returncode < 128, result
    assert str(tmp_path / "run") in result.stderr.splitlines()[-1] and "error:" in result.stderr.splitlines()[-1]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert not list(checkpoints.glob("step-????????"))
