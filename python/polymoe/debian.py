# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Debian packages and their descriptions, without root and without installing."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from polymoe.errors import UserError
from polymoe.progress import progress, say


def download(names, folder):
    """Returns {package: .deb}, downloading what is not in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = {name: _find(name, folder) for name in names}
    missing = [name for name in names if packages[name] is None]
    if missing:
        options = _options(lambda options: _unknown(missing, options), folder)
        with progress("downloading", len(missing)) as advance:
            for name in missing:
                # What an interrupted download leaves is no package.
                with tempfile.TemporaryDirectory(dir=folder) as scratch:
                    _apt("download", [name], options, scratch)
                    package = _find(name, Path(scratch))
                    if package is None:
                        raise UserError(f"{folder}: apt-get downloaded no {name}_*.deb")
                    packages[name] = package.rename(folder / package.name)
                advance(note=name)
    return packages


def unpack(package, folder):
    result = subprocess.run(["dpkg-deb", "-x", package, folder], capture_output=True, text=True)
    if result.returncode != 0:
        raise UserError(
            f"{package}: expected a Debian package; delete the file to fetch it again: {result.stderr.strip().splitlines()[-1]}"
        )


def descriptions(folder):
    """{package: English description} of the main component."""
    folder.mkdir(parents=True, exist_ok=True)
    options = _options(lambda options: None if _translations(options) else "English descriptions", folder)
    found = {}
    for path in _translations(options):
        # The lists may be compressed in any way that apt knows.
        text = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path], capture_output=True, check=True).stdout
        for stanza in text.decode().split("\n\n"):
            package, _, description = stanza.partition("\nDescription-en: ")
            if description:
                name = package.splitlines()[0].removeprefix("Package: ")
                found[name] = description.replace("\n .\n", "\n\n").replace("\n ", "\n").strip()
    return found


def _find(name, folder):
    found = sorted(folder.glob(f"{name}_*.deb"))
    return found[-1] if found else None


def _options(lacks, folder):
    """Options under which apt lacks nothing: none, or lists of our own where
    the system's are missing or incomplete (as in a bare container)."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise UserError(
            "fetch-text needs apt-get and dpkg-deb (Debian or Ubuntu); import-text takes your own text anywhere"
        )
    if lacks([]) is None:
        return []
    options = _own_lists(folder)
    what = lacks(options)
    if what is not None:
        raise UserError(f"apt knows no {what}; expected it in the configured Debian sources")
    return options


@functools.cache
def _own_lists(folder):
    state = (folder / "apt").resolve()
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (state / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    options = ["-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}/cache"]
    options += ["-o", "Acquire::Languages=en"]
    say("reading the package lists")
    _apt("update", [], options, folder)
    return options


def _unknown(names, options):
    """None, or the first package that apt does not know."""
    for name in names:
        result = subprocess.run(["apt-cache", *options, "show", name], capture_output=True)
        if result.returncode != 0 or not result.stdout.strip():
            return f"package {name}"
    return None


def _translations(options):
    command = ["apt-get", *options, "indextargets", "--format", "$(FILENAME)"]
    targets = ["Identifier: Translations", "Language: en", "Component: main"]
    result = subprocess.run([*command, *targets], capture_output=True, text=True)
    return [Path(line) for line in sorted(result.stdout.splitlines())]


def _apt(action, arguments, options, folder):
    # As root apt would drop to a user that may not write here.
    sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    command = ["apt-get", "-q", *options, *sandbox, action, *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip() or result.stdout.strip() or "no reason given").splitlines()[-1]
        raise UserError(f"apt-get {action} {' '.join(arguments)} failed: {reason}")
