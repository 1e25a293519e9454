# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Language codes: ISO 639 with optional subtags (el, pt-br, yue, zh-hans).

Case means nothing in such a code, and some write an underscore in it; here
`zh-Hans` and `zh_Hans` are `zh-hans` everywhere.
"""

import re

from polymoe.errors import UserError

# Languages with a help package, by our code; the value is the package's suffix.
# Slovak's (sk) is empty in Debian 12.
_SUFFIX_IS_CODE = (
    "ca cs da de dz el en-gb es et eu fi fr gl hi hu id it ja km ko nl om pl pt pt-br ru sl sv tr vi zh-tw"
)
HELP_PACKAGES = {code: code for code in _SUFFIX_IS_CODE.split()} | {"en": "en-us", "zh": "zh-cn"}

_ISO_639_1 = frozenset(
    (
        "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el"
        " en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it"
        " iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt"
        " my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl"
        " sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo"
        " za zh zu"
    ).split()
)
_CODE = re.compile(r"([a-z]{2,3})((?:-[a-z0-9]{2,8})*)")


def check_language(code, where):
    """Returns the code as it is written here when it can name a language,
    otherwise raises."""
    normal = code.lower().replace("_", "-")
    match = _CODE.fullmatch(normal)
    if not match or (len(match[1]) == 2 and match[1] not in _ISO_639_1):
        raise UserError(f"{where}: expected a language code such as 'el' or 'pt-br', but got '{code}'")
    return normal


def parse_rounds(text):
    """{"el": 1, ...} from "en=0,el=1"."""
    rounds = {}
    for item in text.split(","):
        code, equals, number = item.strip().partition("=")
        if not equals or not number.isdigit():
            raise UserError(f"--rounds: expected LANGUAGE=ROUND, but got '{item.strip()}'")
        code = check_language(code, "--rounds")
        if code in rounds:
            raise UserError(f"--rounds: expected each language once, but got '{code}' twice")
        rounds[code] = int(number)
    return rounds
