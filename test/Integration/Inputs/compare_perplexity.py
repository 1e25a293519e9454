"""compare_perplexity.py A B TOLERANCE: evaluations whose perplexities agree, relative to A's, and are not the same."""

import json
import sys

a, b = (json.load(open(path))["languages"] for path in sys.argv[1:3])
assert a and len(a) == len(b)
for one, other in zip(a, b, strict=True):
    change = other["perplexity"] / one["perplexity"] - 1
    assert 0 < abs(change) < float(sys.argv[3]), (one["language"], change)
