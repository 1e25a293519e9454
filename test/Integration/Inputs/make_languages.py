"""make_languages.py OUT CODE:ROUND...: a corpus of random text of ids below 32, in several languages.

Each language likes ids of its own. A language that comes first has more text.
"""

import json
import pathlib
import random
import struct
import sys

out = pathlib.Path(sys.argv[1])
out.mkdir()
languages = [argument.split(":") for argument in sys.argv[2:]]
shards = []
for number, (code, _) in enumerate(languages):
    draw = random.Random(number)
    liked = [1 + (5 * number + i) % 31 for i in range(6)]
    for split, count in (("train", 12 - 2 * number), ("valid", 2), ("test", 2)):
        tokens, documents = [], [0]
        for _ in range(count):
            tokens += [draw.choice(liked) if draw.random() < 0.8 else draw.randrange(1, 32) for _ in range(39)] + [0]
            documents.append(len(tokens))
        arrays = [
            ("tokens", "I32", "i", tokens),
            ("documents", "I64", "q", documents),
            ("bytes", "I64", "q", [40] * count),
        ]
        header, data = {}, b""
        for key, dtype, kind, values in arrays:
            packed = struct.pack(f"<{len(values)}{kind}", *values)
            header[key] = {
                "dtype": dtype,
                "shape": [len(values)],
                "data_offsets": [len(data), len(data) + len(packed)],
            }
            data += packed
        text = json.dumps(header).encode()
        name = f"{split}-{code}.safetensors"
        (out / name).write_bytes(struct.pack("<Q", len(text)) + text + data)
        shards.append(
            {
                "file": name,
                "split": split,
                "language": code,
                "documents": count,
                "tokens": len(tokens),
            }
        )
index = {
    "format": "polymoe-corpus",
    "version": 1,
    "vocabulary": 32,
    "eos": 0,
}
index |= {
    "languages": [{"code": code, "round": int(round)} for code, round in languages],
    "shards": shards,
}
(out / "corpus.json").write_text(json.dumps(index))
