# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks the style of every source file; see scripts/lint.sh.

clang-tidy takes seconds a file. A file that passed is remembered by the hash
of all that its findings depend on: itself, the project's headers that it
includes, its compile command and .clang-tidy.
"""

import argparse
import concurrent.futures
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "polymoe" / "clang-tidy"
FORMATTED = {".cpp", ".h"}
INCLUDE = re.compile(rb'^\s*#\s*include\s*["<]([^">]+)[">]', re.M)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changed", action="store_true", help="only files that differ from main")
    parser.add_argument("--fix", action="store_true", help="format instead of checking")
    parser.add_argument("--no-tidy", action="store_true", help="leave clang-tidy out")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder with compile_commands.json")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()

    files = source_files(args.changed)
    failures = [*check_format(files, args.fix), *check_python(files, args.fix)]
    if not args.no_tidy:
        failures += check_tidy(files, args.build, args.jobs)
    for failure in failures:
        print(failure)
    return 1 if failures else 0


def source_files(changed):
    """The repository's own files, tracked or new, not ignored."""
    files = git("ls-files", "--cached", "--others", "--exclude-standard")
    if changed:
        base = git("merge-base", "main", "HEAD")[0]
        files = set(git("diff", "--name-only", base)) | set(git("ls-files", "--others", "--exclude-standard"))
    return sorted(ROOT / file for file in files if (ROOT / file).is_file())


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def check_format(files, fix):
    files = [file for file in files if file.suffix in FORMATTED]
    if not files:
        return []
    mode = ["-i"] if fix else ["--dry-run", "--Werror"]
    result = subprocess.run(["clang-format-22", *mode, *files], capture_output=True, text=True)
    return [result.stderr.strip()] if result.returncode else []


def check_python(files, fix):
    files = [file for file in files if file.suffix == ".py"]
    if not files:
        return []
    ruff = [sys.executable, "-m", "ruff"]
    commands = [
        [
            *ruff,
            "check",
            "--quiet",
            "--config",
            ROOT / "python" / "pyproject.toml",
            *(["--fix"] if fix else []),
            *files,
        ],
        [
            *ruff,
            "format",
            "--quiet",
            "--config",
            ROOT / "python" / "pyproject.toml",
            *([] if fix else ["--check", "--diff"]),
            *files,
        ],
    ]
    results = [subprocess.run(command, capture_output=True, text=True) for command in commands]
    return [(result.stdout + result.stderr).strip() for result in results if result.returncode]


# clang-tidy.


def check_tidy(files, build, jobs):
    database = build / "compile_commands.json"
    if not database.is_file():
        return [f"{database}: no such file; expected a configured build for clang-tidy"]
    commands = {Path(entry["file"]): entry["command"] for entry in json.loads(database.read_text())}
    units = [file for file in files if file.suffix == ".cpp" and file in commands]
    keys = {unit: tidy_key(unit, commands[unit]) for unit in units}
    pending = [unit for unit in units if not (CACHE / keys[unit]).exists()]
    CACHE.mkdir(parents=True, exist_ok=True)
    failures = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for done, (unit, output) in enumerate(pool.map(functools.partial(tidy, build=build), pending), 1):
            print(f"clang-tidy {done}/{len(pending)} {unit.relative_to(ROOT)}", file=sys.stderr, flush=True)
            if output:
                failures.append(output)
            else:
                (CACHE / keys[unit]).touch()
    return failures


def tidy(unit, build):
    command = ["clang-tidy-22", "-p", str(build), "--quiet", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True)
    return unit, (result.stdout + result.stderr).strip() if result.returncode else ""


def tidy_key(unit, command):
    # The command names folders; relative ones make the key the same in a clone.
    digest = hashlib.sha256(command.replace(str(ROOT), ".").encode())
    for folder in unit.parents:
        if folder.is_relative_to(ROOT) and (folder / ".clang-tidy").is_file():
            digest.update((folder / ".clang-tidy").read_bytes())
    for file in sorted(closure(unit)):
        digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()


def closure(unit):
    """The file and the project's files that it includes, generated ones too."""
    seen, stack = set(), [unit]
    while stack:
        file = stack.pop()
        if file not in seen:
            seen.add(file)
            stack.extend(includes(file))
    return seen


@functools.cache
def includes(file):
    names = (match.decode() for match in INCLUDE.findall(file.read_bytes()))
    folders = (file.parent, ROOT / "include", ROOT / "build" / "include")
    candidates = (folder / name for name in names for folder in folders)
    return [
        candidate.resolve()
        for candidate in candidates
        if candidate.is_file() and candidate.resolve().is_relative_to(ROOT)
    ]


if __name__ == "__main__":
    sys.exit(main())
