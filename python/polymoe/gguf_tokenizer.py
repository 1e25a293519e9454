# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""tokenizer.json and tokenizer_config.json from the metadata of a GGUF file.

transformers builds the vocabulary, the merges and the added tokens. It knows
few of the pre-tokenizers that `tokenizer.ggml.pre` names and takes GPT-2's for
the others without a word, so the pre-tokenizer comes from the table here. It
does not heed `add_space_prefix` either.
"""

import dataclasses
import json

from polymoe.errors import UserError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"
_GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{_SPACES}"


def _words(digits, letter=r"\p{L}", lead=f"{_CONTRACTIONS}|", after=r"[\r\n]*"):
    """Words with one leading mark, numbers, runs of marks, lines, spaces."""
    marks = letter.strip("[]")
    return rf"{lead}[^\r\n\p{{L}}\p{{N}}]?{letter}+|{digits}| ?[^\s{marks}\p{{N}}]+{after}|\s*[\r\n]+|{_SPACES}"


def _cased_words(digits, contractions):
    """As _words, where a capital after a small letter begins another word."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    lead = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{lead}{upper}*{lower}+{contractions}|{lead}{upper}+{lower}*{contractions}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{_SPACES}"
    )


@dataclasses.dataclass(frozen=True)
class PreTokenizer:
    """What a name in `tokenizer.ggml.pre` stands for: the regular expressions
    that cut the text one after the other, and what else the name implies."""

    splits: tuple
    ignore_merges: bool = False  # A word that is a token is taken whole.
    adds_bos: bool = False  # Where the file does not say.
    nfc: bool = False


_THREE_DIGITS = r"\p{N}{1,3}"
_TABLE = {
    "gpt-2 phi-2 mpt olmo jais gigachat mellum modern-bert trillion granite-docling exaone4 a.x-4.0": PreTokenizer(
        (_GPT2,)
    ),
    "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2": PreTokenizer((_DIGIT, _GPT2)),
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2": PreTokenizer(
        (_words(_THREE_DIGITS),), ignore_merges=True, adds_bos=True
    ),
    "dbrx smaug-bpe chatglm-bpe": PreTokenizer((_words(_THREE_DIGITS),)),
    "glm4": PreTokenizer((_words(_THREE_DIGITS),), ignore_merges=True),
    "qwen2": PreTokenizer((_words(_DIGIT),), nfc=True),
    "qwen35": PreTokenizer((_words(_DIGIT, r"[\p{L}\p{M}]"),), nfc=True),
    "deepseek-r1-qwen kormo megrez stablelm2 hunyuan grok-2 solar-open": PreTokenizer((_words(_DIGIT),)),
    "ufakzeka": PreTokenizer((_words(_DIGIT, lead=""),)),
    "minicpm5": PreTokenizer((_THREE_DIGITS, _words(r"\p{N}+")), ignore_merges=True),
    "gpt-4o llama4 kanana2 talkie minimax-m2": PreTokenizer((_cased_words(_THREE_DIGITS, f"{_CONTRACTIONS}?"),)),
    "tekken": PreTokenizer((_cased_words(_DIGIT, ""),), ignore_merges=True, adds_bos=True),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    "bloom poro-chat gpt3-finnish": PreTokenizer((r" ?[^(\s|.,!?…。，、।۔،)]+",)),
    "viking": PreTokenizer((r" ?[^(\s|.,!?…。，、।۔،)]+", _DIGIT)),
}
PRE_TOKENIZERS = {name: kind for names, kind in _TABLE.items() for name in names.split()}


def write_tokenizer(gguf_path, folder, pre=None):
    """Writes the two files.

    `pre` is taken in place of the file's own `tokenizer.ggml.pre`.
    """
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    try:
        architecture, tokenizer, config = get_gguf_tokenizer(str(gguf_path))
        backend, _ = convert_gguf_tokenizer(architecture, tokenizer)
    # A panic of the library in Rust is no Exception.
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise UserError(f"{gguf_path}: expected a tokenizer in the metadata, but got {_reason(error)}") from None
    state = json.loads(backend.to_str())
    # What the text is cut to or filled up to is the caller's choice.
    state["truncation"] = state["padding"] = None
    kind = None
    if tokenizer["tokenizer_type"] == "gpt2":
        kind = _pre_tokenizer(gguf_path, tokenizer, pre)
        _split_by(state, kind)
    elif tokenizer["tokenizer_type"] == "llama":
        _mark_spaces(state, tokenizer.get("add_prefix_space", True))
    adds_bos = config.get("add_bos_token", bool(kind and kind.adds_bos))
    adds_eos = config.get("add_eos_token", False)
    state["post_processor"] = _template(gguf_path, backend, config, adds_bos, adds_eos)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{key: config[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token") if config.get(key)},
        "add_bos_token": adds_bos,
        "add_eos_token": adds_eos,
        "clean_up_tokenization_spaces": False,
        **({"chat_template": config["chat_template"]} if config.get("chat_template") else {}),
    }
    for name, value in (("tokenizer.json", state), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _pre_tokenizer(gguf_path, tokenizer, pre):
    name = pre or tokenizer.get("pre_tokenizer_type")
    if name not in PRE_TOKENIZERS:
        where = "--pre-tokenizer" if pre else f"{gguf_path}: tokenizer.ggml.pre"
        got = f"'{name}'" if name else "nothing"
        raise UserError(
            f"{where}: expected one of {', '.join(sorted(PRE_TOKENIZERS))}, but got {got}"
            f"{'' if pre else '; --pre-tokenizer names the one that the model was trained with'}"
        )
    return PRE_TOKENIZERS[name]


def _split_by(state, kind):
    """Cuts by each expression in turn, then spells the pieces in bytes."""
    splits = [
        {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False} for split in kind.splits
    ]
    spelling = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, spelling]}
    state["model"]["ignore_merges"] = kind.ignore_merges
    state["normalizer"] = {"type": "NFC"} if kind.nfc else None


def _mark_spaces(state, adds_prefix):
    """As SentencePiece does: each space becomes a mark, and one more stands
    before the text and after each special token, whatever follows there."""
    space, mark = " ", "\u2581"
    prefix = [{"type": "Prepend", "prepend": mark}] if adds_prefix else []
    strip = [{"type": "Strip", "content": space, "start": 1, "stop": 0}] if adds_prefix else []
    replace = {"type": "Replace", "pattern": {"String": space}, "content": mark}
    back = {"type": "Replace", "pattern": {"String": mark}, "content": space}
    state["normalizer"] = {"type": "Sequence", "normalizers": [*prefix, replace]}
    state["pre_tokenizer"] = None
    state["decoder"] = {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]}


def _template(gguf_path, backend, config, adds_bos, adds_eos):
    """The post-processor that puts the first and the last token, or None."""
    marks = []
    for key, adds in (("bos", adds_bos), ("eos", adds_eos)):
        mark = config.get(f"{key}_token") if adds else None
        if adds and mark is None:
            raise UserError(f"{gguf_path}: expected a key 'tokenizer.ggml.{key}_token_id', as add_{key}_token is true")
        marks.append(mark)
    if not any(marks):
        return None
    first, last = ([{"SpecialToken": {"id": mark, "type_id": 0}}] if mark else [] for mark in marks)
    text, other = ({"Sequence": {"id": name, "type_id": index}} for index, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [*first, text, *last],
        "pair": [*first, text, *last, *first, other, *last],
        "special_tokens": {
            mark: {"id": mark, "ids": [backend.token_to_id(mark)], "tokens": [mark]} for mark in marks if mark
        },
    }


def _reason(error):
    return str(error) if not isinstance(error, KeyError) else f"no key {error}"
