"""compare_runs.py A B: two runs did the same.

Losses agree to 1e-5 of their size, and what training changed to 1e-3 of the
norm of the change.
"""

import array
import json
import math
import struct
import sys
from pathlib import Path


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def tensors(checkpoint):
    data = (checkpoint / "parameters.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    for name, info in header.items():
        if name == "__metadata__":
            continue
        assert info["dtype"] == "F32", name
        begin, end = info["data_offsets"]
        yield name, array.array("f", data[8 + size + begin : 8 + size + end])


def norm(values):
    return math.sqrt(sum(value * value for value in values))


a, b = Path(sys.argv[1]), Path(sys.argv[2])
lines_a, lines_b = metrics(a), metrics(b)
assert len(lines_a) == len(lines_b) > 0
for one, other in zip(lines_a, lines_b, strict=True):
    for key in ("loss", "next_token", "balance", "language_prior", "router_cross_entropy"):
        assert (key in one) == (key in other), key
        if key in one:
            assert math.isclose(one[key], other[key], rel_tol=1e-5), (one["step"], key, one[key], other[key])

checkpoints = sorted(path.name for path in (a / "checkpoints").iterdir())
assert checkpoints == sorted(path.name for path in (b / "checkpoints").iterdir())
first, last = (dict(tensors(a / "checkpoints" / checkpoints[i])) for i in (0, -1))
changed = 0
for name, theirs in tensors(b / "checkpoints" / checkpoints[-1]):
    ours, before = last[name], first[name]
    update = norm(x - y for x, y in zip(ours, before, strict=True))
    error = norm(x - y for x, y in zip(ours, theirs, strict=True))
    assert error <= 1e-3 * update, (name, error, update)
    changed += update > 0
assert changed > 0
print(f"{len(lines_a)} steps agree, {changed} tensors changed alike")
