# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""GGUF files, written here from random models, come back as what they were."""

import json

import gguf
import numpy
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from polymoe import cli
from polymoe.gguf_tokenizer import PRE_TOKENIZERS
from polymoe.import_gguf import import_gguf

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 300}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
DENSE = {**SIZES, **HEADS}
GEMMA = {**DENSE, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 5}
IDS = torch.arange(40).reshape(2, 20) * 7 % 300

# Name in GGUF -> (class of the configuration, its arguments).
FAMILIES = {
    "llama": (transformers.LlamaConfig, {**DENSE, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
    "llama-tied": (transformers.LlamaConfig, {**DENSE, "head_dim": 32, "tie_word_embeddings": True}),
    "llama-biased": (transformers.LlamaConfig, {**DENSE, "attention_bias": True, "mlp_bias": True}),
    "qwen2": (transformers.Qwen2Config, DENSE),
    "qwen3": (transformers.Qwen3Config, {**DENSE, "head_dim": 32}),
    "gemma2": (transformers.Gemma2Config, {**GEMMA, "attn_logit_softcapping": 40.0, "final_logit_softcapping": 20.0}),
    "gemma3": (transformers.Gemma3TextConfig, {**GEMMA, "num_hidden_layers": 7}),
    "phi3": (transformers.Phi3Config, DENSE),
    "phi3-partial": (
        transformers.Phi3Config,
        {**DENSE, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}},
    ),
    "bloom": (transformers.BloomConfig, {"hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 300}),
}


def permuted(weight, heads):
    """The rows of each head in pairs, as llama.cpp rotates them."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def stored(name, weight, architecture, config):
    """A parameter of transformers as llama.cpp keeps it."""
    if architecture == "llama" and "q_proj" in name:
        return permuted(weight, config.num_attention_heads)
    if architecture == "llama" and "k_proj" in name:
        return permuted(weight, config.num_key_value_heads)
    if architecture.startswith("gemma") and "norm" in name:
        return weight + 1
    if architecture == "bloom" and "query_key_value" in name:
        return weight.reshape(config.n_head, 3, -1, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)
    return weight


def metadata(writer, architecture, config):
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if architecture == "bloom":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_context_length(config.max_position_embeddings)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(int(head_dim * config.rope_parameters.get("partial_rotary_factor", 1)))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if architecture.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def byte_tokens():
    """(tokens, merges) of a byte-level vocabulary of 300."""
    tokens = ["<|end|>", "<|begin|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = ["Ġ Ġ", "Ġ t", "1 2", "12 3", "a b", "ab c", "Î ±", "Ċ Ċ", "' s", "Ġ 1"]
    tokens += [merge.replace(" ", "") for merge in merges]
    return tokens + [f"<unused{i}>" for i in range(300 - len(tokens))], merges


def add_byte_tokenizer(writer, pre="smollm", add_bos=None):
    tokens, merges = byte_tokens()
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * 266 + [3] * 32)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_eot_token_id(270)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)


def quantised(weight, kind):
    """Data for one of the types that gguf quantises to, or that are built here."""
    if kind in ("Q4_K", "Q6_K"):
        block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
        rows, blocks = weight.shape[0], weight.shape[1] // 256
        data = numpy.random.default_rng(0).integers(0, 256, (rows, blocks, block), dtype=numpy.uint8)
        scale = numpy.frombuffer(numpy.float16(0.001).tobytes(), dtype=numpy.uint8)
        for begin in (0, 2) if kind == "Q4_K" else (block - 2,):
            data[:, :, begin : begin + 2] = scale
        return data.reshape(rows, -1)
    return gguf.quantize(weight, gguf.GGMLQuantizationType[kind])


def write(path, architecture="llama", settings=None, kind="F32", tokenizer=add_byte_tokenizer, extra=None, split=None):
    """Writes a random model; returns the original of transformers."""
    name = architecture.split("-")[0]
    config_class, arguments = FAMILIES[architecture]
    torch.manual_seed(0)
    config = config_class(**{**arguments, "pad_token_id": None, **(settings or {})})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    writer = gguf.GGUFWriter(path, name, split_max_tensors=split or 0)
    metadata(writer, name, config)
    tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[name.upper()], config.num_hidden_layers)
    for key, value in model.named_parameters():
        weight = stored(key, value.detach().numpy(), name, config)
        # Names of BLOOM are known without the first part.
        target = names.get_name(key.removeprefix("transformer."), try_suffixes=(".weight", ".bias"))
        if kind == "F32" or weight.ndim == 1:
            writer.add_tensor(target, weight)
        else:
            writer.add_tensor(target, quantised(weight, kind), raw_dtype=gguf.GGMLQuantizationType[kind])
    if name == "bloom":  # llama.cpp writes the tied matrix twice.
        writer.add_tensor("output.weight", model.lm_head.weight.detach().numpy())
    if extra:
        extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def load(folder, **arguments):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **arguments).eval()


@pytest.mark.parametrize("architecture", FAMILIES)
def test_weights_and_configuration_come_back(architecture, tmp_path):
    model = write(tmp_path / "model.gguf", architecture)
    import_gguf([tmp_path / "model.gguf"], tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["dtype"] == "float32" and not any(key.startswith("_") for key in config)
    assert "quantization_config" not in config
    loaded = load(tmp_path / "hf")
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)
    if not architecture.startswith("gemma"):
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"])
def test_logits_equal_those_of_transformers(kind, tmp_path):
    write(tmp_path / "model.gguf", "llama", {"hidden_size": 256, "intermediate_size": 512}, kind)
    expected = logits(load(tmp_path, gguf_file="model.gguf"))
    assert expected.isfinite().all()
    import_gguf([tmp_path / "model.gguf"], tmp_path / "hf", dtype="float32")
    assert torch.equal(logits(load(tmp_path / "hf")), expected)
    import_gguf([tmp_path / "model.gguf"], tmp_path / "auto", shard_size="500KB")
    assert (tmp_path / "auto" / "model.safetensors.index.json").exists()
    auto = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "auto")
    assert auto.dtype == {"F16": torch.float16}.get(kind, torch.bfloat16)
    for got, exact in zip(auto.parameters(), load(tmp_path / "hf").parameters(), strict=True):
        assert torch.equal(got, exact.to(got.dtype))


SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "llama3": {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaled_positions_come_back(kind, tmp_path):
    scaling = {"rope_theta": 5e5, **SCALINGS[kind]}

    def extra(writer):
        if kind == "llama3":
            base = 5e5 ** (-torch.arange(0, 32, 2) / 32)
            config = transformers.LlamaConfig(**DENSE, head_dim=32, rope_parameters=scaling)
            scaled = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config).inv_freq
            writer.add_tensor("rope_freqs.weight", (base / scaled).numpy().astype(numpy.float32))
            return
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(4.0)
        if kind == "yarn":
            writer.add_rope_scaling_orig_ctx_len(32)

    model = write(tmp_path / "model.gguf", "llama", {"head_dim": 32, "rope_parameters": scaling}, extra=extra)
    import_gguf([tmp_path / "model.gguf"], tmp_path / "hf")
    loaded = load(tmp_path / "hf")
    assert loaded.config.rope_parameters == model.config.rope_parameters
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)


def test_a_factor_without_a_type_scales_linearly(tmp_path):
    write(tmp_path / "model.gguf", "llama", {}, extra=lambda writer: writer.add_rope_scaling_factor(4.0))
    import_gguf([tmp_path / "model.gguf"], tmp_path / "hf")
    parameters = load(tmp_path / "hf").config.rope_parameters
    assert (parameters["rope_type"], parameters["factor"]) == ("linear", 4.0)


def test_long_factors_of_phi_come_back(tmp_path):
    long, short = numpy.linspace(1, 9, 8, dtype="f"), numpy.linspace(1, 2, 8, dtype="f")
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "long_factor": long.tolist(), "short_factor": short.tolist(),
        "attention_factor": 1.25,
    }  # fmt: skip

    def extra(writer):
        writer.add_rope_scaling_orig_ctx_len(16)
        writer.add_rope_scaling_attn_factors(1.25)
        writer.add_tensor("rope_factors_long.weight", long)
        writer.add_tensor("rope_factors_short.weight", short)

    settings = {"rope_parameters": rope, "original_max_position_embeddings": 16}
    model = write(tmp_path / "model.gguf", "phi3", settings, extra=extra)
    import_gguf([tmp_path / "model.gguf"], tmp_path / "hf")
    torch.testing.assert_close(logits(load(tmp_path / "hf")), logits(model), rtol=1e-4, atol=1e-4)


# Files in parts.


def test_a_split_model_is_read_by_its_first_file(tmp_path, capsys):
    model = write(tmp_path / "model.gguf", split=9)
    files = sorted(tmp_path.glob("model-*.gguf"))
    assert len(files) == 4
    import_gguf(files[:1], tmp_path / "hf")
    assert torch.equal(logits(load(tmp_path / "hf")), logits(model))
    for wrong, message in (
        (files[1], "expected the first of 4 files"),
        (files[0], "model-00003-of-00004.gguf: no such file"),
    ):
        files[2].rename(tmp_path / "away") if wrong == files[0] else None
        assert cli.main(["import-gguf", str(wrong), "-o", str(tmp_path / "other")]) == 1
        assert message in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_raw_parts_are_put_together(tmp_path, capsys):
    model = write(tmp_path / "model.gguf")
    content = (tmp_path / "model.gguf").read_bytes()
    parts = [tmp_path / f"model.gguf.part{i}" for i in range(3)]
    third = len(content) // 3
    for i, part in enumerate(parts):
        part.write_bytes(content[i * third : (i + 1) * third if i < 2 else None])
    import_gguf(parts, tmp_path / "hf")
    assert torch.equal(logits(load(tmp_path / "hf")), logits(model))
    capsys.readouterr()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model.gguf", *(part.name for part in parts)]
    for files, message in (
        ([parts[0], parts[2]], "expected a whole GGUF file"),
        ([parts[1], parts[0]], "does not begin with GGUF"),
        ([parts[0]], "expected a whole GGUF file"),
        ([tmp_path / "model.gguf"] * 2, "expected a raw part"),
    ):
        assert cli.main(["import-gguf", *map(str, files), "-o", str(tmp_path / "other")]) == 1
        error = capsys.readouterr().err
        assert message in error and str(files[0]) in error and ".parts" not in error
        assert not (tmp_path / "other").exists()


# What is refused.


def refused(path, capsys, *options):
    assert cli.main(["import-gguf", str(path), "-o", str(path.with_name("other")), *options]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error and not path.with_name("other").exists()
    return error


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (lambda w: w.add_tensor("blk.0.attn_q.scale", numpy.ones(3, "f")), "but got 'blk.0.attn_q.scale' too"),
        (lambda w: w.add_float32("llama.logit_scale", 2.0), "expected no key 'llama.logit_scale'"),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), "but got 'longrope'"),
        (lambda w: w.add_expert_count(4), "but got 'llama' with experts"),
        (lambda w: w.add_tensor("rope_freqs.weight", numpy.linspace(1, 3, 8, dtype="f")), "'rope_freqs.weight'"),
    ],
)
def test_what_nobody_reads_is_refused(extra, message, tmp_path, capsys):
    def more(writer):
        writer.add_rope_scaling_factor(2.0)
        extra(writer)

    write(tmp_path / "model.gguf", extra=more)
    assert message in refused(tmp_path / "model.gguf", capsys)


def test_an_unknown_family_is_refused_by_name(tmp_path, capsys):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "rwkv7")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    error = refused(tmp_path / "model.gguf", capsys)
    assert "but got 'rwkv7'" in error and "llama" in error


def test_a_missing_tensor_and_wrong_sizes_are_refused(tmp_path, capsys):
    write(tmp_path / "model.gguf")
    content = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(content.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xp.weight"))
    assert "'blk.1.ffn_xp.weight'" in refused(tmp_path / "model.gguf", capsys)
    key = b"llama.feed_forward_length\x04\x00\x00\x00"
    (tmp_path / "model.gguf").write_bytes(content.replace(key + b"\x60", key + b"\x61"))
    error = refused(tmp_path / "model.gguf", capsys)
    assert "expected the shape [97, 64] of 'blk.0.ffn_" in error and "but got [96, 64]" in error


@pytest.mark.parametrize("size", [0, 3, 20, 100, 3000, 20000])
def test_a_cut_file_is_refused(size, tmp_path, capsys):
    write(tmp_path / "model.gguf")
    (tmp_path / "model.gguf").write_bytes((tmp_path / "model.gguf").read_bytes()[:size])
    assert "expected a" in refused(tmp_path / "model.gguf", capsys)


# Tokenizers.

TEXTS = [
    "a  5",
    "abc 123456 12",
    "  t t\n\n\n\nx's",
    "αβ 1ʹ ½٣",
    "<|begin|>abc<|end|>",
    "it's 'S I'M\r\n\tx",
    "日本 語。x",
    "",
]


def encode(folder, text):
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


def test_smollm_splits_digits(tmp_path):
    """As the tokenizer.json of SmolLM2 has it: digits one by one, then words."""
    write(tmp_path / "model.gguf")
    import_gguf([tmp_path / "model.gguf"], tmp_path / "hf")
    tokens, merges = byte_tokens()
    vocabulary = {token: i for i, token in enumerate(tokens)}
    expected = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    expected.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    expected.decoder = decoders.ByteLevel()
    expected.add_special_tokens(tokens[:2])
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in TEXTS:
        assert encode(tmp_path / "hf", text) == expected.encode(text).ids == loaded(text).input_ids
    assert loaded.eos_token == "<|end|>" and loaded.bos_token == "<|begin|>"
    assert loaded.apply_chat_template([{"role": "user", "content": "abc"}], tokenize=False) == "abc"
    settings = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert settings == {"bos_token_id": 1, "eos_token_id": [0, 270]}


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_keeps_the_text(pre, tmp_path):
    write(tmp_path / "model.gguf", tokenizer=lambda writer: add_byte_tokenizer(writer, pre, add_bos=False))
    import_gguf([tmp_path / "model.gguf"], tmp_path / "hf")
    loaded = Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    for text in TEXTS:
        assert loaded.decode(loaded.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("pre", "flag", "bos"),
    [("smollm", None, False), ("smollm", True, True), ("llama-bpe", None, True), ("llama-bpe", False, False)],
)
def test_bos_comes_as_the_file_says(pre, flag, bos, tmp_path):
    write(tmp_path / "model.gguf", tokenizer=lambda writer: add_byte_tokenizer(writer, pre, flag))
    import_gguf([tmp_path / "model.gguf"], tmp_path / "hf")
    assert (encode(tmp_path / "hf", "abc")[0] == 1) == bos
    assert (transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")("abc").input_ids[0] == 1) == bos


@pytest.mark.parametrize("pre", [None, "default", "of-tomorrow"])
def test_an_unknown_pre_tokenizer_is_named_by_hand(pre, tmp_path, capsys):
    write(tmp_path / "model.gguf", tokenizer=lambda writer: add_byte_tokenizer(writer, pre))
    error = refused(tmp_path / "model.gguf", capsys)
    assert "tokenizer.ggml.pre: expected one of a.x-4.0, bloom, " in error and (pre or "nothing") in error
    import_gguf([tmp_path / "model.gguf"], tmp_path / "hf", pre_tokenizer="smollm")
    assert len(encode(tmp_path / "hf", "123")) == 3
    assert "--pre-tokenizer: expected one of" in refused(tmp_path / "model.gguf", capsys, "--pre-tokenizer=x")


PIECES = ["▁", "a", "b", "▁a", "ab", "▁ab", "▁▁", "▁▁▁", "c", "bc", "abc"]


def add_pieces(writer, prefix=None):
    """A vocabulary of SentencePiece: scores instead of merges, bytes."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *PIECES]
    fill = [f"<unused{i}>" for i in range(300 - len(tokens))]
    scores = [-100.0 - i if len(piece) == 1 else i - 20.0 for i, piece in enumerate(PIECES)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens + fill)
    writer.add_token_scores([0.0] * 259 + scores + [-999.0] * len(fill))
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(PIECES) + len(fill)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if prefix is not None:
        writer.add_add_space_prefix(prefix)


@pytest.mark.parametrize("prefix", [None, True, False])
def test_pieces_merge_by_score_and_spaces_are_marks(prefix, tmp_path):
    """Expected are the ids that llama.cpp gives."""
    write(tmp_path / "model.gguf", tokenizer=lambda writer: add_pieces(writer, prefix))
    import_gguf([tmp_path / "model.gguf"], tmp_path / "hf")
    loaded = Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    expected = {
        "ab abc": (["▁ab", "▁", "abc"], ["ab", "▁", "abc"]),
        " ab": (["▁▁", "ab"], ["▁ab"]),
        "  ab": (["▁▁▁", "ab"], ["▁▁", "ab"]),
        "</s>ab</s> ab": (["</s>", "▁ab", "</s>", "▁▁", "ab"], ["</s>", "ab", "</s>", "▁ab"]),
        "é": (["▁", "<0xC3>", "<0xA9>"], ["<0xC3>", "<0xA9>"]),
        "": ([], []),
    }
    for text, tokens in expected.items():
        encoding = loaded.encode(text)
        assert encoding.tokens == ["<s>", *tokens[prefix is False]]
        if "</s>" not in text:
            assert loaded.decode(encoding.ids) == text
