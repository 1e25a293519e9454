# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The tools against transformers, for every family, on random odd models.

Each test imports a checkpoint that `polymoe new-model` made and compares what
the compiled model computes with what transformers computes.
"""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from polymoe import reference


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    family: str
    options: tuple = ()


CASES = [
    Case("llama", "llama"),
    Case(
        "llama3-sharded-v4", "llama", (("rope_scaling", "llama3"), ("config_form", "v4"), ("max_shard_size", "200KB"))
    ),
    Case("llama-linear", "llama", (("rope_scaling", "linear"), ("tie", True))),
    Case("mistral", "mistral"),
    Case("qwen2", "qwen2"),
    Case("qwen3", "qwen3"),
    Case("qwen3-v4", "qwen3", (("config_form", "v4"), ("seed", 1))),
    Case("gemma", "gemma"),
    Case("bloom", "bloom"),
]
FAMILIES = [case for case in CASES if not case.options]

pytestmark = pytest.mark.tools

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_family = pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)

VOCABULARY, ROWS, LENGTH = 331, 3, 37


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A tokens file of an old and a new language, longer than mistral's window."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.safetensors"
    generator = torch.Generator().manual_seed(7)
    save_file(
        {
            "tokens": torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=generator, dtype=torch.int32),
            "languages": torch.tensor([0, 1, 1], dtype=torch.int32),
        },
        path,
        metadata={"languages": "en,el", "rounds": "0,1"},
    )
    return path


@pytest.fixture
def imported(tool, checkpoint, tmp_path):
    """imported(case) -> (checkpoint, model.mlir)"""

    def make(case, dtype="fp32"):
        folder = checkpoint(case.family, dtype, **dict(case.options))
        module = tmp_path / f"{case.name}-{dtype}.mlir"
        tool("moe-translate", "--import-hf", folder, "-o", module)
        return folder, module

    return make


@pytest.fixture
def score(tool, tokens, tmp_path):
    """score(model) -> (logprobs, logits) of moe-run"""

    def run(model, *options):
        out = tmp_path / "scores.safetensors"
        tool("moe-run", "score", model, "--tokens", tokens, "--out", out, "--logits", *options)
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


@every_case
@pytest.mark.parametrize("options", [(), ("--no-cache",)], ids=["cache", "no-cache"])
def test_greedy_generation_equals_transformers(case, options, imported, tool):
    folder, module = imported(case)
    prompt = [5, 17, 3]
    printed = tool(
        "moe-run", "generate", module, "--prompt-tokens", ",".join(map(str, prompt)),
        "--max-tokens", 64, "--temperature", 0, *options,
    )  # fmt: skip
    got = [int(item) for item in printed.strip().split(",")]
    assert got == reference.generate(reference.load(folder), prompt, 64)


def upcycle(tool, module, experts="experts=4"):
    moe = module.with_name(f"moe-{module.name}")
    tool("moe-opt", module, f"--moe-upcycle={experts} top-k=2 seed=0", "--moe-freeze-backbone", "-o", moe)
    return moe


@every_case
def test_mixture_equals_dense_at_init(case, imported, score, tool):
    _, module = imported(case)
    logprobs, logits = score(module)
    moe_logprobs, moe_logits = score(upcycle(tool, module))
    assert_close(moe_logits, logits, 1e-5)
    assert_close(moe_logprobs, logprobs, 1e-5)


@every_case
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_forced_expert_0_is_the_dense_model_bit_for_bit(case, dtype, imported, score, tool, tmp_path):
    _, module = imported(case, dtype)
    forced = tmp_path / "forced.mlir"
    tool("moe-opt", upcycle(tool, module), "--moe-force-expert=expert=0", "-o", forced)
    for dense, mixture in zip(score(module), score(forced), strict=True):
        assert torch.equal(dense, mixture)


@pytest.fixture
def trained(imported, tool, tokens, tmp_path):
    """trained(case) -> (checkpoint, run folder) after one step of stage 1, so
    that experts are not alike."""

    def make(case, experts="experts=4"):
        folder, module = imported(case)
        run = tmp_path / "run"
        tool(
            "moe-run", "train", upcycle(tool, module, experts), "--stage=1", "--tokens", tokens, "--out", run,
            "--steps=1", "--batch=2", "--lr=1e-2", "--warmup=0", "--schedule=constant", "--seed=0",
        )  # fmt: skip
        return folder, run

    return make


@every_family
def test_export_gives_the_same_logits_in_transformers(case, trained, score, tool, tokens, tmp_path):
    _, run = trained(case)
    _, logits = score(run)
    tool("moe-translate", "--export-hf", run, "-o", tmp_path / "hf")
    assert_close(logits, expected_logits(tmp_path / "hf", tokens), 2e-5)


@every_family
def test_export_of_unequal_layers_gives_the_same_logits(case, trained, score, tool, tokens, tmp_path):
    """No architecture of transformers has a dense layer between mixtures."""
    _, run = trained(case, "counts=3,1,4")
    _, logits = score(run)
    tool("moe-translate", "--export-hf", run, "-o", tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["model_type"] == f"polymoe_{case.family}" and config["polymoe_experts"] == [3, 1, 4]
    assert_close(logits, expected_logits(tmp_path / "hf", tokens), 2e-5)


@every_family
def test_export_is_imported_again(case, trained, score, tool, tmp_path):
    _, run = trained(case)
    logprobs, logits = score(run)
    tool("moe-translate", "--export-hf", run, "-o", tmp_path / "hf")
    tool("moe-translate", "--import-hf", tmp_path / "hf", "-o", tmp_path / "again.mlir")
    again_logprobs, again_logits = score(tmp_path / "again.mlir")
    assert torch.equal(again_logits, logits)
    assert torch.equal(again_logprobs, logprobs)


@every_family
def test_export_keeps_what_was_frozen(case, trained, tool, tmp_path):
    folder, run = trained(case)
    tool("moe-translate", "--export-hf", run, "-o", tmp_path / "hf")
    before, after = tensors_of(folder), tensors_of(tmp_path / "hf")
    mixtral = json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "mixtral"
    assert mixtral == (case.family in ("llama", "mistral"))
    for key, value in before.items():
        assert torch.equal(after[expert_key(key, 0, mixtral)], value), key
    # Trained experts have moved away from the original.
    changed = [
        key for key in before if ".mlp." in key and not torch.equal(after[expert_key(key, 1, mixtral)], before[key])
    ]
    assert changed


def test_untrained_dense_export_is_the_checkpoint(imported, tool, tokens, tmp_path):
    folder, module = imported(FAMILIES[0])
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
    if ".mlp." not in key:
        return key
    if not mixtral:
        return key.replace(".mlp.", f".mlp.experts.{index}.")
    layer, projection = key.split(".mlp.")
    name = {"gate_proj.weight": "w1", "down_proj.weight": "w2", "up_proj.weight": "w3"}[projection]
    return f"{layer}.block_sparse_moe.experts.{index}.{name}.weight"
