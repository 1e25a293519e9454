# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs the ```sh blocks of a document in order, in an empty folder.

A ```text block after one is what it prints, on either stream; `...` stands for
anything, as a line of its own for any lines.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.M | re.S)

ROOT = Path(__file__).resolve().parents[3]

# `polymoe` and `python` are those of the repository and of the interpreter that
# runs this file.
PRELUDE = """\
set -euo pipefail
python() { "$TUTORIAL_PYTHON" "$@"; }
polymoe() { "$TUTORIAL_PYTHON" -m polymoe "$@"; }
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", type=Path)
    parser.add_argument("folder", type=Path, help="is made, and must be empty")
    args = parser.parse_args()

    args.folder.mkdir(parents=True, exist_ok=True)
    if any(args.folder.iterdir()):
        sys.exit(f"{args.folder}: expected an empty folder")
    text = args.document.read_text(encoding="utf-8")
    output, commands = "", 0
    for match in BLOCK.finditer(text):
        where = f"{args.document}:{text.count(chr(10), 0, match.start()) + 1}"
        kind, content = match.groups()
        if kind == "sh":
            output = run(where, content, args.folder)
            commands += 1
        elif not pattern(content).search(output):
            sys.exit(f"{where}: expected\n{content}\nbut got\n{output}")
    if not commands:
        sys.exit(f"{args.document}: expected ```sh blocks, but got none")
    print(f"{commands} blocks ran")


def run(where, content, folder):
    environment = os.environ | {
        "TUTORIAL_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT / "python"),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    result = subprocess.run(
        ["bash", "-c", PRELUDE + content],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        sys.exit(f"{where}: exit code {result.returncode}\n{content}\n{result.stdout}")
    return result.stdout


def pattern(content):
    """The whole output, in which `...` stands for anything."""
    lines = []
    for line in content.splitlines():
        if line == "...":
            lines.append(r"(?:.*\n)*?")
        else:
            # An amount of space is no matter of a tutorial.
            words = " +".join(re.escape(word).replace(re.escape("..."), ".*?") for word in line.split())
            lines.append(rf"[ ]*{words}[ ]*\n")
    return re.compile(rf"\A{''.join(lines)}\Z")


if __name__ == "__main__":
    main()
