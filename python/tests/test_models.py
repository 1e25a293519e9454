# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Random checkpoints, the reference, and the modelling files of exports."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import polymoe.hf
from polymoe import cli, reference
from polymoe.new_model import FAMILIES, new_model


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def tensors_of(folder):
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def some_tokens(rows=2, length=37):
    return torch.randint(0, 331, (rows, length), generator=torch.Generator().manual_seed(1))


def logits_of(folder, tokens):
    return torch.cat(list(reference.score(reference.load(folder), tokens)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_is_the_same_for_a_seed(family, checkpoint, tmp_path):
    new_model(family, tmp_path / "same", odd=True)
    new_model(family, tmp_path / "other", odd=True, seed=1)
    first, same, other = (tensors_of(folder) for folder in (checkpoint(family), tmp_path / "same", tmp_path / "other"))
    assert first.keys() == same.keys() == other.keys()
    assert all(torch.equal(first[key], same[key]) for key in first)
    # xIELU's constants are tensors too.
    drawn = [key for key in first if not key.endswith((".beta", ".eps"))]
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


@pytest.mark.parametrize("family", FAMILIES)
def test_odd_sizes_are_odd(family, checkpoint):
    config = json.loads((checkpoint(family) / "config.json").read_text())
    head_dim = config.get("head_dim") or config["hidden_size"] // config.get(
        "num_attention_heads", config.get("n_head")
    )
    assert head_dim & (head_dim - 1) and config["vocab_size"] % 2
    assert config["hidden_size"] % 16 and config.get("intermediate_size", 4 * config["hidden_size"]) % 16
    if family != "bloom":
        assert (config["num_attention_heads"], config["num_key_value_heads"]) == (6, 2)


def test_a_seed_fixes_bf16_too(tmp_path):
    new_model("llama", tmp_path / "a", odd=True, dtype="bf16")
    assert {value.dtype for value in tensors_of(tmp_path / "a").values()} == {torch.bfloat16}


@pytest.mark.parametrize("scaling", ["none", "linear", "llama3"])
def test_both_forms_of_the_configuration_mean_the_same(scaling, tmp_path):
    for form in ("v4", "v5"):
        new_model("llama", tmp_path / form, odd=True, rope_scaling=scaling, config_form=form, max_shard_size="200KB")
    assert {"rope_theta", "rope_scaling"} <= json.loads((tmp_path / "v4" / "config.json").read_text()).keys()
    assert "rope_parameters" in json.loads((tmp_path / "v5" / "config.json").read_text())
    assert len(list((tmp_path / "v4").glob("*.safetensors"))) > 1
    assert torch.equal(logits_of(tmp_path / "v4", some_tokens()), logits_of(tmp_path / "v5", some_tokens()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("llama", "--heads", 3), "--heads: expected a divisor of --hidden 256"),
        (("llama", "--kv-heads", 3), "--kv-heads: expected a divisor of --heads 4"),
        (("llama", "--window", 8), "--window: expected one of mistral, "),
        (("qwen2", "--head-dim", 8), "--head-dim: qwen2 always has"),
        (("bloom", "--rope-scaling", "linear"), "bloom has no rotary embedding"),
        (("llama", "--head-dim", 7), "expected an even number"),
        (("llama", "--layers", 0), "--layers: expected at least 1"),
        (("llama", "--tokenizer", "nowhere"), "nowhere: no such file"),
    ],
)
def test_impossible_sizes_are_refused(options, message, tmp_path, capsys):
    assert run("new-model", *options, "--out", tmp_path / "out") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_generation_equals_recomputation(family, checkpoint):
    model = reference.load(checkpoint(family))
    cached = reference.generate(model, [5, 17, 3], 24)
    assert cached == reference.generate(model, [5, 17, 3], 24, cache=False)
    # A model that repeats one token would hide most mistakes.
    assert len(set(cached)) > 3


def test_the_command_writes_what_it_computes(checkpoint, tmp_path, capsys):
    tokens = some_tokens(rows=9)
    save_file({"tokens": tokens.int()}, tmp_path / "tokens.safetensors")
    out = tmp_path / "scores.safetensors"
    assert (
        run("reference", checkpoint("qwen3"), "--tokens", tmp_path / "tokens.safetensors", "--out", out, "--logits")
        == 0
    )
    scores = load_file(out)
    assert scores["logits"].shape == (9, 37, 331) and scores["logprobs"].shape == (9, 36)
    expected = scores["logits"][:, :-1].double().log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    assert torch.allclose(scores["logprobs"].double(), expected, atol=1e-5)

    capsys.readouterr()
    assert run("reference", checkpoint("qwen3"), "--prompt-tokens", "5,17", "--max-tokens", 5) == 0
    printed = capsys.readouterr().out
    assert [int(item) for item in printed.split(",")] == reference.generate(
        reference.load(checkpoint("qwen3")), [5, 17], 5
    )


def test_missing_weights_are_refused(checkpoint, tmp_path, capsys):
    shutil.copytree(checkpoint("llama"), tmp_path / "hf")
    tensors = tensors_of(tmp_path / "hf")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    assert run("reference", tmp_path / "hf", "--prompt-tokens", "1") == 1
    assert "missing keys: ['model.layers.1.mlp.up_proj.weight']" in capsys.readouterr().err


@pytest.mark.parametrize("ids", ["1,x", "1,331", "-1"])
def test_bad_prompts_are_refused(ids, checkpoint, capsys):
    assert run("reference", checkpoint("llama"), f"--prompt-tokens={ids}") == 1
    assert "expected ids" in capsys.readouterr().err


def write_mixture(dense, out, family, experts, top_k=2):
    """Every expert a copy of the FFN, as moe-translate --export-hf lays it out."""
    source = Path(polymoe.hf.__file__).parent
    out.mkdir()
    for name in ("configuration_polymoe", "modeling_polymoe"):
        shutil.copyfile(source / f"{name}.py", out / f"{name}.py")
    model, base = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family], CONFIG_MAPPING_NAMES[family]
    config = json.loads((dense / "config.json").read_text()) | {
        "model_type": f"polymoe_{family}",
        "architectures": [f"PolyMoE{model}"],
        "auto_map": {
            "AutoConfig": f"configuration_polymoe.PolyMoE{base}",
            "AutoModelForCausalLM": f"modeling_polymoe.PolyMoE{model}",
        },
        "polymoe_experts": experts,
        "polymoe_top_k": top_k,
    }
    (out / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for key, value in tensors_of(dense).items():
        layer, block, rest = re.match(r"(.*?)(?:(\.mlp\.|\.shared_mlp\.)(.*))?$", key).groups()
        count = experts[int(layer.rsplit(".", 1)[1])] if block else 0
        if count < 2:
            tensors[key] = value
            continue
        for index in range(count):
            tensors[f"{layer}{block}experts.{index}.{rest}"] = value.clone()
        tensors[f"{layer}{block}gate.weight"] = torch.randn(count, config["hidden_size"], generator=generator)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return tensors


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_of_copies_equals_the_dense_model(family, checkpoint, tmp_path):
    dense = checkpoint(family)
    write_mixture(dense, tmp_path / "mixture", family, [3, 1, 4])
    expected = logits_of(dense, some_tokens())
    error = (logits_of(tmp_path / "mixture", some_tokens()) - expected).abs().max() / expected.std()
    assert error < 1e-5
    model = reference.load(tmp_path / "mixture")
    assert reference.generate(model, [5, 17, 3], 16) == reference.generate(reference.load(dense), [5, 17, 3], 16)
    assert model.generate(torch.tensor([[5, 17, 3]]), max_new_tokens=16, do_sample=False)[
        0, 3:
    ].tolist() == reference.generate(model, [5, 17, 3], 16)


def test_a_mixture_routes(checkpoint, tmp_path):
    """Against the definition, on one layer: top-2 of the softmax, renormalised."""
    tensors = write_mixture(checkpoint("qwen2"), tmp_path / "mixture", "qwen2", [4, 1, 1])
    generator = torch.Generator().manual_seed(3)
    for key in [key for key in tensors if ".experts." in key]:
        tensors[key] = 0.1 * torch.randn(tensors[key].shape, generator=generator)
    save_file(tensors, tmp_path / "mixture" / "model.safetensors", metadata={"format": "pt"})
    layer = reference.load(tmp_path / "mixture").model.layers[0].mlp
    x = torch.randn(5, 132, generator=generator)
    probabilities = (x @ tensors["model.layers.0.mlp.gate.weight"].T).softmax(-1)
    expected = torch.zeros_like(x)
    for row in range(5):
        best = sorted(range(4), key=lambda e: (-probabilities[row, e], e))[:2]
        for expert in best:
            keys = [f"model.layers.0.mlp.experts.{expert}.{name}_proj.weight" for name in ("gate", "up", "down")]
            gate, up, down = (tensors[key] for key in keys)
            ffn = down @ (torch.nn.functional.silu(gate @ x[row]) * (up @ x[row]))
            expected[row] += probabilities[row, expert] / probabilities[row, best].sum() * ffn
    with torch.inference_mode():
        assert torch.allclose(layer(x[None])[0], expected, atol=1e-5)


def test_of_equal_experts_the_lower_index_wins(checkpoint, tmp_path):
    tensors = write_mixture(checkpoint("llama"), tmp_path / "mixture", "llama", [3, 1, 1], top_k=1)
    tensors["model.layers.0.mlp.gate.weight"].zero_()
    tensors["model.layers.0.mlp.experts.0.down_proj.weight"].zero_()
    save_file(tensors, tmp_path / "mixture" / "model.safetensors", metadata={"format": "pt"})
    layer = reference.load(tmp_path / "mixture").model.layers[0].mlp
    with torch.inference_mode():
        assert layer(torch.randn(1, 4, 102)).abs().max() == 0


def test_a_loader_that_does_not_know_the_experts_refuses(checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM

    write_mixture(checkpoint("llama"), tmp_path / "mixture", "llama", [3, 1, 1])
    with pytest.raises(ValueError):
        AutoModelForCausalLM.from_pretrained(tmp_path / "mixture", trust_remote_code=False)
