# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Fetching, importing, tokenizing: everything up to the corpus folder."""

import json
import shutil
import subprocess

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from polymoe import cli
from polymoe.fetch_text import clean_pages, parse_page
from polymoe.files import read_json, write_documents
from polymoe.import_text import import_text
from polymoe.languages import HELP_PACKAGES
from polymoe.splits import split_of
from polymoe.tokenize import load_tokenizer

PAGE = """<html><body><header><p>Help</p></header><div id="DisplayArea">
<h1 id="h1">Charts</h1>
<p id="p1">Insert   a <span class="emph">chart</span><br>with <code>=SUM()</code>
<span class="MAC">Command</span><span>Ctrl</span>+X.</p>
<p class="code">Print x</p><div class="bascode"><pre>Dim x</pre></div><script>var x</script>
<p id="p2">3.14</p></div><footer><p>Debug</p></footer></body></html>"""


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_a_page_gives_its_paragraphs():
    assert parse_page(PAGE.encode()) == [("h1", "Charts"), ("p1", "Insert a chart with =SUM() Ctrl+X.")]


def test_untranslated_and_repeated_paragraphs_are_dropped():
    english = "This sentence is long enough to tell that nobody translated it."
    own = "Diese Seite hat ihren eigenen Absatz, lang genug für ein Dokument, Nummer {}."
    pages = {f"page{i}": [("a", english), ("b", "Siehe auch"), ("c", own.format(i))] for i in range(6)}
    documents = clean_pages(pages, "de", {page: {"a": english} for page in pages})
    assert documents[0] == {"id": "page0", "language": "de", "text": own.format(0)}
    assert len(documents) == 6


def test_cached_text_is_not_fetched_again(tmp_path, monkeypatch):
    from polymoe import debian, fetch_text

    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "el.jsonl").write_text("{}\n")
    about = {"cleaner": fetch_text.CLEANER_VERSION, "documents": 1, "characters": 2}
    (tmp_path / "text" / "el.about.json").write_text(json.dumps(about))
    monkeypatch.setattr(debian, "download", lambda *_: pytest.fail("downloaded again"))
    assert run("fetch-text", "el", "--work", tmp_path) == 0


def test_an_unknown_help_language_is_refused(tmp_path, capsys):
    assert run("fetch-text", "xx", "--work", tmp_path) == 1
    assert "no help package for 'xx'" in capsys.readouterr().err


def test_splits_depend_on_the_id_alone():
    splits = [split_of(f"page-{i}") for i in range(5000)]
    assert 0.95 < splits.count("train") / 5000 < 0.97
    assert splits.count("valid") > 60 < splits.count("test")
    # Frozen: a corpus made today must not leak into a test set made tomorrow.
    assert [split_of(f"page-{i}", (40, 30, 30)) for i in range(4)] == ["valid", "train", "test", "valid"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a", "language": "qq"}\n', ":1: expected a language code"),
        (b'{"text": "a", "language": "Greek"}\n', ":1: expected a language code"),
        (b'{"text": "a"}\n', ":1: expected a key 'language'"),
        (b'{"language": "el"}\n', ":1: expected a key 'text'"),
        (b'{"text": 3, "language": "el"}\n', ":1: expected a string as 'text', but got a number"),
        (b'["text"]\n', ":1: expected a JSON object, but got a list"),
        (b'{"text": "a"\n', ":1: expected one JSON object a line"),
        (b'{"text": "a", "language": "el"}\n{"text": "\xff"}\n', ":2: expected UTF-8"),
        (b'{"text": "\\ud800", "language": "el"}\n', ":1: expected Unicode text"),
        (b'{"text": "  ", "language": "el"}\n', ":1: expected a document with text"),
        (b'{"text": "a", "language": "el"}\n{"text": "a", "language": "el"}\n', ":2: the same text in 'el' is at"),
        (b'{"id": "x", "text": "a", "language": "el"}\n{"id": "x", "text": "b", "language": "el"}\n', ":2: the id 'x'"),
        (b"", "expected at least one document"),
    ],
)
def test_bad_records_are_refused(content, message, tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    assert run("import-text", path, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error and str(path) in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_plain_text_is_split_at_blank_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\ufeffένα\nδύο\n\n \nτρία\n", encoding="utf-8")
    documents, _ = import_text([f"el={path}"])
    assert [document["text"] for document in documents["el"]] == ["ένα\nδύο", "τρία"]
    whole, _ = import_text([str(path)], language="el", whole_file=True)
    assert len(whole["el"]) == 1


def test_a_record_may_not_contradict_its_file(tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a", "language": "el"}\n')
    assert run("import-text", f"en={path}", "--out", tmp_path / "out") == 1
    assert "expected the file's language 'en', but the record says 'el'" in capsys.readouterr().err


def test_bad_documents_can_be_left_out(tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"text": "a", "language": "el"}\n{"text": "a", "language": "el"}\n{"text": "", "language": "el"}\n'
    )
    assert run("import-text", path, "--out", tmp_path / "out", "--skip-bad") == 0
    assert "left out: 1 repeated" in capsys.readouterr().err
    assert len((tmp_path / "out" / "el.jsonl").read_text().splitlines()) == 1


@pytest.fixture
def text(documents, tmp_path):
    paths = []
    for language, group in documents.items():
        paths.append(tmp_path / "text" / f"{language}.jsonl")
        write_documents(paths[-1], group)
    return paths


@pytest.fixture
def tokenizer(text, tmp_path):
    folder = tmp_path / "tokenizer"
    assert run("train-tokenizer", *text, "--out", folder, "--vocab-size", 300) == 0
    return folder


def test_a_tokenizer_is_the_same_every_time(text, tokenizer, tmp_path):
    assert run("train-tokenizer", *text, "--out", tmp_path / "again", "--vocab-size", 300) == 0
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tokenizer / name).read_bytes()


def test_a_tokenizer_keeps_every_byte(tokenizer):
    loaded = load_tokenizer(tokenizer / "tokenizer.json")
    for sample in ("Καλημέρα\n  κόσμε", "日本語 🙂", "\x00\x01"):
        assert loaded.decode(loaded.encode(sample).ids) == sample


def test_transformers_loads_the_tokenizer(tokenizer):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    assert loaded.eos_token_id == 0
    assert loaded("Insert").input_ids == load_tokenizer(tokenizer / "tokenizer.json").encode("Insert").ids


def tokenize(text, tokenizer, out, *options, rounds="en=0,el=1"):
    return run(
        "tokenize",
        *text,
        "--tokenizer",
        tokenizer,
        "--out",
        out,
        "--rounds",
        rounds,
        "--split",
        "60/20/20",
        "--jobs",
        1,
        *options,
    )


def test_a_corpus_is_what_the_architecture_says(text, tokenizer, documents, tmp_path):
    out = tmp_path / "corpus"
    assert tokenize(text, tokenizer, out) == 0
    corpus = read_json(out / "corpus.json")
    assert corpus.keys() == {
        "format", "version", "vocabulary", "bos", "eos", "tokenizer", "tokenizer_sha256", "languages", "shards",
    }  # fmt: skip
    assert (corpus["format"], corpus["version"], corpus["vocabulary"], corpus["eos"]) == ("polymoe-corpus", 1, 300, 0)
    assert corpus["languages"] == [{"code": "en", "round": 0}, {"code": "el", "round": 1}]
    loaded = load_tokenizer(out / corpus["tokenizer"])
    seen = {}
    for shard in corpus["shards"]:
        tensors = load_file(out / shard["file"])
        with safe_open(out / shard["file"], "np") as file:
            types = {key: file.get_slice(key).get_dtype() for key in file.keys()}
        assert types == {"tokens": "I32", "documents": "I64", "bytes": "I64"}
        tokens, offsets, sizes = tensors["tokens"], tensors["documents"], tensors["bytes"]
        assert (shard["documents"], shard["tokens"]) == (len(sizes), len(tokens))
        assert offsets[0] == 0 and offsets[-1] == len(tokens)
        for start, end, size in zip(offsets[:-1], offsets[1:], sizes, strict=True):
            assert tokens[end - 1] == corpus["eos"]
            document = loaded.decode(tokens[start : end - 1].tolist())
            assert len(document.encode()) == size
            seen[shard["language"], document] = shard["split"]
    ids = {(language, d["text"]): d["id"] for language, group in documents.items() for d in group}
    assert seen.keys() == ids.keys()
    # A document and its translation are in the same split.
    assert all(split == split_of(ids[key], (60, 20, 20)) for key, split in seen.items())


def test_a_corpus_is_the_same_for_any_jobs_and_order(text, tokenizer, tmp_path):
    assert tokenize(text, tokenizer, tmp_path / "a") == 0
    assert tokenize(text[::-1], tokenizer, tmp_path / "b", "--jobs", 2) == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_shards_hold_whole_documents(text, tokenizer, tmp_path):
    assert tokenize(text, tokenizer, tmp_path / "a", "--shard-tokens", 5) == 0
    assert all(shard["documents"] == 1 for shard in read_json(tmp_path / "a" / "corpus.json")["shards"])


def test_an_existing_corpus_is_kept(text, tokenizer, tmp_path, capsys):
    assert tokenize(text, tokenizer, tmp_path / "a") == 0
    assert tokenize(text, tokenizer, tmp_path / "a") == 1
    assert "--force" in capsys.readouterr().err
    assert tokenize(text, tokenizer, tmp_path / "a", "--force") == 0


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        ("en=0", "expected a language of --rounds (en), but got 'el'"),
        ("en=0,el=1,hu=1", "expected documents in 'hu'"),
        ("en=0,el=x", "expected LANGUAGE=ROUND"),
        ("en=0,en=1", "'en' twice"),
        ("english=0", "expected a language code"),
    ],
)
def test_bad_rounds_are_refused(rounds, message, text, tokenizer, tmp_path, capsys):
    assert tokenize(text, tokenizer, tmp_path / "a", rounds=rounds) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_a_repeated_id_is_refused(text, tokenizer, tmp_path, capsys):
    assert tokenize([*text, text[0]], tokenizer, tmp_path / "a") == 1
    assert "expected each id once" in capsys.readouterr().err


def test_help_teaches(capsys):
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit) as exit:
            run(command, "--help")
        assert exit.value.code == 0
        printed = capsys.readouterr().out
        assert "examples:" in printed, command


def help_package(folder, language, paragraphs):
    """A package as Debian has it, with a page for each paragraph."""
    name = HELP_PACKAGES[language]
    root = folder / f"root-{language}"
    text = root / "usr/share/libreoffice/help" / name / "text" / "scalc"
    text.mkdir(parents=True)
    for i, paragraph in enumerate(paragraphs):
        (text / f"page{i}.html").write_text(
            f'<div id="DisplayArea"><p id="p{i}">{paragraph}</p></div>', encoding="utf-8"
        )
    (root / "DEBIAN").mkdir()
    control = f"Package: libreoffice-help-{name}\nVersion: 1\nArchitecture: all\nMaintainer: none\nDescription: help\n"
    (root / "DEBIAN" / "control").write_text(control)
    folder.mkdir(exist_ok=True)
    package = folder / f"libreoffice-help-{name}_1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, package], check=True, capture_output=True)
    shutil.rmtree(root)


def test_fetched_text_is_parallel(tmp_path):
    """Packages that are there already are not downloaded."""
    english = [f"Page {i} says in English what a cell is and how it is filled with a number." for i in range(9)]
    greek = [f"Η σελίδα {i} λέει στα ελληνικά τι είναι ένα κελί και πώς γεμίζει με αριθμό." for i in range(9)]
    greek[3] = english[3]  # not translated
    help_package(tmp_path / "debs", "en", english)
    help_package(tmp_path / "debs", "el", greek)
    assert run("fetch-text", "en", "el", "--work", tmp_path, "--jobs", 1) == 0
    texts = {}
    for code in ("en", "el"):
        with open(tmp_path / "text" / f"{code}.jsonl", encoding="utf-8") as file:
            texts[code] = {document["id"]: document["text"] for document in map(json.loads, file)}
    assert list(texts["en"].values()) == english
    assert texts["en"].keys() - texts["el"].keys() == {"scalc/page3"}
    assert all(texts["el"][f"scalc/page{i}"] == greek[i] for i in range(9) if i != 3)
