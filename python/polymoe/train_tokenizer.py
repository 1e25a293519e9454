# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Train a byte-level BPE tokenizer on fetched or imported text.

Every language gives the same number of bytes (as many as the smallest file
has, or --bytes), so that no script is spelt out byte by byte because another
has more text. Only documents of the training split are read.

Writes OUT/tokenizer.json and OUT/tokenizer_config.json, as transformers,
`polymoe tokenize` and moe-run read them.

examples:
  polymoe train-tokenizer work/text/{en,es,zh,el,hu,tr}.jsonl --out work/tokenizer
  polymoe train-tokenizer own.jsonl --vocab-size 16384 --out work/tokenizer
"""

from pathlib import Path

from polymoe.errors import UserError
from polymoe.files import atomic_path, read_documents, write_json
from polymoe.progress import say
from polymoe.splits import parse_split, split_of

EOS = "<|endoftext|>"


def add_arguments(parser):
    parser.add_argument("text", nargs="+", type=Path, metavar="FILE.jsonl", help="documents, a file for each language")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--vocab-size", type=int, default=8192, help="entries with the 256 bytes and the end of text (default: 8192)"
    )
    parser.add_argument(
        "--bytes", type=int, help="UTF-8 bytes to read of each file (default: as many as the smallest has)"
    )
    parser.add_argument("--split", default="96/2/2", help="train/valid/test shares, as in tokenize (default: 96/2/2)")


def run(args):
    tokenizer = train(args.text, args.vocab_size, args.bytes, args.split)
    write(tokenizer, args.out)
    say(f"{args.out}: a vocabulary of {tokenizer.get_vocab_size()}")


def train(paths, vocab_size=8192, size=None, split="96/2/2"):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise UserError(f"--vocab-size: expected at least 257 (256 bytes and the end of text), but got {vocab_size}")
    shares = parse_split(split)
    texts = [_training_texts(path, shares) for path in paths]
    size = size or min(sum(len(text.encode()) for text in language) for language in texts)
    sample = [text for language in texts for text in _take(language, size)]

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    say(f"training on {size} bytes of each of {len(paths)} files")
    tokenizer.train_from_iterator(sample, trainer, length=len(sample))
    return tokenizer


def write(tokenizer, folder):
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "tokenizer.json") as temporary:
        tokenizer.save(str(temporary))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": EOS,
            "pad_token": EOS,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1 << 20,
        },
    )


def _training_texts(path, shares):
    texts = [
        record["text"]
        for _, record in read_documents(path)
        if split_of(record.get("id", record["text"]), shares) == "train"
    ]
    if not texts:
        raise UserError(f"{path}: expected at least one document of the training split")
    return texts


def _take(texts, size):
    for text in texts:
        if size <= 0:
            return
        yield text
        size -= len(text.encode())
