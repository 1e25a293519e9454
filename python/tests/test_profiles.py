# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Profiles against their definitions on what transformers computes, and the
expansions that they decide."""

import json
import subprocess

import numpy
import pytest
import torch
from safetensors.numpy import save_file

from polymoe import reference

pytestmark = pytest.mark.tools

VOCABULARY, EOS, LENGTH = 331, 0, 21
ROUNDS = {"en": 0, "es": 0, "el": 1, "hu": 1, "bn": 2}
Q = 500  # tokens of each language


def documents(language):
    """25 documents whose tokens come from a range of the language's own."""
    generator = numpy.random.default_rng(list(ROUNDS).index(language))
    first = 1 + 50 * list(ROUNDS).index(language)
    texts = generator.integers(first, first + 80, size=(Q // (LENGTH - 1), LENGTH), dtype=numpy.int32)
    texts[:, -1] = EOS
    return texts


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """corpus(["en", "el"]) -> corpus folder"""

    def make(languages):
        folder = tmp_path_factory.mktemp("corpus")
        index = {
            "format": "polymoe-corpus",
            "version": 1,
            "vocabulary": VOCABULARY,
            "eos": EOS,
            "languages": [{"code": code, "round": ROUNDS[code]} for code in languages],
            "shards": [],
        }
        for code in languages:
            texts = documents(code)
            tensors = {
                "tokens": texts.reshape(-1),
                "documents": numpy.arange(len(texts) + 1, dtype=numpy.int64) * LENGTH,
                "bytes": numpy.full(len(texts), 3 * LENGTH, dtype=numpy.int64),
            }
            save_file(tensors, folder / f"train-{code}.safetensors")
            index["shards"].append(
                {"file": f"train-{code}.safetensors", "split": "train", "language": code, "documents": len(texts),
                 "tokens": texts.size}
            )  # fmt: skip
        (folder / "corpus.json").write_text(json.dumps(index))
        return folder

    return make


@pytest.fixture(scope="module")
def imported(tool, checkpoint, tmp_path_factory):
    """imported("bloom") -> (Hugging Face folder, module)"""

    def make(family, **options):
        module = tmp_path_factory.mktemp(family) / "model.mlir"
        folder = checkpoint(family, **options)
        tool("moe-translate", "--import-hf", folder, "-o", module)
        return folder, module

    return make


def profile(tool, kind, model, corpus, out, *options):
    tool("moe-run", "profile", kind, model, "--data", corpus, "-o", out, "--sequence=32", *options)
    return json.loads(out.read_text())


def ffn_inputs(model, tokens):
    """What the FFN of each layer reads, [layers][documents, tokens, width]."""
    layers = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    inputs = []
    hooks = [layer.mlp.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in layers]
    with torch.no_grad():
        model(torch.from_numpy(tokens[:, :-1]).long())
    for hook in hooks:
        hook.remove()
    return inputs


@pytest.mark.parametrize("family", ["llama", "bloom", "olmo2", "cohere"])
def test_similarity_is_the_mean_cosine_over_all_pairs(family, imported, corpus, tool, tmp_path):
    folder, module = imported(family)
    languages = ["en", "el", "hu"]
    measured = profile(tool, "similarity", module, corpus(languages), tmp_path / "sim.json")
    assert [own["tokens"] for own in measured["languages"]] == [Q] * 3
    model = reference.load(folder)
    hidden = {code: ffn_inputs(model, documents(code)) for code in languages}
    assert len(measured["layers"]) == len(hidden["en"])
    for layer, matrix in enumerate(measured["layers"]):
        for a, row in zip(languages, matrix, strict=True):
            for b, got in zip(languages, row, strict=True):
                x, y = (hidden[code][layer].flatten(0, 1).double() for code in (a, b))
                cosines = torch.nn.functional.cosine_similarity(x[:, None], y[None, :], dim=-1)
                assert cosines.shape == (Q, Q)
                assert got == pytest.approx(cosines.mean().item(), abs=1e-6)


def test_routing_counts_what_the_exported_model_chooses(imported, upcycle, corpus, tool, tmp_path):
    _, module = imported("qwen2")
    moe = upcycle(module, "counts=3,1,4")
    tool("moe-translate", "--export-hf", moe, "-o", tmp_path / "hf")
    measured = profile(tool, "routing", moe, corpus(["en", "el"]), tmp_path / "load.json")
    model = reference.load(tmp_path / "hf")
    assert [layer["layer"] for layer in measured["layers"]] == [0, 2]
    for code, shares in (("en", 0), ("el", 1)):
        hidden = ffn_inputs(model, documents(code))
        for layer in measured["layers"]:
            experts = model.model.layers[layer["layer"]].mlp
            logits = experts.gate(hidden[layer["layer"]].flatten(0, 1))
            chosen = logits.softmax(-1).topk(experts.top_k).indices
            expected = torch.bincount(chosen.flatten(), minlength=logits.shape[1]).double() / chosen.numel()
            assert layer["load"][shares] == pytest.approx(expected.tolist(), abs=1e-12)
            bits = -(expected * expected.clamp_min(1e-300).log2()).sum().item()
            assert layer["entropy"][shares] == pytest.approx(bits, abs=1e-9)


def test_perplexity_is_that_of_each_expert_alone(imported, upcycle, corpus, tool, program, tmp_path):
    _, module = imported("llama")
    moe = upcycle(module, "counts=1,3,3")
    run = tmp_path / "run"
    data = corpus(["en", "el"])
    train = ("--data", data, "--steps=2", "--batch=2", "--sequence=16", "--lr=1e-2", "--schedule=constant")
    tool("moe-run", "train", moe, "--stage=1", "--out", run, *train)
    where = ("--data", data, "--split=train", "--sequence=32")
    tool("moe-run", "profile", "perplexity", run, *where, "-o", tmp_path / "p.json")
    measured = json.loads((tmp_path / "p.json").read_text())
    assert [expert["expert"] for expert in measured["experts"]] == [0, 1, 2]
    for expert in measured["experts"]:
        forced = run / "forced.mlir"
        tool("moe-opt", run / "model.mlir", f"--moe-force-expert=expert={expert['expert']}", "-o", forced)
        tool("moe-run", "eval", forced, *where, "--json", tmp_path / "e.json")
        assert json.loads((tmp_path / "e.json").read_text())["languages"] == expert["languages"]
    # Expert 0 is the dense model.
    tool("moe-run", "eval", module, *where, "--json", tmp_path / "e.json")
    dense = json.loads((tmp_path / "e.json").read_text())["languages"]
    assert dense == measured["experts"][0]["languages"] != measured["experts"][1]["languages"]

    for model, message in ((module, "expected a model with experts"), (upcycle(module, "counts=1,2,3"), "2 and 3")):
        command = [program("moe-run"), "profile", "perplexity", model, *where, "-o", tmp_path / "x.json"]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert result.returncode == 1 and message in result.stderr


def test_a_profile_is_the_same_for_any_batch_and_goes_on(imported, corpus, tool, program, tmp_path):
    _, module = imported("llama")
    data = corpus(["en", "es", "el"])
    measured = profile(tool, "similarity", module, data, tmp_path / "a.json", "--batch=8", "--threads=1")
    assert measured == profile(tool, "similarity", module, data, tmp_path / "b.json", "--batch=8", "--threads=2")
    # What an interrupted measurement has left is read.
    partial = {"measurement": {"format": "other"}, "languages": {}}
    (tmp_path / "c.json.partial").write_text(json.dumps(partial))
    assert measured == profile(tool, "similarity", module, data, tmp_path / "c.json", "--batch=8")
    assert not (tmp_path / "c.json.partial").exists()
    torch_ = [program("moe-run"), "profile", "similarity", module, "--data", data, "-o", tmp_path / "d.json"]
    result = subprocess.run([*map(str, torch_), "--executor=torch"], capture_output=True, text=True)
    assert result.returncode == 1
    assert "error: --executor: expected compiled code to profile, but got torch" in result.stderr


def routers(tool, module):
    """{layer: experts}, from what moe-opt prints."""
    found = {}
    for line in module.read_text().splitlines():
        if " router @" in line:
            layer = int(line.split("layers.")[1].split(".")[0])
            found[layer] = int(line.split("tensor<")[1].split("x")[0])
    return found


def test_two_rounds_of_layer_moe(imported, corpus, tool, tokens_file, tmp_path):
    """Profile, allocation, gates, both stages; then the same over the mixture."""
    _, module = imported("llama")
    step = ("--steps=2", "--batch=2", "--lr=1e-3", "--schedule=constant")

    profile(tool, "similarity", module, corpus(["en", "es", "el", "hu"]), tmp_path / "sim1.json")
    moe = tmp_path / "moe1.mlir"
    tool("moe-opt", module, f"--moe-allocate-experts=profile={tmp_path / 'sim1.json'} budget=5",
         f"--moe-insert-language-gates=profile={tmp_path / 'sim1.json'} most-similar=1", "--moe-freeze-backbone",
         "-o", moe)  # fmt: skip
    first = routers(tool, moe)
    assert 0 < sum(first.values()) - len(first) <= 5
    run = tmp_path / "round1"
    data = tokens_file(8)
    tool("moe-run", "train", moe, "--stage=1", "--tokens", data, "--out", run, *step)
    tool("moe-run", "train", run, "--stage=2", "--tokens", data, *step)
    before = score(tool, run, data, tmp_path / "round1.scores")

    # The first round's model is profiled with all languages, and only the last round counts as new.
    profile(tool, "similarity", run, corpus(list(ROUNDS)), tmp_path / "sim2.json")
    again = run / "round2.mlir"
    tool("moe-opt", run / "model.mlir", f"--moe-allocate-experts=profile={tmp_path / 'sim2.json'} budget=4 seed=1",
         "--moe-freeze-backbone", "-o", again)  # fmt: skip
    second = routers(tool, again)
    assert 0 < sum(second.values()) - sum(first.values()) <= 4 + (len(second) - len(first))
    second_run = tmp_path / "round2"
    tool("moe-run", "train", again, "--stage=1", "--tokens", data, "--out", second_run, *step)
    tool("moe-run", "train", second_run, "--stage=2", "--tokens", data, *step)
    after = score(tool, second_run, data, tmp_path / "round2.scores")
    assert not torch.equal(before, after)

    # What the first round trained beside routers and gates is as it was.
    old, new = (trained(tool, folder, tmp_path / f"{folder.name}-delta") for folder in (run, second_run))
    kept = [key for key in old if not key.endswith("gate.weight")]
    assert len(kept) == 3 * (sum(first.values()) - len(first))
    assert all(torch.equal(old[key], new[key]) for key in kept)
    assert len(new) > len(old)


def score(tool, model, tokens, out):
    from safetensors.torch import load_file

    tool("moe-run", "score", model, "--tokens", tokens, "--out", out, "--logits")
    return load_file(out)["logits"]


def trained(tool, run, out):
    """The values that no base checkpoint has, by parameter name."""
    from safetensors.torch import load_file

    tool("moe-translate", "--export-delta", run, "-o", out)
    return load_file(out / "delta.safetensors")
