# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Files: JSON lines in, and writes that are either whole or not there."""

import contextlib
import gzip
import importlib
import io
import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path

from polymoe.errors import UserError


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path` that replaces it on success."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path, replace=False):
    """Yields a temporary folder that becomes `path` on success.

    An existing `path` is an error unless it is empty or `replace` is given.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()) and not replace:
        raise UserError(f"{path}: expected no such folder yet, or --force to replace it")
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: expected a folder to write, but it is a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            old = temporary.with_name(temporary.name + ".old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path):
    path = Path(path)
    try:
        return _parse(path.read_text(encoding="utf-8-sig"), path, "JSON", has_lines=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8, but byte {error.start} is not") from None


def write_documents(path, documents):
    """Writes documents ({"id", "language", "text"}) as JSON lines."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps(document, ensure_ascii=False) + "\n")


def read_documents(path):
    """Yields (line number, record) of a file of JSON lines, or of one array in a
    .json; either may be compressed by gzip. Each record is checked to be an
    object with a string as "text"; an "id" that is an integer becomes a string."""
    path = Path(path)
    for number, record in _records(path):
        where = f"{path}:{number}"
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected a JSON object, but got {_kind(record)}")
        if isinstance(record.get("id"), int) and not isinstance(record["id"], bool):
            record["id"] = str(record["id"])
        for key in ("id", "language", "text"):
            if key in record and not isinstance(record[key], str):
                raise UserError(f"{where}: expected a string as '{key}', but got {_kind(record[key])}")
            try:
                record.get(key, "").encode("utf-8")
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{where}: expected Unicode text, but character {error.start} of '{key}' is a lone surrogate"
                ) from None
        if "text" not in record:
            raise UserError(f"{where}: expected a key 'text', but got {sorted(record)}")
        yield number, record


def content_suffix(path):
    """The suffix that says what a file holds: .jsonl of a.JSONL and a.jsonl.gz."""
    name = Path(path).name.lower()
    return Path(name.removesuffix(".gz")).suffix


@contextlib.contextmanager
def open_bytes(path):
    """Yields the file, uncompressed where it is compressed by gzip."""
    try:
        with open(path, "rb") as file:
            if file.peek(2)[:2] != b"\x1f\x8b":
                yield file
                return
            with gzip.open(file) as uncompressed:
                yield uncompressed
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: expected a whole gzip file: {error}") from None


def save_tensors(tensors, path, framework="numpy"):
    """Writes arrays of numpy or tensors of torch as safetensors."""
    from safetensors import SafetensorError

    module = importlib.import_module(f"safetensors.{framework}")
    try:
        module.save_file(tensors, path, metadata={"format": "pt"} if framework == "torch" else None)
    except SafetensorError as error:
        raise UserError(f"{path}: cannot be written: {error}") from None
    path.chmod(0o666 & ~_umask())


def _records(path):
    """(line number, value) of JSON lines, (number, value) of an array."""
    with open_bytes(path) as file:
        # As RFC 8259 has it, the first characters show the encoding.
        encoding = json.detect_encoding(file.peek(4)[:4])
        if encoding == "utf-8-sig":
            file.read(3)
        lines = file if encoding.startswith("utf-8") else io.TextIOWrapper(file, encoding, newline="\n")
        for number, line in enumerate(_decodable(lines, path), 1):
            if not line.strip():
                continue
            if content_suffix(path) == ".json" and line.lstrip()[:1] in (b"[", "["):
                yield from enumerate(_parse(_decode(line + lines.read(), path), path, "JSON", has_lines=True), 1)
                return
            where = f"{path}:{number}"
            yield number, _parse(_decode(line, where, " of the line"), where, "one JSON object a line")


def _decodable(lines, path):
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected {error.encoding}, as it begins, but got other bytes") from None


def _decode(line, where, of=""):
    try:
        return line if isinstance(line, str) else line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: expected UTF-8, but byte {error.start}{of} is not") from None


def _parse(text, where, expected, has_lines=False):
    try:
        return json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if has_lines else ""
        raise UserError(f"{where}{line}: expected {expected}: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{where}: expected {expected}, but it has too many levels") from None


def _integer(digits):
    """Python refuses to convert very long numbers, which need no arithmetic here."""
    return int(digits) if len(digits) < 4000 else digits


def _kind(value):
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
