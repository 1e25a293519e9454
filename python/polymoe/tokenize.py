# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Turn text and a tokenizer into a corpus folder, as moe-run --data reads it.

Documents are split into train, valid and test by a hash of their id: a
document and its translations are in the same split in every language. What is
--held-out is evaluated and never trained on.

Each document begins with the token that the tokenizer's template puts before a
text, if it puts one (`bos` of corpus.json), and ends with its end of text
(`eos`). Documents are whole, whatever tokenizer.json says of truncation. The
result is the same bytes for any number of jobs.

Reads JSON lines, .json arrays, and both compressed by gzip.

Writes OUT/corpus.json, OUT/tokenizer.json, OUT/tokenizer_config.json and one
safetensors file for each shard, with `tokens` [n] I32, `documents` [d+1] I64
and `bytes` [d] I64. OUT appears when it is complete.

examples:
  polymoe tokenize work/text/*.jsonl --tokenizer work/tokenizer --out work/corpus \\
      --rounds en=0,es=0,zh=0,el=1,hu=1,tr=1
"""

import collections
import hashlib
import itertools
import multiprocessing
import os
import shutil
from pathlib import Path

from polymoe.errors import UserError
from polymoe.files import atomic_folder, read_documents, read_json, save_tensors, write_json
from polymoe.languages import check_language, parse_rounds
from polymoe.progress import check_jobs, progress, say
from polymoe.splits import HELD_OUT, SPLITS, parse_split, split_of

# What transformers reads beside tokenizer.json: tokens, and names of tokens.
_BESIDE = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")


def add_arguments(parser):
    parser.add_argument(
        "text", nargs="+", type=Path, metavar="FILE.jsonl", help='documents: {"id", "language", "text"} a line'
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json, or the file")
    parser.add_argument(
        "--rounds",
        required=True,
        metavar="L=N,...",
        help="each language's round: 0 for what the base knows, 1 for new ones",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--held-out",
        default="",
        metavar="L,...",
        help="languages whose documents are half for validation, half for test, and none for training",
    )
    parser.add_argument("--split", default="96/2/2", help="train/valid/test shares in percent (default: 96/2/2)")
    parser.add_argument(
        "--shard-tokens",
        type=int,
        default=1 << 24,
        help="tokens a shard holds at most, documents being whole (default: 16777216)",
    )
    parser.add_argument("--eos", help="the token that ends a document (default: eos_token of tokenizer_config.json)")
    parser.add_argument(
        "--no-bos", dest="bos", action="store_false", help="put nothing before a document, whatever the template says"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")


def run(args):
    corpus = tokenize(
        args.text,
        args.tokenizer,
        parse_rounds(args.rounds),
        args.out,
        args.split,
        args.shard_tokens,
        args.eos,
        args.jobs,
        args.force,
        args.bos,
        [check_language(code, "--held-out") for code in args.held_out.split(",") if code],
    )
    totals = collections.Counter()
    for shard in corpus["shards"]:
        totals[shard["language"], shard["split"]] += shard["tokens"]
    for language in corpus["languages"]:
        counts = ", ".join(f"{totals[language['code'], split]} {split}" for split in SPLITS)
        say(f"{language['code']} (round {language['round']}): tokens {counts}")


def tokenize(
    paths,
    tokenizer_path,
    rounds,
    out,
    split="96/2/2",
    shard_tokens=1 << 24,
    eos=None,
    jobs=None,
    force=False,
    bos=True,
    held_out=(),
):
    """Writes the corpus folder; returns the contents of corpus.json."""
    for code in held_out:
        if code not in rounds:
            raise UserError(f"--held-out: expected a language of --rounds ({', '.join(rounds)}), but got '{code}'")
    shares = dict.fromkeys(rounds, parse_split(split)) | dict.fromkeys(held_out, HELD_OUT)
    if shard_tokens < 1:
        raise UserError(f"--shard-tokens: expected at least 1, but got {shard_tokens}")
    jobs = check_jobs(jobs)
    tokenizer_file = find_tokenizer(tokenizer_path)
    tokenizer = load_tokenizer(tokenizer_file)
    eos_id = _find_eos(tokenizer, tokenizer_file, eos)
    first = _first_tokens(tokenizer) if bos else []
    documents = _group(paths, rounds)
    vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)

    with atomic_folder(out, replace=force) as folder:
        shards = _write_shards(
            folder, documents, rounds, shares, tokenizer, tokenizer_file, first, eos_id, shard_tokens, jobs
        )
        shutil.copyfile(tokenizer_file, folder / "tokenizer.json")
        for name in _BESIDE:
            if tokenizer_file.with_name(name).exists():
                shutil.copyfile(tokenizer_file.with_name(name), folder / name)
        corpus = {
            "format": "polymoe-corpus",
            "version": 1,
            "vocabulary": vocabulary,
            "bos": first,
            "eos": eos_id,
            "tokenizer": "tokenizer.json",
            "tokenizer_sha256": hashlib.sha256(tokenizer_file.read_bytes()).hexdigest(),
            "languages": [{"code": code, "round": rounds[code]} for code in rounds],
            "shards": shards,
        }
        write_json(folder / "corpus.json", corpus)
    return corpus


def find_tokenizer(path):
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected a tokenizer.json")
    return file


def load_tokenizer(file):
    """As transformers loads it: with the tokens that only the files beside it
    name. It neither cuts a text nor fills it up."""
    from tokenizers import Tokenizer

    try:
        if file.name == "tokenizer.json" and any(file.with_name(name).exists() for name in _BESIDE):
            from transformers import PreTrainedTokenizerFast

            tokenizer = PreTrainedTokenizerFast.from_pretrained(file.parent).backend_tokenizer
        else:
            tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:
        raise UserError(f"{file}: expected a tokenizer.json: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _first_tokens(tokenizer):
    """The ids that the tokenizer's template puts before a text."""
    samples = itertools.chain("a", tokenizer.get_vocab())
    sample = next(text for text in samples if tokenizer.encode(text, add_special_tokens=False).ids)
    text = tokenizer.encode(sample, add_special_tokens=False).ids
    whole = tokenizer.encode(sample).ids
    return next(whole[:i] for i in range(len(whole)) if whole[i : i + len(text)] == text)


def _find_eos(tokenizer, file, eos):
    config = file.with_name("tokenizer_config.json")
    if eos is None and config.exists():
        eos = read_json(config).get("eos_token")
        # Some checkpoints write the token with its properties.
        if isinstance(eos, dict):
            eos = eos.get("content")
    if eos is None:
        raise UserError(f"{config}: expected a key 'eos_token'; --eos names the token that ends a document")
    identifier = tokenizer.token_to_id(eos)
    if identifier is None:
        raise UserError(f"{file}: expected the end of text '{eos}' in the vocabulary, but it is not there")
    return identifier


def _group(paths, rounds):
    """{language: [(id, text), ...]} in the order of `rounds`, sorted by id."""
    groups = {code: {} for code in rounds}
    for path in paths:
        for number, record in read_documents(path):
            where = f"{path}:{number}"
            for key in ("id", "language"):
                if key not in record:
                    raise UserError(f"{where}: expected a key '{key}'; `polymoe import-text` adds it")
            language = check_language(record["language"], where)
            if language not in groups:
                raise UserError(f"{where}: expected a language of --rounds ({', '.join(rounds)}), but got '{language}'")
            if not record["text"].strip():
                raise UserError(f"{where}: expected a document with text, but '{record['id']}' is empty")
            if record["id"] in groups[language]:
                raise UserError(
                    f"{where}: expected each id once for a language, but got '{record['id']}' again in '{language}'"
                )
            groups[language][record["id"]] = record["text"]
    for language, documents in groups.items():
        if not documents:
            raise UserError(f"--rounds: expected documents in '{language}', but no file has any")
    return {language: sorted(documents.items()) for language, documents in groups.items()}


def _write_shards(folder, documents, rounds, shares, tokenizer, tokenizer_file, first, eos_id, shard_tokens, jobs):
    import numpy

    shards = []
    vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
    total = sum(len(group) for group in documents.values())
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, _start, [tokenizer.to_str()]) as pool, progress("tokenizing", total) as advance:
        for language in rounds:
            texts = {split: [] for split in SPLITS}
            for identifier, text in documents[language]:
                texts[split_of(identifier, shares[language])].append(text)
            if shares[language] != HELD_OUT and not texts["train"]:
                raise UserError(
                    f"--split: expected documents of '{language}' for training, but it has {len(documents[language])} documents in all"
                )
            for split in SPLITS:
                encoded = pool.imap(_encode, texts[split], chunksize=16)
                for index, shard in enumerate(_shards(encoded, texts[split], first, eos_id, shard_tokens, advance)):
                    tokens, offsets, sizes = shard
                    if tokens.max() >= vocabulary:
                        raise UserError(
                            f"{tokenizer_file}: token id {tokens.max()} is outside of its vocabulary of {vocabulary}"
                        )
                    name = f"{split}-{language}-{index:05}.safetensors"
                    save_tensors(
                        {
                            "tokens": tokens,
                            "documents": numpy.asarray(offsets, dtype=numpy.int64),
                            "bytes": numpy.asarray(sizes, dtype=numpy.int64),
                        },
                        folder / name,
                    )
                    shards.append(
                        {
                            "file": name,
                            "split": split,
                            "language": language,
                            "documents": len(sizes),
                            "tokens": len(tokens),
                        }
                    )
    return shards


def _shards(encoded, texts, first, eos_id, shard_tokens, advance):
    """Yields (tokens, offsets, bytes) with whole documents, at least one each."""
    import numpy

    parts, offsets, sizes = [], [0], []
    for ids, text in zip(encoded, texts, strict=True):
        document = numpy.asarray([*first, *ids, eos_id], dtype=numpy.int32)
        if sizes and offsets[-1] + len(document) > shard_tokens:
            yield numpy.concatenate(parts), offsets, sizes
            parts, offsets, sizes = [], [0], []
        parts.append(document)
        offsets.append(offsets[-1] + len(document))
        sizes.append(len(text.encode()))
        advance()
    if sizes:
        yield numpy.concatenate(parts), offsets, sizes


_tokenizer = None


def _start(state):
    """Makes the tokenizer once in each process."""
    from tokenizers import Tokenizer

    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = Tokenizer.from_str(state)


def _encode(text):
    return _tokenizer.encode(text, add_special_tokens=False).ids
