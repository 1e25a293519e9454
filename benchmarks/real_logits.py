#!/usr/bin/env python3
# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Logits and texts of a real checkpoint, ours and those of transformers.

Takes one row of tokens of each language from a corpus, and compares the logits
with those of transformers in float64: the root mean square of the error, ours
over transformers' own, with weights and arithmetic in fp32 and in bf16. Then
compares greedy continuations in fp32, token by token.

examples:
  benchmarks/real_logits.py work/models/smollm2 --text work/text/{en,el,hu,tr,es,zh}.jsonl
"""

import argparse
import itertools
import tempfile
from pathlib import Path

from common import run

from polymoe import reference
from polymoe.files import read_documents
from polymoe.tokenize import find_tokenizer, load_tokenizer

MOST = 1.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="Hugging Face folder")
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        required=True,
        help="<language>.jsonl, a row from each",
    )
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a row (default: 512)")
    parser.add_argument(
        "--generate",
        type=int,
        default=64,
        help="tokens of a continuation (default: 64)",
    )
    parser.add_argument(
        "--bin",
        type=Path,
        default=Path("build/bin"),
        help="folder of the tools (default: build/bin)",
    )
    args = parser.parse_args()

    import torch
    from safetensors.torch import save_file

    rows = torch.tensor([row_of(path, args) for path in args.text])
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        model = scratch / "model.mlir"
        run(args, "moe-translate", "--import-hf", args.checkpoint, "-o", model)
        save_file({"tokens": rows.int()}, scratch / "tokens.safetensors")
        exact = logits_of(args.checkpoint, rows, torch.float64)
        for dtype, torch_type in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            out = scratch / f"{dtype}.safetensors"
            run(
                args, "moe-run", "score", model, "--tokens", scratch / "tokens.safetensors", "--out", out, "--logits",
                f"--dtype={dtype}", "--batch=1",
            )  # fmt: skip
            theirs = error(logits_of(args.checkpoint, rows, torch_type), exact)
            ours = error(read(out), exact)
            print(
                f"{dtype}: error of the logits, in their standard deviation: ours {ours:.2e}, transformers' {theirs:.2e},"
                f" ratio {ours / theirs:.2f} ({'at most' if ours <= MOST * theirs else 'NOT at most'} {MOST})",
                flush=True,
            )
            out.unlink()
        compare_texts(args, model, rows)


def row_of(path, args):
    """The first tokens of a file's documents."""
    tokenizer = load_tokenizer(find_tokenizer(args.checkpoint))
    texts = (record["text"] for _, record in read_documents(path))
    ids = itertools.chain.from_iterable(tokenizer.encode(text).ids for text in texts)
    return list(itertools.islice(ids, args.tokens))


def logits_of(checkpoint, rows, dtype):
    import torch

    model = reference.load(checkpoint).to(dtype)
    with torch.inference_mode():
        return torch.cat([model(row[None], use_cache=False).logits for row in rows])


def read(path):
    from safetensors.torch import load_file

    return load_file(path)["logits"]


def error(logits, exact):
    """Row by row: all rows in f64 twice would not fit the memory."""
    squares = sum((got.double() - row).square().sum() for got, row in zip(logits, exact, strict=True))
    return ((squares / exact.numel()).sqrt() / exact.std()).item()


def compare_texts(args, model, rows):
    theirs = reference.load(args.checkpoint)
    for path, row in zip(args.text, rows, strict=True):
        prompt = row[:32].tolist()
        printed = run(
            args, "moe-run", "generate", model, "--prompt-tokens", ",".join(map(str, prompt)),
            f"--max-tokens={args.generate}", "--temperature=0", "--dtype=fp32", "--ignore-eos",
        )  # fmt: skip
        got = [int(item) for item in printed.strip().split(",")]
        expected = reference.generate(theirs, prompt, args.generate)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(got, expected, strict=True)))
        print(f"{path.stem}: {same} of {len(got)} greedy tokens are equal", flush=True)


if __name__ == "__main__":
    main()
