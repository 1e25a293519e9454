# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Text and tokenizers as people have them: read right, or one clear error."""

import gzip
import hashlib
import json
import resource

import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from polymoe import cli
from polymoe.files import read_documents, read_json, write_documents
from polymoe.import_text import import_text
from polymoe.splits import split_of

RECORD = {"id": "a", "language": "el", "text": "Καλημέρα"}


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    write_documents(path, [{**RECORD, "id": f"p{i}", "text": f"Καλημέρα κόσμε {i} " * 9} for i in range(60)])
    return path


@pytest.fixture
def folder(text, tmp_path):
    assert run("train-tokenizer", text, "--out", tmp_path / "tokenizer", "--vocab-size", 280) == 0
    return tmp_path / "tokenizer"


@pytest.fixture
def change(folder):
    """change(name, function) rewrites a JSON file of the tokenizer."""

    def apply(name, function):
        path = folder / name
        value = read_json(path)
        function(value)
        path.write_text(json.dumps(value))

    return apply


@pytest.fixture
def tokenize(text, folder, tmp_path):
    """tokenize(*options) -> (corpus.json, ids of the first training document)"""

    def call(*options, texts=text, out="corpus"):
        out = tmp_path / out
        assert run("tokenize", texts, "--tokenizer", folder, "--rounds", "el=1", "--out", out, *options) == 0
        corpus = read_json(out / "corpus.json")
        shard = load_file(out / corpus["shards"][0]["file"])
        return corpus, shard["tokens"][: shard["documents"][1]].tolist()

    return call


# Tokenizers.


def test_truncation_and_padding_of_the_tokenizer_are_not_obeyed(folder, tokenize):
    _, whole = tokenize("--jobs", 1)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=500)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert tokenize("--jobs", 1, out="again")[1] == whole
    assert 9 < len(whole) < 500


def template(tokenizer):
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}},
    }


def test_documents_begin_as_the_template_says(tokenize, change):
    corpus, plain = tokenize()
    assert corpus["bos"] == []
    change("tokenizer.json", template)
    corpus, ids = tokenize(out="bos")
    assert corpus["bos"] == [7] and ids == [7, *plain]
    corpus, ids = tokenize("--no-bos", out="no-bos")
    assert corpus["bos"] == [] and ids == plain


def test_the_corpus_records_its_tokenizer(folder, tokenize):
    corpus, _ = tokenize()
    assert corpus["tokenizer_sha256"] == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()


def test_tokens_of_the_configuration_alone_are_known(folder, text, tokenize, change, tmp_path):
    from transformers import AutoTokenizer

    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    token = {"content": "κόσμε", "special": False, "normalized": False, "lstrip": True}
    change("tokenizer_config.json", lambda config: config.update(added_tokens_decoder={str(size): token}))
    corpus, ids = tokenize()
    assert corpus["vocabulary"] == size + 1 and ids.count(size) == 9
    documents = sorted((record["id"], record["text"]) for _, record in read_documents(text))
    first = next(text for identifier, text in documents if split_of(identifier) == "train")
    for place in (folder, tmp_path / "corpus"):
        assert ids[:-1] == AutoTokenizer.from_pretrained(place)(first).input_ids


# Files.


def test_jobs_below_one_are_refused(text, folder, tmp_path, capsys):
    for command in (
        ["tokenize", text, "--tokenizer", folder, "--rounds", "el=1", "--out", tmp_path / "o"],
        ["fetch-text", "el"],
    ):
        assert run(*command, "--jobs=0") == 1
        assert "--jobs: expected at least 1, but got 0" in capsys.readouterr().err


def test_a_full_disk_is_an_error(text, folder, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        code = run("tokenize", text, "--tokenizer", folder, "--rounds", "el=1", "--out", tmp_path / "corpus")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert code == 1 and "train-el-00000.safetensors: cannot be written" in error and "Traceback" not in error
    assert not (tmp_path / "corpus").exists()


LINE = json.dumps(RECORD, ensure_ascii=False)
READ = {
    "jsonl": ("a.jsonl", LINE.encode()),
    "upper case": ("a.JSONL", LINE.encode()),
    "mark": ("a.jsonl", b"\xef\xbb\xbf" + LINE.encode()),
    "utf-16": ("a.jsonl", (LINE + "\n").encode("utf-16")),
    "utf-16 without a mark": ("a.jsonl", (LINE + "\n").encode("utf-16-le")),
    "array": ("a.json", b"\n [" + LINE.encode() + b"]\n"),
    "array with a mark": ("a.JSON", b"\xef\xbb\xbf[\n" + LINE.encode() + b"]\n"),
    "gzip": ("a.jsonl.gz", gzip.compress(LINE.encode())),
    "gzip of an array": ("a.json.gz", gzip.compress(b"[" + LINE.encode() + b"]")),
    "gzip by another name": ("a.jsonl", gzip.compress(LINE.encode())),
    "a long number": ("a.jsonl", LINE.replace("{", '{"n": ' + "9" * 5000 + ", ").encode()),
    "code": ("a.jsonl", LINE.replace('"el"', '"EL"').encode()),
    "plain text": ("a.txt", "Καλημέρα".encode("utf-16")),
    "plain text in gzip": ("a.txt.gz", gzip.compress("Καλημέρα".encode())),
}


@pytest.mark.parametrize(("name", "content"), READ.values(), ids=READ)
def test_text_is_read(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    documents, _ = import_text([f"el={tmp_path / name}"])
    assert [document["text"] for document in documents["el"]] == ["Καλημέρα"]


REFUSED = {
    "lone surrogate in an id": ("a.jsonl", b'{"id": "\\ud800", "text": "a"}', ":1: expected Unicode text"),
    "levels": ("a.jsonl", b'{"text": "a", "x": ' + b"[" * 200000, ":1: expected one JSON object a line"),
    "boolean id": ("a.jsonl", b'{"id": true, "text": "a"}', ":1: expected a string as 'id', but got a boolean"),
    "element": ("a.json", b'[{"text": "a"}, 7]', ":2: expected a JSON object, but got a number"),
    "long key": ("a.jsonl", b'{"' + b"k" * 3000000 + b'": 1}', ":1: expected a key 'text'"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(LINE.encode())[:-9], ": expected a whole gzip file"),
    "utf-16 without a mark": ("a.txt", "ab\n\ncd".encode("utf-16-le"), ":1: expected text in UTF-8, but got a zero"),
    "cut utf-16": ("a.jsonl", (LINE + "\n").encode("utf-16")[:-1], ": expected utf-16"),
}


@pytest.mark.parametrize(("name", "content", "message"), REFUSED.values(), ids=REFUSED)
def test_text_is_refused(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert run("import-text", f"el={tmp_path / name}", "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / name}{message}" in error and error.count("\n") == 1 and len(error) < 5000


def test_integer_ids_are_read(tokenize, tmp_path):
    (tmp_path / "ids.jsonl").write_text("".join(LINE.replace('"a"', str(i)) + "\n" for i in range(60)))
    assert tokenize(texts=tmp_path / "ids.jsonl")[0]["shards"][0]["documents"] > 50


@pytest.mark.parametrize("blank", ["", " \t", "\u3000", "\u00a0", "\u200b", "\ufeff", "\x0b"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_without_ink_parts_documents(blank, end, tmp_path):
    (tmp_path / "a.txt").write_bytes(f"ένα{end}{blank}{end}δύο{end}".encode())
    documents, _ = import_text([f"el={tmp_path / 'a.txt'}"])
    assert [document["text"] for document in documents["el"]] == ["ένα", "δύο"]


@pytest.mark.parametrize("code", ["zh-Hans", "zh_Hans", "ZH-HANS"])
def test_the_case_of_a_code_means_nothing(code, tmp_path):
    (tmp_path / "a.jsonl").write_text(LINE.replace('"el"', f'"{code}"'))
    documents, _ = import_text([str(tmp_path / "a.jsonl")], allowed=["zh-hans"])
    assert documents["zh-hans"][0]["language"] == "zh-hans"
    assert import_text([f"{code}={tmp_path / 'a.jsonl'}"])[0].keys() == {"zh-hans"}
