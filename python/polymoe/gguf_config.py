# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""config.json and generation_config.json from the metadata of a GGUF file.

transformers maps the sizes of the families that it knows. What it passes over
in silence and what changes the results stands here: scaled rotary positions,
windows, soft caps. A key that nobody reads is an error.
"""

import contextlib
import logging
import math

from polymoe.errors import UserError

# Keys of a family's own that change nothing, or that the tensors' shapes check.
_CHECKED_OTHERWISE = {
    "attention.layer_norm_epsilon",
    "attention.value_length",
    "context_length",
    "feed_forward_length",
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "vocab_size",
}
# Rotary frequencies of Llama 3: original length, then the two bounds.
_LLAMA3 = (8192, 1.0, 4.0)


class Metadata:
    """The keys of one file. `unread` are the family's that nobody asked for."""

    def __init__(self, path, reader):
        self.path = path
        self.fields = reader.fields
        self.architecture = self.general("general.architecture")
        if not isinstance(self.architecture, str):
            raise UserError(f"{path}: expected a key 'general.architecture' that names a family")
        prefix = f"{self.architecture}."
        self.unread = {key.removeprefix(prefix) for key in self.fields if key.startswith(prefix)}
        self.unread -= _CHECKED_OTHERWISE

    def general(self, key):
        return self._value(key) if key in self.fields else None

    def own(self, key, default=None):
        """A key of the family, which counts as read."""
        self.unread.discard(key)
        key = f"{self.architecture}.{key}"
        return self._value(key) if key in self.fields else default

    def _value(self, key):
        field = self.fields[key]
        value = field.contents()
        if field.types[-1].name == "FLOAT32" and isinstance(value, float):
            # The shortest decimal that is this number: 1e-05, not 9.999999747378752e-06.
            import numpy

            return float(str(numpy.float32(value)))
        return value


def model_config(path, reader, tensors):
    """(configuration of transformers, names of tensors that it has taken in)"""
    import transformers
    from transformers.integrations import GGUF_CONFIG_MAPPING
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    metadata = Metadata(path, reader)
    family = metadata.architecture
    known = GGUF_CONFIG_MAPPING.get(family, {})
    dense = [
        name
        for name in GGUF_CONFIG_MAPPING
        # transformers' own spellings, with _, are no names of GGUF families.
        if name == "gemma3" or (name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "_" not in name)
    ]
    if family not in dense or metadata.own("expert_count", 0):
        raise UserError(
            f"{path}: expected a dense decoder of a family that transformers reads from GGUF"
            f" ({', '.join(sorted(dense))}), but got '{family}'"
            f"{' with experts' if metadata.own('expert_count', 0) else ''}"
        )
    with _quiet():
        try:
            raw = load_gguf_checkpoint(str(path))["config"]
        except Exception as error:
            raise UserError(f"{path}: transformers cannot read its metadata: {error}") from None
    for key in known:
        metadata.own(key)
    settings = {key: value for key, value in raw.items() if not key.startswith("_")}
    for key, name in known.items():
        if name in settings and isinstance(settings[name], float):
            settings[name] = metadata.own(key)
    for key in ("model_type", "tie_word_embeddings"):
        settings.pop(key)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        # Not what another model of the family has.
        settings.setdefault(key, None)
    taken = _extend(metadata, tensors, settings)
    if "output.weight" in tensors and _are_equal(tensors["output.weight"], tensors.get("token_embd.weight")):
        taken.add("output.weight")
    settings["tie_word_embeddings"] = "output.weight" not in tensors or "output.weight" in taken
    if not hasattr(transformers.CONFIG_MAPPING[raw["model_type"]], "head_dim"):
        settings.pop("head_dim", None)
    if metadata.unread:
        raise UserError(
            f"{path}: expected no key '{family}.{sorted(metadata.unread)[0]}', whose meaning is not known here"
        )
    try:
        config = transformers.AutoConfig.for_model(raw["model_type"], **settings)
    except Exception as error:
        raise UserError(f"{path}: expected the metadata of a {family} model, but got {error}") from None
    return config, taken


def _are_equal(head, embedding):
    """Whether a file holds one matrix twice."""
    same = embedding is not None and head.tensor_type == embedding.tensor_type and head.shape[0] == embedding.shape[0]
    return same and head.data.shape == embedding.data.shape and bool((head.data == embedding.data).all())


def generation_config(reader, config):
    """What generation_config.json says: the tokens that end a text."""
    ends = [
        reader.get_field(f"tokenizer.ggml.{key}_token_id").contents()
        for key in ("eos", "eot", "eom")
        if reader.get_field(f"tokenizer.ggml.{key}_token_id")
    ]
    ends = list(dict.fromkeys(int(end) for end in ends))
    values = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": config.pad_token_id,
    }
    return {key: value for key, value in values.items() if value is not None}


def _extend(metadata, tensors, settings):
    """Adds what transformers passes over; returns the tensors used for it."""
    family = metadata.architecture
    if family == "mistral":
        # The window of 4096 that transformers assumes is not in such files.
        settings["sliding_window"] = None
    if family == "llama":
        settings["attention_bias"] = "blk.0.attn_q.bias" in tensors
        settings["mlp_bias"] = "blk.0.ffn_down.bias" in tensors
    size = metadata.own("attention.key_length")
    if size is not None and metadata.own("attention.value_length", size) != size:
        raise UserError(f"{metadata.path}: expected values as long as keys in '{family}.attention'")
    heads = settings.get("num_attention_heads")
    if heads == 0 or size == 0:
        raise UserError(f"{metadata.path}: expected at least one head and element in '{family}.attention', but got 0")
    if size is None and heads:
        size = settings["hidden_size"] // heads
    elif size is not None:
        settings["head_dim"] = size
    rotated = metadata.own("rope.dimension_count", size)
    if rotated != size:
        settings["partial_rotary_factor"] = rotated / size
    if (window := metadata.own("attention.sliding_window")) is not None:
        settings["sliding_window"] = window or None
    if family in ("gemma2", "gemma3"):
        _extend_gemma(metadata, settings, size)
    scaling, taken = _rope_scaling(metadata, tensors, settings)
    if scaling:
        settings["rope_scaling"] = scaling
    return taken


def _extend_gemma(metadata, settings, head_dim):
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if (value := metadata.own(key)) is not None:
            settings[key] = value
    layers, heads = settings["num_hidden_layers"], settings["num_attention_heads"]
    # The models of 27 billion scale by the width of a head as if heads filled the hidden size.
    wide = layers == {"gemma2": 46, "gemma3": 62}[metadata.architecture]
    settings["query_pre_attn_scalar"] = settings["hidden_size"] // heads if wide else head_dim
    if (base := metadata.own("rope.freq_base_swa")) is not None:
        settings["rope_local_base_freq"] = base
    pattern = metadata.own("attention.sliding_window_pattern")
    if isinstance(pattern, int):
        pattern = [bool((layer + 1) % pattern) for layer in range(layers)]
    if pattern is not None:
        settings["layer_types"] = ["sliding_attention" if sliding else "full_attention" for sliding in pattern]


def _rope_scaling(metadata, tensors, settings):
    """(rope_scaling as transformers has it or None, tensors that hold it)"""
    # llama.cpp's default: files that know no type scale linearly.
    kind = metadata.own("rope.scaling.type", "linear")
    factor = metadata.own("rope.scaling.factor", metadata.own("rope.scale_linear", 1.0))
    original = metadata.own("rope.scaling.original_context_length")
    attention = metadata.own("rope.scaling.attn_factor")
    long, short = (tensors.get(f"rope_factors_{length}.weight") for length in ("long", "short"))
    if long is not None and short is not None:
        if original is not None:
            settings["original_max_position_embeddings"] = original
        scaling = {
            "rope_type": "longrope",
            "long_factor": _numbers(long),
            "short_factor": _numbers(short),
            "original_max_position_embeddings": original,
            "attention_factor": attention,
        }
        return {key: value for key, value in scaling.items() if value is not None}, {long.name, short.name}
    if (frequencies := tensors.get("rope_freqs.weight")) is not None:
        if kind != "none" and factor not in (0, 1):
            raise UserError(
                f"{metadata.path}: expected either 'rope_freqs.weight' or '{metadata.architecture}.rope.scaling.factor',"
                " but got both"
            )
        return _llama3(metadata, settings, _numbers(frequencies)), {frequencies.name}
    if kind == "none" or factor in (0, 1):
        return None, set()
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}, set()
    if kind == "yarn" and attention in (None, 1):
        scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        for key in ("beta_fast", "beta_slow"):
            scaling[key] = metadata.own(f"rope.scaling.yarn_{key}")
        return {key: value for key, value in scaling.items() if value is not None}, set()
    raise UserError(
        f"{metadata.path}: expected none, linear or yarn with an attn_factor of 1 as"
        f" '{metadata.architecture}.rope.scaling.type', but got '{kind}' with {attention}"
    )


def _llama3(metadata, settings, factors):
    """The scaling that gives these divisors of the frequencies."""
    original, low, high = _LLAMA3
    base = settings.get("rope_theta", 10000.0)
    scaling = {
        "rope_type": "llama3",
        "factor": float(f"{max(factors):.4g}"),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
    for index, got in enumerate(factors):
        wavelength = 2 * math.pi * base ** (index / len(factors))
        smooth = min(1.0, max(0.0, (original / wavelength - low) / (high - low)))
        expected = 1 / ((1 - smooth) / scaling["factor"] + smooth)
        if not math.isclose(got, expected, rel_tol=1e-4):
            raise UserError(
                f"{metadata.path}: expected the frequencies of Llama 3 in 'rope_freqs.weight', but number {index} is"
                f" {got:g} in place of {expected:g}"
            )
    return scaling


def _numbers(tensor):
    import numpy

    return [float(str(number)) for number in numpy.asarray(tensor.data, dtype=numpy.float32).ravel()]


@contextlib.contextmanager
def _quiet():
    """Without transformers' own progress bars and remarks."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
