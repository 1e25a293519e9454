#!/usr/bin/env python3
# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Fails unless two folders hold the same tensors, byte for byte, and the same
configuration.

--mixture says that the second is a mixture made of the dense first: every
expert then is the first one's FFN, routers are left out, and so is the
configuration.
"""

import json
import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True
from tensors import tensors_of  # noqa: E402

MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def dense_key(key):
    key = re.sub(r"block_sparse_moe\.experts\.\d+\.(w\d)", lambda match: "mlp." + MIXTRAL[match[1]], key)
    return re.sub(r"mlp\.experts\.\d+\.", "mlp.", key)


first, second = tensors_of(sys.argv[1]), tensors_of(sys.argv[2])
if "--mixture" in sys.argv:
    second = {key: value for key, value in second.items() if not re.search(r"(mlp|moe)\.gate\.weight$", key)}
    assert len(second) > len(first), "no experts"
    assert {dense_key(key) for key in second} == first.keys(), "other tensors"
    for key, value in second.items():
        assert first[dense_key(key)] == value, key
else:
    assert first.keys() == second.keys(), sorted(first.keys() ^ second.keys())
    for key in first:
        assert first[key] == second[key], key
    configs = [json.loads((Path(folder) / "config.json").read_text()) for folder in sys.argv[1:3]]
    # An export has the forms of transformers 4 and 5.
    for key in {"rope_parameters", "rope_theta", "rope_scaling"} - configs[0].keys():
        configs[1].pop(key, None)
    assert configs[0] == configs[1], configs
print(len(second), "tensors are equal")
