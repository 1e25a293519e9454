# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Bring your own text into the form that the other commands read.

Takes JSON lines ({"text": ...} a line, with "language" and "id" if you have
them), a .json file that is one array of such objects, and plain text
(documents separated by blank lines, or the whole file with --whole-file); all
of them also compressed by gzip. The language comes from the record, from --language, or
from LANGUAGE=FILE; the two must not contradict each other.

Everything is checked: UTF-8, known languages, empty documents, documents that
are there twice. A problem stops the import and names the line; with
--skip-bad, empty and repeated documents are left out and counted.

A document without an id gets one from its text. Give translations of one
document the same id, so that no translation of a test document is trained on.

Writes OUT/<language>.jsonl with one {"id", "language", "text"} a line.

examples:
  polymoe import-text el=news-el.txt en=news-en.txt --out work/own
  polymoe import-text records.jsonl --out work/own --languages el,en
"""

import codecs
import collections
import hashlib
import re
from pathlib import Path

from polymoe.errors import UserError
from polymoe.files import content_suffix, open_bytes, read_documents, write_documents
from polymoe.languages import check_language
from polymoe.progress import progress, say

_JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}
_LANGUAGE_AND_FILE = re.compile(r"([A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*)=(.+)")
# Lines without ink: white space of any script, and characters of no width.
_BLANK_LINES = re.compile("(\n(?:(?:[^\\S\n]|[\u200b\u200c\u200d\u2060\ufeff])*\n)+)")


def add_arguments(parser):
    parser.add_argument(
        "files", nargs="+", metavar="[LANGUAGE=]FILE", help="JSON lines (.jsonl, .json) or plain text (anything else)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--language", help="the language of files and records that name none")
    parser.add_argument("--languages", help="accept only these languages, with commas (default: every ISO 639 code)")
    parser.add_argument("--whole-file", action="store_true", help="a plain text file is one document")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave empty and repeated documents out instead of stopping"
    )
    parser.add_argument("--force", action="store_true", help="replace files of OUT")


def run(args):
    allowed = args.languages.split(",") if args.languages else None
    documents, skipped = import_text(args.files, args.language, allowed, args.whole_file, args.skip_bad)
    paths = {language: args.out / f"{language}.jsonl" for language in documents}
    for path in paths.values():
        if path.exists() and not args.force:
            raise UserError(f"{path}: expected no such file yet, or --force to replace it")
    for language, group in documents.items():
        write_documents(paths[language], group)
        say(
            f"{language}: {len(group)} documents, {sum(len(document['text']) for document in group)} characters, {paths[language]}"
        )
    for reason, count in skipped.items():
        say(f"left out: {count} {reason}")


def import_text(files, language=None, allowed=None, whole_file=False, skip_bad=False):
    """({language: [document, ...]}, {reason: number left out})"""
    language = language and check_language(language, "--language")
    allowed = allowed and [check_language(code, "--languages") for code in allowed]
    documents, skipped = {}, collections.Counter()
    ids, texts = {}, {}
    with progress("importing", len(files)) as advance:
        for item in files:
            match = _LANGUAGE_AND_FILE.fullmatch(item)
            file_language, path = (match[1], Path(match[2])) if match else (language, Path(item))
            file_language = file_language and check_language(file_language, path)
            for where, record in _records(path, whole_file):
                document = _document(record, where, file_language, allowed)
                reason = _problem(document, where, ids, texts)
                if reason is None:
                    documents.setdefault(document["language"], []).append(document)
                elif skip_bad:
                    skipped[reason[0]] += 1
                else:
                    raise UserError(f"{where}: {reason[1]} (--skip-bad leaves such documents out)")
            advance()
    if not documents:
        raise UserError(f"{', '.join(files)}: expected at least one document with text")
    return documents, skipped


def _records(path, whole_file):
    """(where, record) of a file of either kind."""
    if content_suffix(path) in _JSON_SUFFIXES:
        for number, record in read_documents(path):
            yield f"{path}:{number}", record
        return
    text = re.sub("\r\n?", "\n", _text(path))
    if whole_file:
        yield f"{path}:1", {"text": text}
        return
    line = 1
    for index, part in enumerate(_BLANK_LINES.split(text)):
        if index % 2 == 0 and part.strip():
            yield f"{path}:{line}", {"text": part}
        line += part.count("\n")


def _text(path):
    """A plain text file: UTF-8, or UTF-16 that says so by its first character."""
    with open_bytes(path) as file:
        raw = file.read()
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        wanted = "UTF-16" if marked else "UTF-8"
        raise UserError(f"{path}:{line}: expected {wanted}, but byte {error.start} of the file is not") from None
    if (place := text.find("\0")) >= 0:
        line = text[:place].count("\n") + 1
        raise UserError(
            f"{path}:{line}: expected text in UTF-8, but got a zero, as in UTF-16 without a mark; `iconv -f UTF-16LE"
            " -t UTF-8` converts that"
        )
    return text


def _document(record, where, file_language, allowed):
    language = record.get("language", file_language)
    if language is None:
        raise UserError(f"{where}: expected a key 'language', or --language, or LANGUAGE=FILE")
    language = check_language(language, where)
    if file_language is not None and language != file_language:
        raise UserError(f"{where}: expected the file's language '{file_language}', but the record says '{language}'")
    if allowed is not None and language not in allowed:
        raise UserError(f"{where}: expected a language of --languages ({', '.join(allowed)}), but got '{language}'")
    text = record["text"].strip()
    identifier = record.get("id") or hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"id": identifier, "language": language, "text": text}


def _problem(document, where, ids, texts):
    """None, or (what to count, what to say)."""
    language = document["language"]
    if not document["text"]:
        return "empty", "expected a document with text, but it is empty"
    text_key = language, hashlib.sha256(document["text"].encode()).digest()
    if text_key in texts:
        return "repeated", f"the same text in '{language}' is at {texts[text_key]}"
    id_key = language, document["id"]
    if id_key in ids:
        return "repeated", f"the id '{document['id']}' in '{language}' is at {ids[id_key]}"
    texts[text_key] = ids[id_key] = where
    return None
