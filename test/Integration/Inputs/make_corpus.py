"""make_corpus.py OUT: a corpus of one training document of ids below 32."""

import json
import pathlib
import struct
import sys

out = pathlib.Path(sys.argv[1])
out.mkdir()
tokens = [1 + i % 31 for i in range(99)] + [0]
arrays = [
    ("tokens", "I32", "i", tokens),
    ("documents", "I64", "q", [0, 100]),
    ("bytes", "I64", "q", [300]),
]
header, data = {}, b""
for key, dtype, code, values in arrays:
    packed = struct.pack(f"<{len(values)}{code}", *values)
    header[key] = {
        "dtype": dtype,
        "shape": [len(values)],
        "data_offsets": [len(data), len(data) + len(packed)],
    }
    data += packed
text = json.dumps(header).encode()
(out / "train-0.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
(out / "corpus.json").write_text(
    json.dumps(
        {
            "format": "polymoe-corpus",
            "version": 1,
            "vocabulary": 32,
            "eos": 0,
            "tokenizer": "tokenizer.json",
            "languages": [{"code": "el", "round": 1}],
            "shards": [
                {
                    "file": "train-0.safetensors",
                    "split": "train",
                    "language": "el",
                    "documents": 1,
                    "tokens": 100,
                }
            ],
        }
    )
)
