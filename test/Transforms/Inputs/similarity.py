"""Writes a profile of similarity for a module of two layers: one new and one old
language, as alike as is said for each layer."""

import argparse
import json
import re
import subprocess

parser = argparse.ArgumentParser()
parser.add_argument("module")
parser.add_argument("out")
parser.add_argument("similarity", type=float, nargs="+")
parser.add_argument("--experts", default="1,1,1")
parser.add_argument("--base")
options = parser.parse_args()

count = len(options.similarity)
profile = {
    "format": "polymoe-similarity",
    "version": 1,
    "model": {
        "file": "model.mlir",
        "base": options.base or "?",
        "width": 8,
        "experts": [int(count) for count in options.experts.split(",")][:count],
    },
    "measured_on": {},
    "languages": [{"code": "en", "round": 0, "tokens": 9}, {"code": "el", "round": 1, "tokens": 9}],
    "layers": [[[1, s], [s, 1]] for s in options.similarity],
}


def write():
    with open(options.out, "w") as file:
        json.dump(profile, file)


write()
if not options.base and count == 2:
    # The digest of the module is what the error expects.
    command = ["moe-opt", options.module, f"--moe-allocate-experts=profile={options.out} budget=0"]
    errors = subprocess.run(command, capture_output=True, text=True).stderr
    profile["model"]["base"] = re.search(r"'model.base': expected ([0-9a-f]{16})", errors)[1]
    write()
