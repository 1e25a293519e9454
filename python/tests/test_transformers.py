# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The tools against transformers, for every family, on random odd models.

Each test imports a checkpoint that `polymoe new-model` made and compares what
the compiled model computes with what transformers computes.
"""

import dataclasses
import functools
import json
import pathlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from polymoe import reference
from polymoe.new_model import FAMILIES


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    family: str
    options: tuple = ()


CASES = [
    Case(
        "llama3-sharded-v4", "llama", (("rope_scaling", "llama3"), ("config_form", "v4"), ("max_shard_size", "200KB"))
    ),
    Case("llama-linear", "llama", (("rope_scaling", "linear"), ("tie", True))),
    Case("llama-dynamic", "llama", (("rope_scaling", "dynamic"),)),
    Case("llama-longrope", "llama", (("rope_scaling", "longrope"),)),
    Case("qwen2-yarn-v4", "qwen2", (("rope_scaling", "yarn"), ("config_form", "v4"))),
    Case("qwen3-v4", "qwen3", (("config_form", "v4"), ("seed", 1))),
    *(Case(family, family) for family in FAMILIES),
]
PLAIN = [case for case in CASES if not case.options]

pytestmark = pytest.mark.tools

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_family = pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)

VOCABULARY = 331


@pytest.fixture(scope="module")
def tokens(tokens_file):
    return tokens_file(3)


@pytest.fixture(scope="module")
def imported(tool, checkpoint, tmp_path_factory):
    """imported(case) -> (checkpoint, model.mlir)"""

    @functools.cache
    def make(case, dtype="fp32"):
        folder = checkpoint(case.family, dtype, **dict(case.options))
        module = tmp_path_factory.mktemp(case.name) / f"{case.name}-{dtype}.mlir"
        tool("moe-translate", "--import-hf", folder, "-o", module)
        return folder, module

    return make


@pytest.fixture(scope="module")
def score(tool, tokens, tmp_path_factory):
    """score(model) -> (logprobs, logits) of moe-run, which compiles for seconds:
    each model once."""

    @functools.cache
    def run(model):
        out = tmp_path_factory.mktemp("scores") / "scores.safetensors"
        tool("moe-run", "score", model, "--tokens", tokens, "--out", out, "--logits")
        scores = load_file(out)
        return scores["logprobs"], scores["logits"]

    return run


def expected_logits(folder, tokens, dtype="fp32"):
    model = reference.load(folder, dtype)
    return torch.cat(list(reference.score(model, reference.read_tokens(tokens))))


def assert_close(got, expected, bound):
    """The largest difference, in standard deviations of what is expected."""
    assert got.shape == expected.shape
    error = (got.double() - expected.double()).abs().max() / expected.double().std()
    assert error <= bound, f"largest error {error:.2e} of the standard deviation, expected at most {bound:.0e}"


def root_mean_square(values):
    return values.double().square().mean().sqrt()


@every_case
def test_fp32_logits_equal_transformers(case, imported, score, tokens):
    folder, module = imported(case)
    logprobs, logits = score(module)
    expected = expected_logits(folder, tokens)
    assert_close(logits, expected, 2e-5)
    assert_close(logprobs, reference.logprobs(expected, reference.read_tokens(tokens)), 2e-5)


@every_family
def test_bf16_errs_little_more_than_transformers(case, imported, score, tokens):
    folder, module = imported(case, "bf16")
    _, logits = score(module)
    exact = expected_logits(folder, tokens, "fp32")
    theirs = root_mean_square(expected_logits(folder, tokens, "bf16") - exact)
    ours = root_mean_square(logits.float() - exact)
    assert ours <= 1.5 * theirs, f"rms error {ours:.2e}, transformers' {theirs:.2e}"


@every_family
def test_greedy_generation_equals_transformers(case, imported, tool):
    assert_same_text(tool, *imported(case), [5, 17, 3])


# Rows are padded to 64 tokens, of which this prompt leaves 63: one program.
@every_family
def test_greedy_generation_without_cache_equals_transformers(case, imported, tool):
    assert_same_text(tool, *imported(case), [5], "--no-cache")


def assert_same_text(tool, folder, module, prompt, *options):
    printed = tool(
        "moe-run", "generate", module, "--prompt-tokens", ",".join(map(str, prompt)),
        "--max-tokens", 64, "--temperature", 0, *options,
    )  # fmt: skip
    got = [int(item) for item in printed.strip().split(",")]
    assert got == reference.generate(reference.load(folder), prompt, 64)


@every_family
def test_mixture_equals_dense_at_init(case, imported, score, upcycle):
    _, module = imported(case)
    logprobs, logits = score(module)
    moe_logprobs, moe_logits = score(upcycle(module))
    assert_close(moe_logits, logits, 1e-5)
    assert_close(moe_logprobs, logprobs, 1e-5)


@every_family
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_forced_expert_0_is_the_dense_model_bit_for_bit(case, dtype, imported, score, tool, upcycle, tmp_path):
    _, module = imported(case, dtype)
    forced = tmp_path / "forced.mlir"
    tool("moe-opt", upcycle(module), "--moe-force-expert=expert=0", "-o", forced)
    for dense, mixture in zip(score(module), score(forced), strict=True):
        assert torch.equal(dense, mixture)


@dataclasses.dataclass(frozen=True)
class Export:
    case: Case
    run: pathlib.Path  # what was trained
    folder: pathlib.Path  # the exported checkpoint


# Mixtures of equal layers, some of which are Mixtrals, and one with a dense
# layer between mixtures, which no architecture of transformers has.
EXPORTS = [(case, "experts=4") for case in PLAIN] + [
    (case, "counts=3,1,4") for case in PLAIN if case.family in ("mistral", "qwen2")
]


@pytest.fixture(scope="module", params=EXPORTS, ids=lambda param: f"{param[0].name}-{param[1]}")
def export(request, imported, tool, tokens, upcycle, tmp_path_factory):
    """A mixture after a step of stage 1, so that experts are not alike."""
    case, experts = request.param
    _, module = imported(case)
    folder = tmp_path_factory.mktemp("export")
    tool(
        "moe-run", "train", upcycle(module, experts), "--stage=1", "--tokens", tokens, "--out", folder / "run",
        "--steps=1", "--batch=2", "--lr=1e-2", "--schedule=constant",
    )  # fmt: skip
    tool("moe-translate", "--export-hf", folder / "run", "-o", folder / "hf")
    return Export(case, folder / "run", folder / "hf")


# Families whose mixtures of equal layers are Mixtrals.
MIXTRALS = ("llama", "mistral", "ministral")


def is_mixtral(folder):
    return json.loads((folder / "config.json").read_text())["model_type"] == "mixtral"


def test_export_gives_the_same_logits_in_transformers(export, score, tokens):
    _, logits = score(export.run)
    assert_close(logits, expected_logits(export.folder, tokens), 2e-5)


def test_export_is_imported_again(export, score, tool, tmp_path):
    tool("moe-translate", "--import-hf", export.folder, "-o", tmp_path / "again.mlir")
    for before, after in zip(score(export.run), score(tmp_path / "again.mlir"), strict=True):
        assert torch.equal(before, after)


def test_export_names_its_architecture(export, request):
    config = json.loads((export.folder / "config.json").read_text())
    equal = request.node.callspec.params["export"][1] == "experts=4"
    if equal and export.case.family in MIXTRALS:
        assert config["model_type"] == "mixtral" and config["num_local_experts"] == 4
    else:
        assert config["model_type"] == f"polymoe_{export.case.family}"
        assert config["polymoe_experts"] == ([4, 4, 4] if equal else [3, 1, 4])


def test_export_keeps_what_was_frozen(export, imported):
    before, after = tensors_of(imported(export.case)[0]), tensors_of(export.folder)
    mixtral = is_mixtral(export.folder)
    for key, value in before.items():
        # A layer with one expert is a dense one.
        name = key if key in after else expert_key(key, 0, mixtral)
        assert torch.equal(after[name], value), key
    # Trained experts have moved away from the original.
    changed = [
        key
        for key in before
        if (name := expert_key(key, 1, mixtral)) != key and name in after and not torch.equal(after[name], before[key])
    ]
    assert changed


def test_untrained_dense_export_is_the_checkpoint(imported, tool, tokens, tmp_path):
    folder, module = imported(Case("llama", "llama"))
    tool("moe-run", "train", module, "--stage=dense", "--tokens", tokens, "--out", tmp_path / "run", "--steps=0")
    tool("moe-translate", "--export-hf", tmp_path / "run", "-o", tmp_path / "hf")
    before, after = tensors_of(folder), tensors_of(tmp_path / "hf")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("packed", [False, True], ids=["per-expert", "packed"])
def test_mixtral_logits_equal_transformers(packed, score, tool, tokens, tmp_path):
    folder = tmp_path / "hf"
    write_mixtral(folder, packed)
    tool("moe-translate", "--import-hf", folder, "-o", tmp_path / "mixtral.mlir")
    _, logits = score(tmp_path / "mixtral.mlir")
    if packed:
        # transformers writes per-expert keys itself: load those.
        folder = tmp_path / "written-by-transformers"
        write_mixtral(folder, packed=False)
    assert_close(logits, expected_logits(folder, tokens), 2e-5)


def write_mixtral(folder, packed):
    import transformers

    torch.manual_seed(3)
    config = transformers.MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=102, intermediate_size=150, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=22, num_local_experts=5, num_experts_per_tok=2, initializer_range=0.1,
        max_position_embeddings=128, sliding_window=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(folder)
    if packed:
        save_file(
            {key: value.contiguous() for key, value in model.state_dict().items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )


def tensors_of(folder):
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def expert_key(key, index, mixtral):
    """Where a tensor of the dense checkpoint lies in the mixture."""
    block = ".shared_mlp." if ".shared_mlp." in key else ".mlp."
    if block not in key:
        return key
    if not mixtral:
        return key.replace(block, f"{block}experts.{index}.")
    layer, projection = key.split(".mlp.")
    name = {"gate_proj.weight": "w1", "down_proj.weight": "w2", "up_proj.weight": "w3"}[projection]
    return f"{layer}.block_sparse_moe.experts.{index}.{name}.weight"
