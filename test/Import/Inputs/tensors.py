#!/usr/bin/env python3
# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Lists the tensors of a folder: key, type, shape."""

import json
import struct
import sys
from pathlib import Path


def tensors_of(folder):
    tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        for key, entry in json.loads(data[8 : 8 + length]).items():
            if key != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                tensors[key] = (entry["dtype"], entry["shape"], data[begin:end])
    index = Path(folder) / "model.safetensors.index.json"
    if index.exists():
        weight_map = json.loads(index.read_text())["weight_map"]
        assert weight_map.keys() == tensors.keys(), "the index names other tensors"
    return tensors


if __name__ == "__main__":
    for name, (dtype, shape, _) in tensors_of(sys.argv[1]).items():
        print(name, dtype, shape)
