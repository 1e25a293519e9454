# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The C++ tokenizer against `tokenizers`: equal ids, equal text.

`moe-tokenize` (unittests/Tokenizer) answers JSON lines; POLYMOE_BIN names its
folder where that is not build/bin.
"""

import json
import os
import random
import subprocess
import unicodedata
from pathlib import Path

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

ROOT = Path(__file__).resolve().parents[2]
TOOL = Path(os.environ.get("POLYMOE_BIN", ROOT / "build" / "bin")) / "moe-tokenize"
pytestmark = pytest.mark.tools

# The first article of the Universal Declaration of Human Rights.
SENTENCES = {
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلًا وضميرًا وعليهم أن يعامل بعضهم بعضًا بروح الإخاء.",
    "bg": "Всички хора се раждат свободни и равни по достойнство и права. Те са надарени с разум и съвест и следва да се отнасят помежду си в дух на братство.",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। তাঁদের বিবেক এবং বুদ্ধি আছে; সুতরাং সকলেরই একে অপরের প্রতি ভ্রাতৃত্বসুলভ মনোভাব নিয়ে আচরণ করা উচিৎ।",
    "ca": "Tots els éssers humans neixen lliures i iguals en dignitat i en drets. Són dotats de raó i de consciència, i els cal mantenir-se entre ells amb esperit de fraternitat.",
    "cs": "Všichni lidé se rodí svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a svědomím a mají spolu jednat v duchu bratrství.",
    "da": "Alle mennesker er født frie og lige i værdighed og rettigheder. De er udstyret med fornuft og samvittighed, og de bør handle mod hverandre i en broderskabets ånd.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.",
    "en": "All human beings are born free and equal in dignity and rights. They're endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
    "et": "Kõik inimesed sünnivad vabadena ja võrdsetena oma väärikuselt ja õigustelt. Neile on antud mõistus ja südametunnistus ja nende suhtumist üksteisesse peab kandma vendluse vaim.",
    "eu": "Gizon-emakume guztiak aske jaiotzen dira, duintasun eta eskubide berberak dituztela; eta ezaguera eta kontzientzia dutenez gero, elkarren artean senide legez jokatu beharra dute.",
    "fa": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند. همه دارای عقل و وجدان هستند و باید نسبت به یکدیگر با روح برادری رفتار کنند.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki ja omatunto, ja heidän on toimittava toisiaan kohtaan veljeyden hengessä.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם לנהוג איש ברעהו ברוח של אחווה.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
    "hu": "Minden emberi lény szabadon születik és egyenlő méltósága és joga van. Az emberek, ésszel és lelkiismerettel bírván, egymással szemben testvéri szellemben kell hogy viseltessenek.",
    "hy": "Բոլոր մարդիկ ծնվում են ազատ ու հավասար իրենց արժանապատվությամբ ու իրավունքներով։ Նրանք ունեն բանականություն ու խիղճ և միմյանց պետք է եղբայրաբար վերաբերվեն։",
    "id": "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang sama. Mereka dikaruniai akal dan hati nurani dan hendaknya bergaul satu sama lain dalam semangat persaudaraan.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
    "ka": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით. მათ მინიჭებული აქვთ გონება და სინდისი და ერთმანეთის მიმართ უნდა იქცეოდნენ ძმობის სულისკვეთებით.",
    "km": "មនុស្សទាំងអស់ កើតមកមានសេរីភាព និងសមភាព ក្នុងផ្នែកសេចក្ដីថ្លៃថ្នូរនិងសិទ្ធិ។ មនុស្ស មានវិចារណញ្ញាណនិងសតិសម្បជញ្ញៈជាប់ពីកំណើត ហើយគប្បីប្រព្រឹត្ដចំពោះគ្នាទៅវិញទៅមក ក្នុងស្មារតីភាតរភាពជាបងប្អូន។",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았으며 서로 형제애의 정신으로 행동하여야 한다.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand en geweten, en behoren zich jegens elkander in een geest van broederschap te gedragen.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de consciência, devem agir uns para com os outros em espírito de fraternidade.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter. De är utrustade med förnuft och samvete och bör handla gentemot varandra i en anda av broderskap.",
    "sw": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Wote wamejaliwa akili na dhamiri, hivyo yapasa watendeane kindugu.",
    "ta": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும், உரிமைகளிலும் சமமானவர்கள். அவர்கள் நியாயத்தையும் மனச்சாட்சியையும் இயற்பண்பாகப் பெற்றவர்கள்.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler. İSTANBUL, ığdır.",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах. Вони наділені розумом і совістю і повинні діяти у відношенні один до одного в дусі братерства.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi. Mọi con người đều được tạo hóa ban cho lý trí và lương tâm và cần phải đối xử với nhau trong tình anh em.",
    "zh": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
}  # fmt: skip

# Twice, so that words repeat and merges span more than two characters.
CORPUS = list(SENTENCES.values()) * 2
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"


def train(tokenizer, specials, **options):
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=specials, show_progress=False, **options)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level(pattern=None, specials=(), **options):
    tokenizer = Tokenizer(models.BPE(**options))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=pattern is None, use_regex=pattern is None)
    tokenizer.pre_tokenizer = byte_level
    if pattern:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return train(tokenizer, list(specials), initial_alphabet=alphabet)


def gpt2():
    return byte_level(specials=["<|endoftext|>"])


def llama3():
    begin = "<|begin_of_text|>"
    tokenizer = byte_level(LLAMA3, [begin, "<|eot_id|>"], ignore_merges=True)
    template = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A {begin}:1 $B:1",
        special_tokens=[(begin, tokenizer.token_to_id(begin))],
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template])
    return tokenizer


def qwen2():
    tokenizer = byte_level(QWEN2)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>"])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return tokenizer


def bloom():
    return byte_level(BLOOM, ["<unk>", "<s>", "</s>", "<pad>"])


def llama2():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Trained on words, run on whole texts, as SentencePiece does.
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    train(tokenizer, ["<unk>", "<s>", "</s>"] + BYTES, limit_alphabet=200)
    file = json.loads(tokenizer.to_str())
    file["pre_tokenizer"] = None
    file["added_tokens"] = file["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def mistral():
    tokenizer = llama2()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def gemma():
    tokenizer = llama2()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "▁▁", "<table>")])
    return tokenizer


def metaspace():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return train(tokenizer, ["<unk>", "<s>"], limit_alphabet=200)


def words():
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation(),
        ]
    )
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    train(tokenizer, ["[UNK]"], limit_alphabet=200, end_of_word_suffix="</w>")
    tokenizer.add_tokens(
        [
            AddedToken("Word", single_word=True, normalized=True),
            AddedToken("left", lstrip=True),
            AddedToken("RIGHT", rstrip=True, normalized=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, rstrip=True)])
    return tokenizer


STYLES = [gpt2, llama3, qwen2, bloom, llama2, mistral, gemma, metaspace, words]

FRAGMENTS = """'s 'S 'll 'LL ' " ... … ， 。 ( ) [ ] | - _ 1 23 456 7890 ² ½ Ⅷ ٣
é e\u0301 ﬁ ǅ İ ß Σ ς 한 \u1112\u1161\u11ab \u0915\u094d\u0937 👩‍👩‍👧 🇬🇷 \u200b \u200c \u200d \ufeff \u180e
\ufffd \x00 \x7f \x85 ▁ ▁▁ <0x41> <s> </s> <unk> <|endoftext|> <|im_start|>
<tool_call> <table> [MASK] Word word left RIGHT""".split() + [
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\xa0", "\u3000", "\u2028",
]  # fmt: skip


def fuzz(seed, count):
    """Texts of fragments, of words and of any characters up to Unicode 14."""
    rng = random.Random(seed)
    words = " ".join(SENTENCES.values()).split()
    characters = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
    pools = [FRAGMENTS, FRAGMENTS + words, words + [" "], characters]
    for _ in range(count):
        pool = rng.choice(pools)
        separator = rng.choice(["", "", " "])
        yield separator.join(rng.choice(pool) for _ in range(rng.randint(1, 30)))


TEXTS = ["", " ", "  "] + list(SENTENCES.values()) + list(fuzz(seed=1, count=1500))


def ask(path, requests):
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    answer = subprocess.run([TOOL, path], input=lines.encode(), capture_output=True)
    assert answer.returncode == 0, answer.stderr.decode()
    return [json.loads(line) for line in answer.stdout.splitlines()]


def assert_equal(tokenizer, tmp_path, texts=TEXTS):
    """Compares encoding, decoding and streaming of `texts`; returns the ids."""
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    all_ids = []
    for special in (False, True):
        answers = ask(path, [{"encode": t, "special": special} for t in texts])
        for text, answer in zip(texts, answers, strict=True):
            expected = tokenizer.encode(text, add_special_tokens=special)
            assert answer["ids"] == expected.ids, (text, expected.tokens)
            all_ids.append(expected.ids)
    for skip in (False, True):
        answers = ask(path, [{"decode": ids, "skip": skip} for ids in all_ids])
        for ids, answer in zip(all_ids, answers, strict=True):
            expected = tokenizer.decode(ids, skip_special_tokens=skip)
            assert answer["text"] == expected, ids
            assert "".join(answer["stream"]) == expected, ids
    return path


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_style(style, tmp_path):
    tokenizer = style()
    path = assert_equal(tokenizer, tmp_path)

    # Ids in an order that no text has: characters in pieces, spaces doubled.
    rng = random.Random(2)
    size = tokenizer.get_vocab_size() + 5
    all_ids = [[rng.randrange(size) for _ in range(rng.randint(0, 40))] for _ in range(300)]
    for skip in (False, True):
        answers = ask(path, [{"decode": ids, "skip": skip} for ids in all_ids])
        for ids, answer in zip(all_ids, answers, strict=True):
            assert answer["text"] == tokenizer.decode(ids, skip_special_tokens=skip)


def test_a_long_text_streams_as_it_decodes(tmp_path):
    text = "\n".join(SENTENCES.values())
    for style in (llama3, llama2, mistral):
        assert_equal(style(), tmp_path, [text])


def letters(normalizer=None, pre_tokenizer=None, merges=(), tokens=()):
    """A byte-level tokenizer with few merges, which shows where words end."""
    vocabulary = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary += ["".join(pair) for pair in merges]
    model = models.BPE({t: i for i, t in enumerate(vocabulary)}, list(merges))
    tokenizer = Tokenizer(model)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    stages = [pre_tokenizer] if pre_tokenizer else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(stages + [byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens(list(tokens))
    return tokenizer


PAIRS = [("a", "b"), ("b", "-"), ("-", "-"), ("-", "a"), ("b", "a"), ("ab", "-")]
DASHES = ["", "-", "--", "a-b", "ab--ab", "-ab-", "--ab--ba-", "ab", "a-b--a---b-"]


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("pattern", ["-", Regex("-+"), Regex("b?"), Regex("(?i)B|^")])
@pytest.mark.parametrize(
    "behavior",
    ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"],
)
def test_split(behavior, pattern, invert, tmp_path):
    split = pre_tokenizers.Split(pattern, behavior, invert)
    assert_equal(letters(pre_tokenizer=split, merges=PAIRS), tmp_path, DASHES)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_metaspace(scheme, split, tmp_path):
    tokens = [AddedToken("<t>", normalized=False, lstrip=True), AddedToken("N")]
    for before in (None, pre_tokenizers.Split("-", "isolated")):
        stage = pre_tokenizers.Metaspace("_", prepend_scheme=scheme, split=split)
        if before:
            stage = pre_tokenizers.Sequence([before, stage])
        for normalizer in (None, normalizers.Strip(), normalizers.Prepend("x-")):
            tokenizer = letters(normalizer, stage, [("_", "a"), ("a", "_")], tokens)
            texts = ["a", " a", "_a", "-a", "a-a a", "<t>a", "a <t> a", " N a", "Na"]
            assert_equal(tokenizer, tmp_path, texts)


NORMALIZERS = [
    normalizers.NFC(),
    normalizers.NFD(),
    normalizers.NFKC(),
    normalizers.NFKD(),
    normalizers.Lowercase(),
    normalizers.Strip(left=True, right=False),
    normalizers.Strip(left=False, right=True),
    normalizers.Prepend("é "),
    normalizers.Replace(Regex(r"\s+"), " "),
    normalizers.Replace("'", ""),
]


@pytest.mark.parametrize("number", range(len(NORMALIZERS)))
def test_normalizer(number, tmp_path):
    assert_equal(letters(NORMALIZERS[number]), tmp_path)


REMOVED = [
    Regex(r"\s"), Regex(r"\S"), Regex(r"\w"), Regex(r"\W"), Regex(r"\d"),
    Regex(r"\h"), Regex(r"[^\S]"), Regex(r"[\w-]"), Regex(r"\p{Han}"),
    Regex(r"\p{^Letter}"), Regex(r"\P{L}"), Regex(r"[\p{Greek}[aeiou]\s]"),
    Regex(r"\b\w"), Regex(r"\B."), Regex("(?m:..)"), Regex("(?i)k"), Regex("^.|.$"),
]  # fmt: skip


@pytest.mark.parametrize("pattern", REMOVED, ids=str)
def test_regular_expression(pattern, tmp_path):
    stage = pre_tokenizers.Split(pattern, "removed")
    assert_equal(letters(pre_tokenizer=stage), tmp_path)


@pytest.mark.parametrize(
    "stage",
    [
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Punctuation("removed"),
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.Whitespace(),
        pre_tokenizers.WhitespaceSplit(),
    ],
    ids=lambda stage: type(stage).__name__,
)
def test_pre_tokenizer(stage, tmp_path):
    merges = [("1", "1"), ("a", "1"), ("1", "a"), (".", "."), (".", "a")]
    texts = TEXTS + ["11", "a11a", "..a.", "a1.1a"]
    assert_equal(letters(pre_tokenizer=stage, merges=merges), tmp_path, texts)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("unknown", [None, "?"])
def test_unknown_characters(unknown, fuse, tmp_path):
    # Two of the three bytes of U+20AC have tokens: those do not count.
    vocabulary = ["?", "a", "<0xE2>", "<0x82>", "<0xC3>", "<0xA9>"]
    model = models.BPE(
        {token: i for i, token in enumerate(vocabulary)},
        [],
        unk_token=unknown,
        fuse_unk=fuse,
        byte_fallback=True,
    )
    texts = ["€", "€€a€", "a€éa", "éa", "€é€", ""]
    tokenizer = Tokenizer(model)
    path = assert_equal(tokenizer, tmp_path, texts)
    # The old spelling of merges, and no decoder: tokens are joined by spaces.
    file = json.loads(path.read_text())
    file["model"]["vocab"]["aa"] = 6
    file["model"]["merges"] = ["#version: 0.2", "a a"]
    assert_equal(Tokenizer.from_str(json.dumps(file)), tmp_path, ["aaa", "a€aa"])
    path.write_text(json.dumps(file))
    assert ask(path, [{"encode": "aaa", "special": True}]) == [{"ids": [6, 1]}]


# What Unicode got after version 14, and what is no character to this day.
YOUNG = [
    chr(code)
    for code in [*range(0x378, 0xD800), *range(0xE000, 0x20000), *range(0x2A6D0, 0x33500)]
    if unicodedata.category(chr(code)) == "Cn"
]
YOUNG_TEXTS = ["".join(YOUNG[i : i + 500]) for i in range(0, len(YOUNG), 500)]


@pytest.mark.parametrize(
    "regex",
    [rf"\p{{{name}}}" for name in ("L", "Lu", "Ll", "Lo", "M", "N", "Nd", "P", "S", "C", "Cn", "Alphabetic", "Latin", "Han")]
    + [r"\P{L}", r"[^\P{N}]", r"[\P{L}\d]", r"\w", r"\W", r"[\w.-]", r"\d", r"\D", r"[\D]", r"[^\s\p{L}\p{N}]", r"[[:alpha:]]"],
)  # fmt: skip
def test_young_characters_in_patterns(regex, tmp_path):
    """Characters that match are removed, so that ids show which do."""
    split = pre_tokenizers.Split(Regex(regex), "removed")
    assert_same_ids(letters(pre_tokenizer=split), tmp_path, YOUNG_TEXTS)


def test_young_characters_elsewhere(tmp_path):
    assert_same_ids(letters(normalizers.Lowercase()), tmp_path, YOUNG_TEXTS)
    # "a" and the first byte of what follows are one token, but before a number.
    numbers = letters(pre_tokenizer=pre_tokenizers.Digits(individual_digits=True), merges=[("a", "ð")])
    assert_same_ids(numbers, tmp_path, ["a" + c for c in YOUNG])
    word = letters(tokens=[AddedToken("<t>", single_word=True, normalized=False)])
    assert_same_ids(word, tmp_path, [f"<t>{c}" for c in YOUNG])


def assert_same_ids(tokenizer, tmp_path, texts):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    answers = ask(path, [{"encode": text, "special": False} for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        assert answer["ids"] == tokenizer.encode(text, add_special_tokens=False).ids, ascii(text)


def added(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False} | flags


CONFIGS = {
    "tokens": {"added_tokens_decoder": {"256": added("<a>", special=True), "257": added("<b>", lstrip=True), "258": added("ZZ", normalized=True)}},
    "other-ids": {"added_tokens_decoder": {"900": added("<b>"), "90": added("<a>")}},
    "letter": {"added_tokens_decoder": {"7": added("a", special=True)}},
    "names": {"bos_token": "<a>", "eos_token": added("<b>", rstrip=True) | {"__type": "AddedToken"}, "unk_token": "a"},
    "extra": {"extra_special_tokens": ["<b>", "<a>"], "bos_token": "<a>"},
    "bos": {"bos_token": "<a>", "add_bos_token": True},
    "bos-eos": {"bos_token": "<a>", "eos_token": "<b>", "add_bos_token": True, "add_eos_token": True},
    "no-bos": {"bos_token": "<a>", "add_bos_token": False},
    "bos-unnamed": {"add_bos_token": True},
    "nothing": {"model_max_length": 7},
}  # fmt: skip


@pytest.mark.parametrize("has_template", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_tokenizer_config(name, has_template, tmp_path):
    """As `transformers` reads the folder."""
    tokenizer = letters()
    if has_template:
        tokenizer.add_special_tokens(["<s>"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 256)]
        )
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | CONFIGS[name]
    assert_as_transformers(tokenizer, {"tokenizer_config.json": config}, tmp_path)


def test_files_beside_an_old_tokenizer(tmp_path):
    files = {
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
        "added_tokens.json": {"<b>": 257, "<a>": 256},
        "special_tokens_map.json": {"eos_token": added("<b>"), "bos_token": "ZZ"},
    }
    assert_as_transformers(letters(), files, tmp_path)


def assert_as_transformers(tokenizer, files, tmp_path):
    from transformers import AutoTokenizer

    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    for name, contents in files.items():
        (tmp_path / name).write_text(json.dumps(contents))
    expected = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["", "ab", "<a>", "x <a> <b> yZZ", "<s>a<b>b"]
    for special in (False, True):
        answers = ask(path, [{"encode": text, "special": special} for text in texts])
        ids = [expected(text, add_special_tokens=special)["input_ids"] for text in texts]
        assert [answer["ids"] for answer in answers] == ids
        answers = ask(path, [{"decode": sequence, "skip": True} for sequence in ids])
        assert [answer["text"] for answer in answers] == [
            expected.decode(sequence, skip_special_tokens=True) for sequence in ids
        ]
