#!/usr/bin/env python3
# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes lib/Tokenizer/YoungCharacters.cpp: what `tokenizers` knows of the
characters that Unicode got after version 14, the one of Debian 12's PCRE2.

The library itself is asked, since it is what ids have to agree with: its
regular expressions follow one version of Unicode, its other functions another.
Python 3.11 knows Unicode 14, and so says which characters are younger.

  .venv/bin/python scripts/young_characters.py
"""

import unicodedata
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers

OUTPUT = Path(__file__).resolve().parents[1] / "lib/Tokenizer/YoungCharacters.cpp"
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()
# Those that both PCRE2 10.42 and Oniguruma know and that grew since.
SCRIPTS = """Arabic Balinese Common Cyrillic Devanagari Egyptian_Hieroglyphs Han Hiragana Kannada Katakana
Khitan_Small_Script Khojki Lao Latin Myanmar""".split()


def young_characters():
    assert unicodedata.unidata_version == "14.0.0", "expected a Python that knows Unicode 14, as 3.11 does"
    return [code for code in range(0x110000) if not 0xD800 <= code < 0xE000 and unicodedata.category(chr(code)) == "Cn"]


def members(pre_tokenizer, codes):
    """Those that it removes from a text."""
    kept = set()
    for begin in range(0, len(codes), 4096):
        text = "".join(map(chr, codes[begin : begin + 4096]))
        kept.update(ord(character) for piece, _ in pre_tokenizer.pre_tokenize_str(text) for character in piece)
    return [code for code in codes if code not in kept]


def matching(regex, codes):
    return members(pre_tokenizers.Split(Regex(regex), "removed"), codes)


def numeric(codes):
    digits = pre_tokenizers.Digits(individual_digits=True)
    # A letter before and after, which stays with what is no number.
    return [code for code in codes if len(digits.pre_tokenize_str(f"a{chr(code)}a")) == 3]


def ranges(codes):
    runs = []
    for code in codes:
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return runs


def lower_case(codes):
    """[first, last, distance to the lower case]"""
    runs = []
    lowercase = normalizers.Lowercase()
    for code in codes:
        lower = lowercase.normalize_str(chr(code))
        if lower == chr(code):
            continue
        distance = ord(lower) - code
        if runs and runs[-1][1] == code - 1 and runs[-1][2] == distance:
            runs[-1][1] = code
        else:
            runs.append([code, code, distance])
    return runs


def main():
    young = young_characters()
    known = matching(r"\P{Cn}", young)
    properties = {category: matching(rf"\p{{{category}}}", known) for category in CATEGORIES}
    letters = {code for category in ("Lu", "Ll", "Lt", "Lm", "Lo", "Nl") for code in properties[category]}
    properties["Alphabetic"] = [code for code in matching(r"\p{Alphabetic}", known) if code not in letters]
    properties |= {script: matching(rf"\p{{{script}}}", known) for script in SCRIPTS}
    numbers = {code for category in ("Nd", "Nl", "No") for code in properties[category]}
    properties["numeric"] = [code for code in numeric(young) if code not in numbers]

    lines = []
    for name, codes in properties.items():
        lines += [f'    {{"{name}", 0x{first:X}, 0x{last:X}}},' for first, last in ranges(codes)]
    lower = [f"    {{0x{first:X}, 0x{last:X}, {distance}}}," for first, last, distance in lower_case(young)]
    OUTPUT.write_text(
        f"""//===-- YoungCharacters.cpp - characters of Unicode 15 and later ----------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Written by scripts/young_characters.py, which asks `tokenizers`.
//
//===----------------------------------------------------------------------===//

#include "Unicode.h"

namespace polymoe::tokenizer {{

// clang-format off
static const YoungCharacters characters[] = {{
{chr(10).join(lines)}
}};

static const YoungCapitals capitals[] = {{
{chr(10).join(lower)}
}};
// clang-format on

std::span<const YoungCharacters> youngCharacters() {{ return characters; }}
std::span<const YoungCapitals> youngCapitals() {{ return capitals; }}

}} // namespace polymoe::tokenizer
"""
    )


if __name__ == "__main__":
    main()
