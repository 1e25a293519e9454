# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Files: JSON lines in, and writes that are either whole or not there."""

import contextlib
import json
import os
import shutil
import tempfile
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
        make_readable(temporary)
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


def make_readable(path):
    """Gives a file that a library made for its owner alone the usual rights."""
    path.chmod(0o666 & ~_umask())


def write_text(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path):
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8, but byte {error.start} is not") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: expected JSON: {error.msg}") from None


def write_documents(path, documents):
    """Writes documents ({"id", "language", "text"}) as JSON lines."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps(document, ensure_ascii=False) + "\n")


def read_documents(path):
    """Yields (line number, record) of a JSON-lines file, each checked to be an
    object whose "text" is a string that is not blank."""
    path = Path(path)
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    with file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{where}: expected UTF-8, but byte {error.start} of the line is not") from None
            except json.JSONDecodeError as error:
                raise UserError(f"{where}: expected one JSON object a line: {error.msg}") from None
            if not isinstance(record, dict):
                raise UserError(f"{where}: expected a JSON object, but got {_kind(record)}")
            for key in ("id", "language", "text"):
                if key in record and not isinstance(record[key], str):
                    raise UserError(f"{where}: expected a string as '{key}', but got {_kind(record[key])}")
            if "text" not in record:
                raise UserError(f"{where}: expected a key 'text', but got {sorted(record)}")
            try:
                record["text"].encode("utf-8")
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{where}: expected Unicode text, but character {error.start} of 'text' is a lone surrogate"
                ) from None
            yield number, record


def _kind(value):
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
