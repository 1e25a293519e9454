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


@pytest.fixture
def run(hf, tool, upcycle, tokens, tmp_path):
    """A run on the copy of the checkpoint."""
    tool("moe-translate", "--import-hf", hf, "-o", tmp_path / "model.mlir")
    moe = upcycle(tmp_path / "model.mlir", "experts=2")
    out = tmp_path / "run"
    tool("moe-run", "train", moe, "--stage=1", "--tokens", tokens, "--out", out, *RUN)
    return out


RUN = ("--steps=1", "--batch=2", "--executor=torch")


def replace_base(hf):
    """Other weights of the same shapes, and of the same time."""
    path = hf / "model.safetensors"
    before = path.stat()
    tensors = load_file(path)
    tensors[KEY][0, 0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_base_that_changed_under_a_run_is_refused(run, hf, refused, tokens, tmp_path):
    replace_base(hf)
    words = ["model.safetensors", KEY, "checksum"]
    score = ["--tokens", tokens, "--out", tmp_path / "s"]
    refused(words, "moe-run", "score", run, *score)
    refused(words, "moe-run", "score", run / "model.mlir", *score)
    refused(words, "moe-run", "generate", run, "--prompt-tokens=1")
    refused(words, "moe-run", "train", run, "--stage=2", "--tokens", tokens, *RUN)
    refused(words, "moe-run", "train", run, "--resume", "--tokens", tokens)
    refused(words, "moe-run", "train", run, "--stage=1", "--tokens", tokens, "--out", tmp_path / "other", *RUN)
    refused(words, "moe-translate", "--export-hf", run, "-o", tmp_path / "x")
    refused(words, "moe-translate", "--export-delta", run, "-o", tmp_path / "x")
    assert not (tmp_path / "s").exists() and not (tmp_path / "x").exists()


def test_a_configuration_that_changed_under_a_run_is_refused(run, hf, refused, tokens, tmp_path):
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    refused(["config.json", "configuration", "began with"], "moe-translate", "--export-hf", run, "-o", tmp_path / "x")
    refused(["config.json", "configuration", "began with"], "moe-run", "train", run, "--resume", "--tokens", tokens)


def test_a_base_that_was_only_touched_or_copied_is_taken(run, hf, tool, tokens, tmp_path):
    path = hf / "model.safetensors"
    os.utime(path)
    before = (run / "base.json").read_text()
    tool("moe-run", "train", run, "--stage=2", "--tokens", tokens, *RUN)
    # The new times are noted, lest the whole base is read again each time.
    noted = (run / "base.json").read_text()
    assert noted != before
    tool("moe-run", "inspect", run)
    assert (run / "base.json").read_text() == noted
    shutil.copyfile(path, hf / "copy")
    os.replace(hf / "copy", path)
    tool("moe-translate", "--export-hf", run, "-o", tmp_path / "x")


def test_the_base_of_a_merged_delta_may_not_change(run, hf, tool, refused, tokens, tmp_path):
    tool("moe-translate", "--export-delta", run, "-o", tmp_path / "delta")
    tool("moe-translate", "--merge-delta", tmp_path / "delta", "--base", hf, "-o", tmp_path / "merged")
    tool("moe-run", "score", tmp_path / "merged", "--tokens", tokens, "--out", tmp_path / "s", "--executor=torch")
    replace_base(hf)
    refused([KEY], "moe-run", "score", tmp_path / "merged", "--tokens", tokens, "--out", tmp_path / "s")


DEEP = "[" * 200_000 + "]" * 200_000


def test_deeply_nested_json_is_refused(hf, run, refused, tokens, tmp_path):
    words = ["512 levels"]
    config = hf / "config.json"
    whole = config.read_text()
    config.write_text(whole.rstrip()[:-1] + f', "more": {DEEP}}}')
    refused([*words, "config.json"], "moe-translate", "--import-hf", hf, "-o", tmp_path / "x.mlir")
    config.write_text(whole)
    tokenizer = tmp_path / "run" / "tokenizer.json"
    tokenizer.write_text(f'{{"model": {{"merges": {DEEP}}}}}')
    refused([*words, str(tokenizer)], "moe-run", "generate", run, "--prompt=a")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "corpus.json").write_text(f'{{"more": {DEEP}}}')
    refused([*words, "corpus.json"], "moe-run", "eval", run, "--data", tmp_path / "corpus")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(f'{{"tokens": [1], "more": {DEEP}}}\n')
    refused(["prompts.jsonl:1"], "moe-run", "generate", run, "--prompts", prompts)
    os.rename(hf / "model.safetensors", hf / "model-00001-of-00001.safetensors")
    (hf / "model.safetensors.index.json").write_text(f'{{"weight_map": {DEEP}}}')
    refused([*words, "index.json"], "moe-translate", "--import-hf", hf, "-o", tmp_path / "x.mlir")


def test_long_lines_are_cut_in_errors(hf, run, program, tmp_path):
    """Whatever in a file is long: a line, a value, a key, what is no JSON."""

    def error(*command):
        result = subprocess.run([program(command[0]), *map(str, command[1:])], capture_output=True, text=True)
        assert result.returncode == 1
        assert len(result.stderr) < 6000, len(result.stderr)
        return result.stderr

    long = "é" * 1_500_000
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"promt": long}, ensure_ascii=False) + "\n")
    stderr = error("moe-run", "generate", run, "--prompts", prompts)
    assert len(stderr) < 600 and "prompts.jsonl:1" in stderr and "(3000013 bytes)" in stderr
    whole = (hf / "config.json").read_text()
    for spoilt in (f'"{long}": 1', f'"hidden_act": "{long}"', f'"more": "{long}'):
        (hf / "config.json").write_text(whole.rstrip()[:-1] + f", {spoilt}}}")
        assert "config.json" in error("moe-translate", "--import-hf", hf, "-o", tmp_path / "x.mlir")


def test_too_many_experts_are_refused(module, refused, tmp_path):
    refused(["1024", "100000"], "moe-opt", module, "--moe-upcycle=experts=100000", "-o", tmp_path / "x.mlir")


def test_a_checkpoint_folder_is_no_module(hf, refused, tokens, tmp_path):
    words = [str(hf), "moe-translate --import-hf"]
    refused(words, "moe-run", "score", hf, "--tokens", tokens, "--out", tmp_path / "s")
    refused(words, "moe-translate", "--export-hf", hf, "-o", tmp_path / "x")


def test_chat_messages_are_named(run, refused, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"messages": [{"role": "user", "content": "Hello"}]}\n')
    refused(["prompts.jsonl:1", "apply_chat_template"], "moe-run", "generate", run, "--prompts", prompts)


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


@pytest.fixture
def tokenizer_folder(tmp_path):
    """tokenizer_folder(letters): a tokenizer whose ids follow their order."""
    from tokenizers import Tokenizer, models

    def make(letters):
        folder = tmp_path / f"tokenizer-{letters[:2]}"
        folder.mkdir()
        model = models.BPE({letter: i for i, letter in enumerate(letters)}, [], unk_token=letters[0])
        Tokenizer(model).save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": letters[-1]}))
        return folder

    return make


LETTERS = "abcdefghijklmnopqrstuvwxyz ."


def test_a_corpus_of_another_tokenizer_is_refused(tokenizer_folder, documents, tool, refused, tmp_path):
    from polymoe.files import write_documents
    from polymoe.new_model import new_model
    from polymoe.tokenize import tokenize

    def corpus(folder, out):
        tokenize([tmp_path / "en.jsonl"], folder, {"en": 0}, tmp_path / out, split="60/40/0", jobs=1)
        return tmp_path / out

    write_documents(tmp_path / "en.jsonl", documents["en"])
    own, other = tokenizer_folder(LETTERS), tokenizer_folder(LETTERS[::-1])
    same, different = corpus(own, "same"), corpus(other, "different")
    hf = tmp_path / "hf"
    new_model("llama", hf, odd=True, tokenizer=own)
    module = tmp_path / "model.mlir"
    tool("moe-translate", "--import-hf", hf, "-o", module)
    # The same in another form: spaces, what later versions write, truncation.
    json_file = same / "tokenizer.json"
    contents = json.loads(json_file.read_text())
    contents["model"].pop("ignore_merges", None)
    contents["truncation"] = {"max_length": 3}
    json_file.write_text(json.dumps(contents, indent=7))

    train = ["--stage=dense", "--steps=1", "--batch=2", "--sequence=8", "--executor=torch"]
    evaluate = ["--split=train", "--sequence=8", "--executor=torch"]
    words = [str(different / "tokenizer.json"), str(hf / "tokenizer.json"), "28 of 28", "--allow-other-tokenizer"]
    refused(words, "moe-run", "train", module, "--data", different, "--out", tmp_path / "x", *train)
    refused(words, "moe-run", "eval", module, "--data", different, *evaluate)
    assert not (tmp_path / "x" / "run.json").exists()
    tool("moe-run", "train", module, "--data", same, "--out", tmp_path / "run", *train)
    tool("moe-run", "eval", module, "--data", different, *evaluate, "--allow-other-tokenizer")
    # The run's own tokenizer.
    words[1] = str(tmp_path / "run" / "tokenizer.json")
    refused(words, "moe-run", "train", tmp_path / "run", "--data", different, *train)
    # The tokens alone may be the same.
    contents["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    json_file.write_text(json.dumps(contents))
    refused([str(json_file), "pre_tokenizer"], "moe-run", "eval", module, "--data", same, *evaluate)


def test_rows_beyond_the_context_are_warned_of(hf, program, tool, tokens, tmp_path):
    for limit, is_warned in ((37, False), (36, True)):
        config = json.loads((hf / "config.json").read_text()) | {"max_position_embeddings": limit}
        (hf / "config.json").write_text(json.dumps(config))
        module = tmp_path / f"{limit}.mlir"
        tool("moe-translate", "--import-hf", hf, "-o", module)
        command = [program("moe-run"), *map(str, train(module, tokens, tmp_path / f"run-{limit}")), "--steps=1"]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        assert ("warning: rows of 37 tokens are longer than the 36" in result.stderr) == is_warned
