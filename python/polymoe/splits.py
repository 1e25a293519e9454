# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Which documents are for training, validation and test.

The split depends on the document's id alone, so a document and all of its
translations are in the same one, whatever else is in the corpus.
"""

import hashlib

from polymoe.errors import UserError

SPLITS = ("train", "valid", "test")
# Shares of what is never trained on.
HELD_OUT = (0, 50, 50)


def parse_split(text):
    """(train, valid, test) from "96/2/2"."""
    parts = text.split("/")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise UserError(f"--split: expected TRAIN/VALID/TEST such as 96/2/2, but got '{text}'")
    shares = tuple(int(part) for part in parts)
    if sum(shares) != 100 or shares[0] == 0:
        raise UserError(f"--split: expected shares that sum to 100 with some for training, but got '{text}'")
    return shares


def split_of(identifier, shares=(96, 2, 2)):
    """The split of a document's id."""
    digest = hashlib.sha256(identifier.encode()).digest()
    # 10,000 buckets: fine enough for any share, the same everywhere.
    bucket = int.from_bytes(digest[:8], "big") % 10000
    if bucket < 100 * shares[0]:
        return "train"
    return "valid" if bucket < 100 * (shares[0] + shares[1]) else "test"
