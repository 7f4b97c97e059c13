"""Transcripts: every script, what is no letter, what is meant for another program, and too much of it."""

from tests.zoo.book import BAD_ROW, NOT_SPOKEN, RECORD, TEXT, Zoo

SCRIPTS = {
    "greek": "Το πλοίο φεύγει από το λιμάνι στις επτά.",
    "cyrillic": "Паром отходит от пристани в семь часов.",
    "arabic": "تغادر العبارة الميناء في السابعة",
    "hebrew": "המעבורת יוצאת מהנמל בשבע",
    "devanagari": "नौका सात बजे बंदरगाह से निकलती है",
    "bengali": "ফেরি সাতটায় বন্দর ছাড়ে",
    "tamil": "படகு ஏழு மணிக்கு புறப்படும்",
    "telugu": "పడవ ఏడు గంటలకు బయలుదేరుతుంది",
    "thai": "เรือออกจากท่าเวลาเจ็ดโมง",
    "lao": "ເຮືອອອກຈາກທ່າ",
    "khmer": "សាឡាងចេញពីកំពង់ផែ",
    "burmese": "ကူးတို့သင်္ဘောသည်ထွက်ခွာသည်",
    "tibetan": "གྲུ་གཟིངས",
    "georgian": "ბორანი ტოვებს ნავსადგურს",
    "armenian": "Լաստանավը հեռանում է",
    "ethiopic": "ጀልባው ወደቡን ይለቃል",
    "hangul": "여객선은 일곱 시에 떠난다",
    "kana": "フェリーは しちじに でます",
    "han": "渡轮早上七点离开港口",
    "mongolian": "ᠮᠣᠩᠭᠣᠯ",
    "cherokee": "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ",
    "tifinagh": "ⵜⴰⵎⴰⵣⵉⵖⵜ",
    "sinhala": "පාරුව වරායෙන් පිටත් වේ",
    "runic": "ᚠᚢᚦᚨᚱᚲ",
    "linear-b": "\U00010000\U00010001",
    "cuneiform": "\U00012000\U00012001",
}
MARKED = {
    "right-to-left": "\u202e" + TEXT + "\u202c",
    "isolates": "\u2066The ferry\u2069 leaves the harbour at seven and returns before dark.",
    "zero-width-inside": TEXT.replace("rr", "r\u200br"),
    "soft-hyphens": TEXT.replace("rr", "r\u00adr"),
    "byte-order-mark": "\ufeff" + TEXT,
    "no-break-spaces": TEXT.replace(" ", "\u00a0"),
    "line-separators": TEXT.replace(" ", "\u2028", 2),
    "tabs-and-lines": TEXT.replace(" ", "\t\r\n", 3),
    "bell-and-escape": TEXT.replace("ferry", "ferry\x07").replace("dark", "\x1b[31mdark"),
    "nul": TEXT.replace("ferry", "fer\0ry"),
    "c1-controls": TEXT.replace("ferry", "ferry\x85\x9b"),
    "combining-marks": TEXT.replace("e", "e\u0301\u0316\u0320"),
    "fullwidth": "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in TEXT),
    "mathematical": "".join(chr(0x1D400 + ord(c.lower()) - 97 + 26) if c.isalpha() else c for c in TEXT),
    "ligature": TEXT.replace("ferry", "\ufb01erry"),
    "noncharacter": TEXT.replace("ferry", "ferry\uffff"),
    "private-use": TEXT.replace("ferry", "ferry\ue000"),
    "unassigned": TEXT.replace("ferry", "ferry\U000e0fff"),
    "language-tags": TEXT + "\U000e0065\U000e006e",
    "homoglyph": TEXT.replace("a", "\u0430"),
    "dotless-i": TEXT.replace("r", "\u0131"),
    "emoji-and-words": TEXT.replace("ferry", "ferry \U0001f6a2").replace("dark.", "dark \U0001f468\u200d\U0001f469."),
    "accents": TEXT.replace("harbour", "h\u00e0rb\u00f6ur"),
    "quotes": f'"{TEXT}"',
    "html": f"<script>alert(1)</script><img src=x onerror=alert(1)> {TEXT}",
    "html-entities": TEXT.replace("ferry", "&lt;ferry&gt;&#0;"),
    "formula": "=cmd|' /C calc'!A0 " + TEXT,
    "formula-at": "@SUM(1+1)*cmd " + TEXT,
    "sql": TEXT + "'); DROP TABLE records;--",
    "shell": TEXT + " $(reboot) `reboot` ; reboot",
    "template": TEXT + " {{7*7}} ${jndi:ldap://x} %s%n",
    "path": TEXT + " ../../etc/passwd",
    "special-tokens": "[Text] [Speech] [Hu12] <s> </s> <|endoftext|> " + TEXT,
}
ANY = (RECORD, "normalise/unsupported_script", *NOT_SPOKEN)
"""A sign between good words may be dropped, spoken or refused, as the normaliser sees it; it must not be more."""


def add_texts(zoo: Zoo) -> None:
    for name, text in SCRIPTS.items():
        zoo.row("script", f"script-{name}", "normalise/unsupported_script", text=text)
    for name, text in MARKED.items():
        zoo.row("signs among the words", f"text-{name}", *ANY, text=text)
    for name, text in (
        ("zero-width-only", "\u200b\u200c\u200d\ufeff"),
        ("combining-only", "\u0301\u0302\u0303"),
        ("bidi-only", "\u202a\u202e\u2066\u2069"),
        ("emoji-only", "\U0001f6a2 \U0001f44d\U0001f3fd"),
        ("dashes", "-- --- ?!"),
        ("nul-only", "\0\0\0"),
        ("controls-only", "\x01\x02\x1b"),
        ("private-only", "\ue000\ue001"),
        ("symbols-only", "\u2603 \u266b \u2211"),
        ("variation-only", "\ufe0f\ufe0f"),
    ):
        zoo.row(
            "nothing to say",
            f"text-{name}",
            "normalise/no_words",
            "normalise/empty_text",
            "normalise/unsupported_script",
            text=text,
        )
    for name, text in (
        ("empty", ""),
        ("blank", " \t\r\n "),
        ("ideographic-space", "\u3000\u2003"),
        ("null", None),
        ("missing", ...),
    ):
        zoo.row("nothing to say", f"text-{name}", "normalise/empty_text", "normalise/no_words", text=text)
    add_much(zoo)
    for name, value in (("number", 42), ("list", ["a"]), ("object", {"a": 1}), ("true", True)):
        zoo.row("field of another type", f"text-{name}", BAD_ROW, text=value)
    for name, escape in (("high", "\\ud800"), ("low", "\\udfff"), ("swapped", "\\udc00\\ud800")):
        line = b'{"id": "text-surrogate-%s", "audio_filepath": "good.flac", "text": "a%s b"}'
        zoo.raw("lone surrogate", f"text-surrogate-{name}", line % (name.encode(), escape.encode()), BAD_ROW)


def add_much(zoo: Zoo) -> None:
    for name, text in (
        ("megabyte", "word " * 200_000),
        ("megabyte-word", "a" * 1_000_000),
        ("megabyte-blanks", " " * 1_000_000 + TEXT),
        ("megabyte-digits", "9" * 1_000_000),
        ("megabyte-marks", "e" + "\u0301" * 300_000),
        ("megabyte-dots", ". " * 500_000),
        ("digits-400", "9" * 400),
        ("digits-grouped", ",".join(["999"] * 200)),
        ("float", "1e308 1e-400 0.1e999"),
        ("roman", "M" * 4000),
        ("decimals", "0." + "1" * 5000),
        ("year", "999999999-12-31"),
        ("nested", "(" * 50_000),
        ("apostrophes", "'" * 20_000 + "a" + "'" * 20_000),
        ("hyphens", "a-" * 30_000),
        ("url", "http://" + "a." * 9000),
        ("money", "$" * 999 + "9" * 999),
    ):
        much = (
            "normalise/too_many_words",
            "align/too_many_words",
            "normalise/no_words",
            "normalise/unsupported_script",
            *NOT_SPOKEN,
        )
        zoo.row("too much", f"much-{name}", *much, text=text)
