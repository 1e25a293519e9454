"""make_tokens.py OUT ROWS LENGTH [VOCABULARY [SEED]]: random ids below 32, or VOCABULARY.

Rows are of an old and a new language in turn.
"""

import json
import random
import struct
import sys

out, rows, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
vocabulary = int(sys.argv[4]) if len(sys.argv) > 4 else 32
seed = int(sys.argv[5]) if len(sys.argv) > 5 else 7
draw = random.Random(seed)
tokens = [draw.randrange(vocabulary) for _ in range(rows * length)]
languages = [row % 2 for row in range(rows)]
header = json.dumps(
    {
        "__metadata__": {"languages": "en,el", "rounds": "0,1"},
        "tokens": {"dtype": "I32", "shape": [rows, length], "data_offsets": [0, 4 * len(tokens)]},
        "languages": {
            "dtype": "I32",
            "shape": [rows],
            "data_offsets": [4 * len(tokens), 4 * (len(tokens) + rows)],
        },
    }
).encode()
with open(out, "wb") as file:
    file.write(struct.pack("<Q", len(header)) + header)
    file.write(struct.pack(f"<{len(tokens) + rows}i", *tokens, *languages))
