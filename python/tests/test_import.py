# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""moe-translate against transformers: frequencies, and mixtures as exported."""

import json
import re
import shutil

import numpy
import pytest
import torch

from polymoe import reference
from polymoe.new_model import FAMILIES, to_v4_form

pytestmark = pytest.mark.tools

SCALINGS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.5},
    {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    {"rope_type": "dynamic", "factor": 2.5},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 24,
        "beta_slow": 2,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "truncate": False,
    },
    {"rope_type": "yarn", "factor": 1.5, "original_max_position_embeddings": 2048, "attention_factor": 0.8},
    {"rope_type": "longrope", "original_max_position_embeddings": 4096},
    {"rope_type": "longrope", "original_max_position_embeddings": 4096, "factor": 3.0},
]


def scaled(scaling, head_dim):
    """`scaling` with the lists of longrope, which are as long as there are frequencies."""
    if scaling["rope_type"] != "longrope":
        return scaling
    factors = {f"{name}_factor": [1 + i * step for i in range(head_dim // 2)] for name, step in LONGROPE_STEPS.items()}
    return scaling | factors


LONGROPE_STEPS = {"short": 0.01, "long": 0.37}


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: "-".join(map(str, scaling.values())))
@pytest.mark.parametrize("head_dim", [22, 64, 80, 128, 256])
def test_frequencies_equal_transformers_bit_for_bit(head_dim, scaling, tool, tmp_path):
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling = scaled(scaling, head_dim)
    for theta, length in ((1.5e5, None), (12345.678, 150000)):
        config = transformers.LlamaConfig(
            vocab_size=3, hidden_size=8, intermediate_size=5, num_hidden_layers=1, num_attention_heads=1,
            head_dim=head_dim, rope_parameters={"rope_theta": theta, **scaling}, max_position_embeddings=131072,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "hf")
        context = [] if length is None else [f"--context={length}"]
        tool("moe-translate", "--import-hf", tmp_path / "hf", "-o", tmp_path / "model.mlir", *context)
        text = (tmp_path / "model.mlir").read_text()
        numbers = re.search(r"frequencies = array<f32: ([^>]*)>", text)[1].split(", ")
        got = numpy.array([float(number) for number in numbers], dtype=numpy.float32)
        rotary = LlamaRotaryEmbedding(config)
        if length is not None:
            rotary(torch.zeros(1), torch.tensor([[length - 1]]))
        expected = rotary.inv_freq.numpy()
        scale = re.search(r"rotary_table .*scale = ([0-9.e+-]+)", text)
        assert (float(scale[1]) if scale else 1.0) == pytest.approx(rotary.attention_scaling, rel=1e-14)
        # PyTorch takes other code for a rest that fills no vector, by machine.
        whole = len(expected) // 32 * 32 or len(expected)
        assert (got[:whole].view("u4") == expected[:whole].view("u4")).all()
        assert numpy.allclose(got, expected, rtol=2e-7, atol=0)


# What transformers 4.57 writes without being asked (use_diff=False), beside the
# keys that say something of the model.
WRITTEN_BY_4 = {
    "_name_or_path": "", "add_cross_attention": False, "chunk_size_feed_forward": 0, "diversity_penalty": 0.0,
    "do_sample": False, "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "id2label": {"0": "LABEL_0"},
    "is_decoder": False, "is_encoder_decoder": False, "label2id": {"LABEL_0": 0}, "length_penalty": 1.0,
    "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1,
    "num_return_sequences": 1, "output_attentions": False, "output_hidden_states": False, "output_scores": False,
    "pruned_heads": {}, "remove_invalid_values": False, "repetition_penalty": 1.0, "return_dict": True,
    "return_dict_in_generate": False, "temperature": 1.0, "tf_legacy_loss": False, "tie_encoder_decoder": False,
    "top_k": 50, "top_p": 1.0, "torchscript": False, "typical_p": 1.0, "use_bfloat16": False, "cross_attention_hidden_size": None,
}  # fmt: skip


@pytest.fixture
def module_of(tool, tmp_path):
    """module_of(checkpoint, config) -> the module of the checkpoint with another
    configuration, as text"""

    def make(dense, config):
        (tmp_path / "hf").mkdir(exist_ok=True)
        shutil.copyfile(dense / "model.safetensors", tmp_path / "hf" / "model.safetensors")
        (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
        tool("moe-translate", "--import-hf", tmp_path / "hf", "-o", tmp_path / "model.mlir")
        return (tmp_path / "model.mlir").read_text()

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_transformers_writes_is_accepted(family, checkpoint, module_of, tmp_path):
    import transformers

    dense = checkpoint(family)
    written = json.loads((dense / "config.json").read_text())
    expected = module_of(dense, written)
    transformers.AutoConfig.from_pretrained(dense).to_json_file(tmp_path / "whole.json", use_diff=False)
    assert module_of(dense, json.loads((tmp_path / "whole.json").read_text())) == expected
    assert module_of(dense, to_v4_form(written) | WRITTEN_BY_4) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_missing_is_as_in_transformers(family, module_of, tmp_path):
    """A configuration of sizes alone, against one that says everything."""
    import transformers

    sizes = {"vocab_size": 37, "hidden_size": 64, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    sizes |= (
        {"n_layer": 6, "n_head": 32}
        if family == "bloom"
        else {"intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 32}
    )
    if family == "granitemoehybrid":
        sizes |= {"num_local_experts": 0, "layer_types": ["full_attention"] * 6, "mamba_n_heads": 2}
        sizes["shared_intermediate_size"] = sizes["intermediate_size"]
    if family == "ministral":
        # transformers cannot do without.
        sizes["head_dim"] = 4
    if family == "apertus":
        # Without one transformers takes a scaling, which a configuration has to name here.
        sizes |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    config = transformers.CONFIG_MAPPING[family](**sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "dense")
    config.to_json_file(tmp_path / "whole.json", use_diff=False)
    whole = module_of(tmp_path / "dense", json.loads((tmp_path / "whole.json").read_text()))
    assert module_of(tmp_path / "dense", sizes | {"model_type": family}) == whole


@pytest.mark.parametrize("counts", ["experts=3", "counts=1,4,2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_mixture_of_copies_equals_the_dense_model(family, counts, checkpoint, tool, tmp_path):
    dense = checkpoint(family)
    tool("moe-translate", "--import-hf", dense, "-o", tmp_path / "model.mlir")
    tool("moe-opt", tmp_path / "model.mlir", f"--moe-upcycle={counts} top-k=2", "-o", tmp_path / "moe.mlir")
    tool("moe-translate", "--export-hf", tmp_path / "moe.mlir", "-o", tmp_path / "hf")
    mixtral = family in ("llama", "mistral", "ministral") and counts == "experts=3"
    model_type = json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"]
    assert model_type == ("mixtral" if mixtral else f"polymoe_{family}")

    tokens = torch.randint(0, 331, (2, 37), generator=torch.Generator().manual_seed(1))
    expected, got = (
        torch.cat(list(reference.score(reference.load(folder), tokens))) for folder in (dense, tmp_path / "hf")
    )
    assert (got - expected).abs().max() / expected.std() < 1e-5


def test_any_of_several_ends_ends_a_text(tool, tmp_path, documents):
    from tokenizers import Tokenizer

    from polymoe.files import write_documents
    from polymoe.new_model import new_model
    from polymoe.train_tokenizer import train, write

    for language, group in documents.items():
        write_documents(tmp_path / f"{language}.jsonl", group)
    write(train([tmp_path / "en.jsonl", tmp_path / "el.jsonl"], 280), tmp_path / "tokenizer")
    new_model("qwen3", tmp_path / "hf", tokenizer=tmp_path / "tokenizer", hidden=32, intermediate=32, layers=1, heads=2)
    tool("moe-translate", "--import-hf", tmp_path / "hf", "-o", tmp_path / "model.mlir")
    prompt = Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json")).encode("A cell").ids
    ids = ",".join(map(str, prompt))
    first = int(tool("moe-run", "generate", tmp_path / "model.mlir", "--prompt-tokens", ids, "--max-tokens=1"))
    generate = ["moe-run", "generate", tmp_path / "model.mlir", "--prompt=A cell", "--max-tokens=8"]

    def set_ends(name, ends):
        path = tmp_path / "hf" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ends}))

    # generation_config.json is heard first, as by `transformers`.
    ends, other = [(first + 1) % 256, first], (first + 1) % 256
    set_ends("config.json", ends)
    set_ends("generation_config.json", other)
    assert tool(*generate) != "\n"
    set_ends("config.json", other)
    set_ends("generation_config.json", ends)
    assert tool(*generate) == "\n"
    set_ends("config.json", ends)
    (tmp_path / "hf" / "generation_config.json").unlink()
    assert tool(*generate) == "\n"
    assert tool(*generate, "--ignore-eos") != "\n"

    # Several: one ends, the other goes on, and each is the text that it is alone.
    second = ["--prompt", "The document"]
    alone = tool(*generate[:3], *second, *generate[4:])
    assert tool(*generate, *second) == f"==> --prompt number 1 <==\n\n\n==> --prompt number 2 <==\n{alone}"
    lines = [json.loads(line) for line in tool(*generate, *second, "--json-lines").splitlines()]
    assert [line["text"] for line in lines] == ["", alone[:-1]]
    assert lines[0]["tokens"] == [first] and lines[0]["end"] == "eos" and lines[0]["prompt_tokens"] == len(prompt)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "A cell"}\n{"prompt": "The document"}\n')
    from_file = tool(*generate[:3], "--prompts", tmp_path / "prompts.jsonl", generate[4], "--json-lines")
    assert [json.loads(line) for line in from_file.splitlines()] == lines


@pytest.mark.parametrize("wrapper", ["gemma3", "mistral3"])
def test_the_text_of_a_model_of_text_and_images(wrapper, tool, tokens_file, tmp_path):
    import transformers

    sizes = {
        "vocab_size": 331, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 12, "initializer_range": 0.1, "sliding_window": 8,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    if wrapper == "gemma3":
        text, image = transformers.Gemma3TextConfig(**sizes), transformers.SiglipVisionConfig(**vision)
        options = {"mm_tokens_per_image": 4, "boi_token_index": 329, "eoi_token_index": 328}
    else:
        text, image = transformers.MistralConfig(**sizes), transformers.PixtralVisionConfig(**vision, head_dim=8)
        options = {"tie_word_embeddings": False}
    config = transformers.CONFIG_MAPPING[wrapper](
        text_config=text, vision_config=image, image_token_index=330, **options
    )
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    model.save_pretrained(tmp_path / "hf")

    tool("moe-translate", "--import-hf", tmp_path / "hf", "-o", tmp_path / "model.mlir")
    tool("moe-translate", "--export-hf", tmp_path / "model.mlir", "-o", tmp_path / "text")
    tokens = reference.read_tokens(tokens_file(3)) % 328
    alone = torch.cat(list(reference.score(reference.load(tmp_path / "text"), tokens)))
    with torch.inference_mode():
        expected = model(tokens).logits
    assert (alone - expected).abs().max() / expected.std() < 1e-5
