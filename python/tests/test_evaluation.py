# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""moe-run eval against the log-probabilities that moe-run score writes: short
rows and windows that overlap change no prediction."""

import json
import math

import numpy
import pytest
from safetensors.numpy import load_file, save_file

pytestmark = pytest.mark.tools

LENGTHS = [1, 2, 3, 9, 10, 16, 17, 18, 31, 32, 33, 34, 50, 97] * 3
SEQUENCE = 32


@pytest.fixture(scope="module")
def documents():
    generator = numpy.random.default_rng(5)
    texts = [generator.integers(1, 331, size=length, dtype=numpy.int32) for length in LENGTHS]
    for text in texts:
        text[-1] = 0
    return texts


@pytest.fixture(scope="module")
def corpus(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    tokens = numpy.concatenate(documents)
    ends = numpy.cumsum([0, *LENGTHS], dtype=numpy.int64)
    sizes = numpy.full(len(documents), 7, dtype=numpy.int64)
    save_file({"tokens": tokens, "documents": ends, "bytes": sizes}, folder / "test-en.safetensors")
    shard = {
        "file": "test-en.safetensors",
        "split": "test",
        "language": "en",
        "documents": len(documents),
        "tokens": int(tokens.size),
    }
    index = {"format": "polymoe-corpus", "version": 1, "vocabulary": 331, "eos": 0}
    index |= {"languages": [{"code": "en", "round": 0}], "shards": [shard]}
    (folder / "corpus.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def mixture(tool, checkpoint, upcycle, tmp_path_factory):
    module = tmp_path_factory.mktemp("llama") / "model.mlir"
    tool("moe-translate", "--import-hf", checkpoint("llama"), "-o", module)
    return upcycle(module, "counts=1,3,4")


def score(tool, model, rows, folder, dtype):
    """The log-probability of every token after the first of each row."""
    save_file({"tokens": numpy.stack(rows)}, folder / "tokens.safetensors")
    options = ("--tokens", folder / "tokens.safetensors", "--out", folder / "scores.safetensors", f"--dtype={dtype}")
    tool("moe-run", "score", model, *options)
    return load_file(folder / "scores.safetensors")["logprobs"].astype(float)


def expected(tool, model, documents, stride, folder, dtype):
    """The sum over windows of SEQUENCE + 1 tokens that begin a stride apart."""
    rows, taken = [], []
    for text in documents:
        begin, unpredicted = 0, 1
        while unpredicted < len(text):
            window = text[begin : begin + SEQUENCE + 1]
            rows.append(numpy.pad(window, (0, SEQUENCE + 1 - len(window))))
            taken.append((unpredicted - begin - 1, len(window) - 1))
            unpredicted = begin + len(window)
            begin += stride
    scores = score(tool, model, rows, folder, dtype)
    return -sum(row[first:last].sum() for row, (first, last) in zip(scores, taken, strict=True))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("stride", [SEQUENCE, 8])
def test_all_windows_predict_what_scoring_them_does(stride, dtype, mixture, corpus, documents, tool, tmp_path):
    found = {}
    for batch in (2, 5):
        options = (f"--sequence={SEQUENCE}", f"--stride={stride}", f"--batch={batch}", f"--dtype={dtype}")
        tool("moe-run", "eval", mixture, "--data", corpus, *options, "--json", tmp_path / "eval.json")
        (found[batch],) = json.loads((tmp_path / "eval.json").read_text())["languages"]
    nats = expected(tool, mixture, documents, stride, tmp_path, dtype)
    for language in found.values():
        assert language["documents"] == len(LENGTHS)
        assert language["tokens"] == sum(length - 1 for length in LENGTHS)
        # The same numbers, added in another order.
        assert math.isclose(language["negative_log_likelihood"], nats, rel_tol=1e-12)
