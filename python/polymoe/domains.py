# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""English of other domains than the help: where a model forgets unseen.

Text that is never trained on, only evaluated, from Debian packages. A domain's
texts are cut into pieces, and the same small sample of them is drawn always.
"""

import dataclasses
import gzip
import hashlib
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from polymoe import debian
from polymoe.errors import UserError

# Raised when the reading changes, so that cached text is made anew.
VERSION = 1

# Half of a sample is for validation, half for test: together the test halves
# of all domains are some 60,000 tokens of a tokenizer that knows English.
SAMPLE_BYTES = 100_000
PIECE_CHARACTERS = 2000


@dataclasses.dataclass(frozen=True)
class Domain:
    about: str
    package: str | None  # to unpack; none: apt's own lists
    read: Callable  # (folder of the unpacked package, or of apt's lists) -> {name: text}


def fetch(code, folder):
    """The domain's documents and what they came from."""
    domain = DOMAINS[code]
    if domain.package is None:
        texts, source = domain.read(folder), "apt lists"
    else:
        package = debian.download([domain.package], folder)[domain.package]
        source = package.name
        with tempfile.TemporaryDirectory(prefix="polymoe-domain-") as scratch:
            debian.unpack(package, scratch)
            texts = domain.read(Path(scratch))
    documents = sample(code, texts)
    if not documents:
        raise UserError(f"{source}: expected text for '{code}', but found none")
    return documents, source


def sample(code, texts):
    """Documents of about SAMPLE_BYTES, drawn by the hash of their id."""
    pieces = {f"{code}/{name}/{i}": piece for name, text in texts.items() for i, piece in enumerate(cut(text))}
    drawn, size = [], 0
    for identifier in sorted(pieces, key=lambda identifier: hashlib.sha256(identifier.encode()).digest()):
        if size >= SAMPLE_BYTES:
            break
        drawn.append({"id": identifier, "language": code, "text": pieces[identifier]})
        size += len(pieces[identifier].encode())
    return drawn


def cut(text):
    """Pieces of about PIECE_CHARACTERS, divided where a line is blank."""
    piece = ""
    for paragraph in re.split(r"\n\s*\n", text):
        piece += ("\n\n" if piece else "") + paragraph.strip("\n").rstrip()
        if len(piece) >= PIECE_CHARACTERS:
            yield piece
            piece = ""
    if any(character.isalpha() for character in piece):
        yield piece


# Readers.


def _manual_pages(folder):
    pages = {}
    for path in sorted(folder.glob("usr/share/man/man[457]/*.gz")):
        if path.is_symlink():
            continue
        text = plain_manual(gzip.decompress(path.read_bytes()).decode())
        # Some pages only name another page.
        if len(text) > PIECE_CHARACTERS:
            pages[path.name.removesuffix(".gz")] = text
    return pages


_FONT_MACROS = {"B", "I", "SM", "SB", "BR", "RB", "BI", "IB", "IR", "RI"}
_PARAGRAPH_MACROS = {"PP", "P", "LP", "TP", "IP", "HP", "TQ", "sp", "RS", "RE"}
_ARGUMENT = re.compile(r'"([^"]*)"?|(\S+)')
_CHARACTERS = {
    "-": "-", "e": "\\", "&": "", "|": "", "^": "", "/": "", ",": "", ":": "", "%": "", "c": "", "~": " ", " ": " ",
    "0": " ", "aq": "'", "cq": "’", "oq": "‘", "dq": '"', "lq": "“", "rq": "”", "em": "—", "en": "–", "bu": "•",
    "ha": "^", "ti": "~", "rs": "\\", "ga": "`", "co": "©", ".": ".", "'": "´", "`": "`",
}  # fmt: skip
_ESCAPE = re.compile(
    r"\\(?:f(?:\(..|\[[^]]*\]|.)|s[-+]?\d+|\*?\((?P<two>..)|\*?\[(?P<long>[^]]*)\]|\".*|(?P<one>.))", re.M
)


def plain_manual(roff):
    """The text of a page written with the man macros, without tables."""
    text, in_table, literal, after = "", False, False, " "
    for line in roff.splitlines():
        if line.startswith(("'", ".")):
            macro, _, rest = line[1:].strip().partition(" ")
            in_table = (in_table or macro == "TS") and macro != "TE"
            literal = (literal or macro in ("EX", "nf")) and macro not in ("EE", "fi")
            # Alternating fonts join their arguments, one font keeps them apart.
            words = [quoted or word for quoted, word in _ARGUMENT.findall(rest)]
            line = ("" if len(macro) == 2 and macro not in ("SH", "SS") else " ").join(words)
            if macro in _PARAGRAPH_MACROS or macro in ("SH", "SS"):
                text = text.rstrip() + "\n\n"
            # What a paragraph is about stands on a line of its own.
            if macro in ("SH", "SS", "TP", "TQ"):
                after = "\n"
            if macro not in _FONT_MACROS and macro not in ("SH", "SS"):
                continue
        if not in_table and line.strip():
            text += _unescape(line) + ("\n" if literal else after)
            after = " "
    return text.strip() + "\n"


def _unescape(text):
    def character(match):
        name = match["two"] or match["long"] or match["one"]
        return _CHARACTERS.get(name, "") if name else ""

    return _ESCAPE.sub(character, text)


def _licences(folder):
    return {path.name: path.read_text() for path in _files(folder / "usr/share/common-licenses")}


def _python_library(folder):
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted(folder.glob("usr/lib/python3*/*.py"))
        if not path.is_symlink()
    }


def _files(folder):
    return sorted(path for path in folder.glob("*") if path.is_file() and not path.is_symlink())


def _novels(folder):
    """The novels in a database of R: compressed vectors of strings, each a
    line after its length."""
    data = next(iter(folder.glob("usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")), None)
    if data is None:
        return {}
    packed, novels = data.read_bytes(), {}
    while packed:
        reader = zlib.decompressobj()
        # Four bytes before each vector say how long it is unpacked.
        vector = reader.decompress(packed[4:])
        packed = reader.unused_data
        lines, place = [], vector.find(_R_STRING)
        while place != -1:
            start = place + len(_R_STRING) + 4
            end = start + struct.unpack(">I", vector[start - 4 : start])[0]
            lines.append(vector[start:end].decode())
            place = vector.find(_R_STRING, end)
        novels[lines[0].lower()] = "\n".join(lines)
    return novels


# The type and flags of a string in ASCII, before its length.
_R_STRING = b"\x00\x04\x00\x09"

# How each begins in the table: en for what a base that knows English should
# keep.
DOMAINS = {
    "en-manual": Domain("manual pages of Linux, sections 4, 5 and 7", "manpages", _manual_pages),
    "en-packages": Domain("descriptions of Debian's packages", None, debian.descriptions),
    "en-licences": Domain("texts of free licences that Debian carries", "base-files", _licences),
    "en-books": Domain("Jane Austen's novels", "r-cran-janeaustenr", _novels),
    "en-code": Domain("source of Python's library, with its docstrings", "libpython3.11-stdlib", _python_library),
}
