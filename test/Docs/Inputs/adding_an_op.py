# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Builds what the ```diff blocks of a document make of the sources.

    adding_an_op.py DOCUMENT SOURCE BUILD FOLDER

FOLDER gets a copy of the sources with the blocks applied, and in bin/ the
programs moe-opt and TargetTests. An op adds declarations and changes none:
compiled anew, without optimisation, are the changed files and the one that
lists all ops, and the rest is linked from BUILD.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

DIFF = re.compile(r"^```diff\n(.*?)^```$", re.M | re.S)
CHANGED = re.compile(r"^\+\+\+ b/(.*)$", re.M)


def apply(patch, source, folder):
    for part in ("include", "lib", "test/Dialect", "unittests"):
        shutil.copytree(source / part, folder / part)
    # The folder may lie inside a repository, of which it is no part.
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    subprocess.run(["git", "apply"], input=patch, text=True, cwd=folder, env=outside, check=True)


def generate_ops(folder, tblgen, mlir_include):
    generated = folder / "generated/moe/Dialect"
    generated.mkdir(parents=True)
    for kind, name in (("decls", "MoEOps.h.inc"), ("defs", "MoEOps.cpp.inc")):
        command = [
            tblgen,
            f"-gen-op-{kind}",
            "-I",
            folder / "include",
            "-I",
            mlir_include,
        ]
        command += [folder / "include/moe/Dialect/MoEOps.td", "-o", generated / name]
        subprocess.run(command, check=True)


def compile_again(files, source, build, folder):
    """{object that BUILD has: object of the changed file}"""
    entries = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    commands = {entry["file"]: shlex.split(entry["command"]) for entry in entries}

    def run(file):
        compiler, *options = commands[str(source / file)]
        old = options[options.index("-o") + 1]
        new = folder / file.replace(".cpp", ".o")
        options[options.index("-o") + 1] = new
        options[options.index(str(source / file))] = folder / file
        includes = ["-I", folder / "generated", "-I", folder / "include"]
        subprocess.run([compiler, *includes, *options, "-O0"], cwd=build, check=True)
        return old, str(new)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(pool.map(run, files))


def link(target, objects, build, folder):
    """Links a program as BUILD does, objects of changed files before the libraries that have others."""
    commands = subprocess.run(
        ["ninja", "-t", "commands", target],
        cwd=build,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    command = commands.stdout.splitlines()[-1]
    for old, new in objects.items():
        if old in command:
            command = command.replace(old, new)
        elif "/unittests/" not in new:
            command = command.replace(" -o bin/", f" {new} -o bin/")
    command = command.replace("-o bin/", f"-o {folder}/bin/")
    subprocess.run(command, shell=True, cwd=build, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("build", type=Path)
    parser.add_argument("folder", type=Path, help="is made")
    parser.add_argument("--tblgen", required=True)
    parser.add_argument("--mlir-include", required=True)
    args = parser.parse_args()

    patch = "".join(DIFF.findall(args.document.read_text(encoding="utf-8")))
    args.folder.joinpath("bin").mkdir(parents=True)
    apply(patch, args.source, args.folder)
    generate_ops(args.folder, args.tblgen, args.mlir_include)
    files = [file for file in CHANGED.findall(patch) if file.endswith(".cpp")]
    objects = compile_again(["lib/Dialect/MoEDialect.cpp", *files], args.source, args.build, args.folder)
    for target in ("moe-opt", "TargetTests"):
        link(target, objects, args.build, args.folder)


if __name__ == "__main__":
    main()
