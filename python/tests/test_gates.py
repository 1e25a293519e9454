# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Language gates: both stages, both executors, transformers, generation."""

import json
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_training import OPTIONS, assert_same_training, export, last_checkpoint, losses

from polymoe import reference

pytestmark = pytest.mark.tools

POOLS = ["token", "causal-mean", "sequence-sum"]


@pytest.fixture(scope="module")
def gated(tool, checkpoint, upcycle, tmp_path_factory):
    """gated("gemma", "token") -> (dense module, mixture, mixture with gates)"""

    def make(family, pool, experts="experts=4", layers=None, **options):
        module = tmp_path_factory.mktemp(family) / "model.mlir"
        tool("moe-translate", "--import-hf", checkpoint(family, **options), "-o", module)
        moe = upcycle(module, experts)
        gates = moe.with_name("gates.mlir")
        some = f" layers={layers}" if layers else ""
        tool("moe-opt", moe, f"--moe-insert-language-gates=pool={pool} seed=3{some}", "-o", gates)
        return module, moe, gates

    return make


@pytest.fixture(scope="module")
def trained(gated, tool, tokens_file, tmp_path_factory):
    """trained("token") -> (dense module, run after a step of both stages)"""
    known = {}

    def make(pool, dtype="fp32"):
        if (pool, dtype) not in known:
            dense, _, gates = gated("qwen2", pool, "counts=3,1,4", dtype=dtype)
            run = tmp_path_factory.mktemp("run") / "run"
            step = ("--tokens", tokens_file(3), "--steps=1", "--batch=2", "--lr=1e-2", "--schedule=constant")
            tool("moe-run", "train", gates, "--stage=1", "--out", run, *step)
            tool("moe-run", "train", run, "--stage=2", *step)
            known[pool, dtype] = dense, run
        return known[pool, dtype]

    return make


def score(tool, model, tokens, out, *options):
    tool("moe-run", "score", model, "--tokens", tokens, "--out", out, "--logits", *options)
    return load_file(out)["logits"]


@pytest.mark.parametrize(
    "family, pool, experts, layers",
    [
        ("qwen3", "token", "experts=4", None),
        ("bloom", "causal-mean", "experts=4", "0,2"),
        ("qwen2", "sequence-sum", "counts=3,1,4", None),
    ],
)
def test_both_stages_train_as_libtorch_does(family, pool, experts, layers, gated, tool, tokens_file, tmp_path):
    _, moe, gates = gated(family, pool, experts, layers)
    tokens = tokens_file(40, length=13)
    compiled, other, plain = tmp_path / "compiled", tmp_path / "torch", tmp_path / "plain"
    # Gates that nothing has trained take no part in stage 1.
    tool("moe-run", "train", gates, "--stage=1", "--tokens", tokens, "--out", compiled, *OPTIONS)
    tool("moe-run", "train", moe, "--stage=1", "--tokens", tokens, "--out", plain, *OPTIONS)
    name = "parameters.safetensors"
    assert (last_checkpoint(compiled) / name).read_bytes() == (last_checkpoint(plain) / name).read_bytes()
    before = export(tool, compiled, tmp_path / "stage1-hf")
    assert not [key for key in before if "language_gate" in key]

    shutil.copytree(compiled, other)
    start = tmp_path / "start"
    shutil.copytree(compiled, start)
    tool("moe-run", "train", start, "--stage=2", "--tokens", tokens, "--steps=0")
    initial = load_file(last_checkpoint(start) / name)
    tool("moe-run", "train", compiled, "--stage=2", "--tokens", tokens, *OPTIONS)
    tool("moe-run", "train", other, "--stage=2", "--tokens", tokens, *OPTIONS, "--executor=torch")
    assert_same_training(compiled, other, initial, phase=1)
    lines = [json.loads(line) for line in (compiled / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["phase"] == 1]
    for line in lines:
        expected = line["next_token"] + 0.1 * line["language_prior"] + 0.1 * line["classifier"]
        assert line["loss"] == pytest.approx(expected, rel=1e-6)

    # Routers and gates moved, and nothing else.
    after = export(tool, compiled, tmp_path / "stage2-hf")
    changed = {key for key in after if key not in before or not torch.equal(before[key], after[key])}
    chosen = layers.split(",") if layers else [i for i in "012" if f".{i}.mlp.gate.weight" in " ".join(after)]
    routers = {key for key in after if key.endswith(".mlp.gate.weight")}
    prefixes = {key.rsplit(".mlp.", 1)[0] for key in routers if key.split(".")[2] in chosen}
    assert changed == routers | {f"{prefix}.mlp.language_gate.weight" for prefix in prefixes}


def test_untrained_gates_take_no_part_in_dense_training(gated, tool, tokens_file, tmp_path):
    _, moe, gates = gated("llama", "token")
    found = []
    for model in (moe, gates):
        run = tmp_path / model.stem
        tool("moe-run", "train", model, "--stage=dense", "--tokens", tokens_file(3), "--steps=1", "--batch=2",
             "--lr=1e-2", "--schedule=constant", "--out", run)  # fmt: skip
        found.append((last_checkpoint(run) / "parameters.safetensors").read_bytes())
    assert found[0] == found[1]


def test_stage_2_does_not_depend_on_threads(gated, tool, tokens_file, tmp_path):
    _, _, gates = gated("llama", "causal-mean", layers=None)
    tokens = tokens_file(40, length=37)
    found = []
    for threads in (1, 2, 4):
        run = tmp_path / str(threads)
        options = ("--stage=2", "--steps=4", "--batch=3", "--accumulate=2", "--lr=1e-2", f"--threads={threads}")
        tool("moe-run", "train", gates, "--tokens", tokens, "--out", run, *options)
        found.append((losses(run), (last_checkpoint(run) / "parameters.safetensors").read_bytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("pool", POOLS)
def test_export_gives_the_same_logits_in_transformers(pool, trained, tool, tokens_file, tmp_path):
    _, run = trained(pool)
    tokens = tokens_file(3)
    logits = score(tool, run, tokens, tmp_path / "scores")
    export(tool, run, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["polymoe_language_gates"] == [0, 2] and config["polymoe_gate_pool"] == pool
    expected = torch.cat(list(reference.score(reference.load(tmp_path / "hf"), reference.read_tokens(tokens))))
    assert (logits - expected).abs().max() / expected.std() <= 2e-5
    # LibTorch's, too; and the gates have a say.
    torch_logits = score(tool, run, tokens, tmp_path / "torch", "--executor=torch")
    assert (logits - torch_logits).abs().max() / expected.std() <= 2e-5
    forced = tmp_path / "hf" / "config.json"
    forced.write_text(json.dumps({k: v for k, v in config.items() if k != "polymoe_language_gates"}))
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if "language_gate" not in key}
    save_file(kept, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    without = torch.cat(list(reference.score(reference.load(tmp_path / "hf"), reference.read_tokens(tokens))))
    assert (without - expected).abs().max() / expected.std() > 1e-3


@pytest.mark.parametrize("pool", POOLS)
def test_export_is_imported_again(pool, trained, tool, tokens_file, tmp_path):
    _, run = trained(pool)
    export(tool, run, tmp_path / "hf")
    tool("moe-translate", "--import-hf", tmp_path / "hf", "-o", tmp_path / "again.mlir")
    before = score(tool, run, tokens_file(3), tmp_path / "before")
    assert torch.equal(before, score(tool, tmp_path / "again.mlir", tokens_file(3), tmp_path / "after"))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_all_tokens_old_is_the_dense_model_bit_for_bit(dtype, trained, tool, tokens_file, tmp_path):
    dense, run = trained("token", dtype)
    export(tool, run, tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(path)
    mixture = score(tool, run, tokens_file(3), tmp_path / "mixture", f"--dtype={dtype}")
    # A gate of zeros says old: the lower class wins a tie.
    for key in tensors:
        if "language_gate" in key:
            tensors[key].zero_()
    save_file(tensors, path, metadata={"format": "pt"})
    tool("moe-translate", "--import-hf", tmp_path / "hf", "-o", tmp_path / "old.mlir")
    expected = score(tool, dense, tokens_file(3), tmp_path / "dense", f"--dtype={dtype}")
    got = score(tool, tmp_path / "old.mlir", tokens_file(3), tmp_path / "old", f"--dtype={dtype}")
    assert torch.equal(got, expected)
    assert not torch.equal(mixture, expected)


@pytest.mark.parametrize("pool", POOLS[:2])
def test_a_cache_changes_no_text(pool, trained, tool):
    _, run = trained(pool)
    prompt = ("--prompt-tokens", "5,17,3,9,200", "--max-tokens", 40, "--temperature", 0)
    text = tool("moe-run", "generate", run, *prompt)
    assert text == tool("moe-run", "generate", run, *prompt, "--no-cache")
    assert len(text.split(",")) == 40


@pytest.mark.parametrize(
    ("pool", "dtype", "temperature"), [("token", "fp32", 0), ("causal-mean", "fp32", 0), ("causal-mean", "bf16", 0.9)]
)
def test_a_batch_changes_no_text(pool, dtype, temperature, trained, tool, tmp_path):
    """Prompts shorter and longer than the pieces that they are fed in, texts
    that end at different times, fewer rows than prompts."""
    _, run = trained(pool, dtype)
    lengths = [1, 7, 33, 70, 32, 5, 64]
    prompts = [[(7 * i + 3 * length) % 331 for i in range(length)] for length in lengths]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"tokens": prompt, "id": "x"}) + "\n" for prompt in prompts))
    options = ("--max-tokens=20", f"--temperature={temperature}", "--context=80")

    def texts(*more):
        printed = tool("moe-run", "generate", run, "--prompts", file, "--seed=3", "--json-lines", *options, *more)
        return [json.loads(line) for line in printed.splitlines()]

    got = texts("--batch=3")
    assert [text["index"] for text in got] == list(range(len(prompts)))
    assert [text["prompt_tokens"] for text in got] == lengths
    assert [len(text["tokens"]) for text in got] == [min(20, 80 - length) for length in lengths]
    assert [text["end"] for text in got] == ["context" if length > 60 else "max-tokens" for length in lengths]
    for more in (["--batch=1"], ["--no-cache"], ["--threads=1"]):
        assert texts(*more) == got
    for i in (1, 3):
        ids = ",".join(map(str, prompts[i]))
        alone = tool("moe-run", "generate", run, "--prompt-tokens", ids, f"--seed={3 + i}", *options)
        assert [int(token) for token in alone.split(",")] == got[i]["tokens"]
    if temperature == 0:
        assert texts("--executor=torch") == got


def test_a_prompt_fits_the_context(trained, program):
    _, run = trained("token")
    command = [program("moe-run"), "generate", str(run), "--prompt-tokens=1", "--prompt-tokens", ",".join(["2"] * 128)]
    result = subprocess.run([*command, "--max-tokens=1"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        "moe-run: error: --prompt-tokens number 2: expected fewer than 128 tokens, the context of the model, but got "
        "128\n"
    )
    # What the model was made for is no limit of ours.
    subprocess.run([*command, "--max-tokens=1", "--context=0"], check=True, capture_output=True)


def test_a_gate_that_pools_refuses_a_cache_in_transformers(trained, tool, tmp_path):
    _, run = trained("causal-mean")
    export(tool, run, tmp_path / "hf")
    model = reference.load(tmp_path / "hf")
    text = tool("moe-run", "generate", run, "--prompt-tokens", "5,17,3", "--max-tokens", 8, "--temperature", 0)
    assert reference.generate(model, [5, 17, 3], 8, cache=False) == [int(token) for token in text.split(",")]
    with pytest.raises(ValueError, match="use_cache=False"):
        reference.generate(model, [5, 17, 3], 8)


@pytest.mark.parametrize("option", [[], ["--no-cache"], ["--executor=torch"]])
def test_a_gate_that_looks_ahead_cannot_generate(option, trained, program):
    _, run = trained("sequence-sum")
    command = [program("moe-run"), "generate", str(run), "--prompt-tokens", "5,17,3", *option]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        "moe-run: error: moe.pool: expected language gates that look back, but sequence_sum looks at the whole "
        "sequence, which generation does not know; moe-insert-language-gates with pool=token or pool=causal-mean "
        "can generate\n"
    )


def test_a_classifier_needs_gates(gated, program, tokens_file, tmp_path):
    _, moe, _ = gated("llama", "token")
    command = [program("moe-run"), "train", moe, "--stage=2", "--steps=1", "--batch=1", "--tokens", tokens_file(3)]
    command += ["--out", tmp_path / "run", "--classifier=0.2"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 1
    assert "error: --classifier: expected a model with language gates, but" in result.stderr
