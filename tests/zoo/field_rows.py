"""Ids, numbers and lines of JSON."""

import json

from tests.zoo.book import BAD_ROW, OFFSET, RECORD, TEXT, UNREADABLE, Zoo

DUPLICATE = "plan/duplicate_id"
SPOKEN = f'"audio_filepath": "good.flac", "text": "{TEXT}", "offset": 0.3, "duration": 3.79'.encode()


def add_ids(zoo: Zoo) -> None:
    """Ids may be anything; only the second use of one, or of the key that an earlier one has, is wrong."""
    from pipeline.manifest import record_key

    for name in (
        "a b",
        "a/b",
        "a.b",
        "a\\b",
        "a\nb",
        "a\0b",
        "A B",
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "~",
        "con",
        "__proto__",
        "-rf",
        "x" * 10_240,
        "\u202eabc",
        "\U0001f6a2",
        "e\u0301",
        "\u00e9",
        "a\u200bb",
        "<script>alert(1)</script>",
        "=1+1",
        "%00",
        "key~1",
        " ",
        "null",
        "id.json",
        "shard-000000.tar",
    ):
        zoo.row("odd id", name, RECORD)
    zoo.row("id used before", "a b", DUPLICATE)
    zoo.row("id used before", record_key("a/b"), DUPLICATE)
    for name, value in (
        ("id-number", 7),
        ("id-null", None),
        ("id-empty", ""),
        ("id-missing", ...),
        ("id-huge", 10**300),
    ):
        expect = (RECORD, DUPLICATE)  # without an id it is made of the audio and the offset
        zoo.row("odd id", name, *expect, id=value)
    for name, value in (("id-list", ["a"]), ("id-true", True), ("id-float", 1.5), ("id-object", {"a": 1})):
        zoo.row("field of another type", name, BAD_ROW, id=value)
    zoo.raw("lone surrogate", "id-surrogate", b'{"id": "\\ud800", ' + SPOKEN + b"}", BAD_ROW)
    for field in ("speaker", "recording", "language", "license", "source"):
        zoo.row("field of another type", f"{field}-list", BAD_ROW, **{field: [1]})
        zoo.row("odd field", f"{field}-odd", RECORD, **{field: f"{field} \0\n\u202e<b>=1+1 " + "x" * 10_000})


def add_numbers(zoo: Zoo) -> None:
    inf, nan = float("inf"), float("nan")
    for field in ("offset", "duration"):
        for name, value in (
            ("negative", -1),
            ("nan", nan),
            ("inf", inf),
            ("minus-inf", -inf),
            ("1e308", 1e308),
            ("text", "1"),
            ("true", True),
            ("list", [1]),
            ("digits", 10**400),
            ("object", {}),
        ):
            zoo.row("number that cannot be", f"{field}-{name}", BAD_ROW, **{field: value})
    zoo.row("number that cannot be", "duration-0", "decode/too_short", duration=0)
    zoo.row("number that cannot be", "duration-1e-9", "decode/too_short", duration=1e-9)
    zoo.row("number that cannot be", "duration-denormal", "decode/too_short", duration=5e-324)
    zoo.row("number that cannot be", "duration-days", "decode/too_long", duration=9e6)
    zoo.row("number that cannot be", "duration-beyond", UNREADABLE, duration=100.0)
    zoo.row("number that cannot be", "offset-beyond", "decode/empty_audio", offset=9e6, duration=1.0)
    zoo.row(
        "number that cannot be",
        "offset-minus-zero",
        "align/too_many_words",
        "qc/wrong_transcript",
        offset=-0.0,
        duration=0.5,
    )
    for name, value in (("negative", -1), ("fraction", 1.5), ("huge", 10**9), ("text", "left"), ("true", True)):
        zoo.row("number that cannot be", f"channel-{name}", BAD_ROW, channel=value)
    zoo.row("number that cannot be", "channel-absent", "decode/bad_row", channel=5)


def add_lines(zoo: Zoo) -> None:
    """Lines that are no row, and rows that carry more than they should."""

    def line(name: str, data: bytes, *expect: str) -> None:
        zoo.raw("line of JSON", name, data, *expect)

    for name, data in (
        ("json-cut", b'{"id": "x", "audio_filepath": "good.flac", "text": "It br'),
        ("json-list", b'["good.flac", "text"]'),
        ("json-number", b"12"),
        ("json-text", b'"good.flac"'),
        ("json-null", b"null"),
        ("json-empty", b"{}"),
        ("json-nan", b"NaN"),
        ("json-deep", b"[" * 100_000),
        ("json-deep-object", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        ("json-digits", b'{"audio_filepath": "good.flac", "text": "x", "offset": ' + b"9" * 5000 + b"}"),
        ("json-latin1", b'{"audio_filepath": "good.flac", "text": "caf\xe9"}'),
        ("json-nul", b'{"audio\0": 1}'),
        ("json-overlong", b'{"audio_filepath": "\xc0\xae\xc0\xae/x", "text": "x"}'),
        ("json-raw-surrogate", b'{"audio_filepath": "good.flac", "text": "\xed\xa0\x80"}'),
        ("json-trailing", b"{" + SPOKEN + b"} {}"),
        ("json-comment", b"{" + SPOKEN + b"} // x"),
        ("json-single-quotes", b"{'audio_filepath': 'good.flac'}"),
        ("json-wide", '{"a": 1}'.encode("utf-16")),
        ("json-no-audio", b'{"text": "x"}'),
        ("json-null-audio", b'{"audio_filepath": null, "text": "x"}'),
        ("json-audio-list", b'{"audio_filepath": ["a"], "text": "x"}'),
        ("json-audio-object", b'{"audio_filepath": {}}'),
        ("csv-line", b"good.flac,text"),
        ("yaml-line", b"audio_filepath: good.flac"),
        ("pickle-line", b"\x80\x04\x95"),
    ):
        line(name, data.replace(b"\n", b""), BAD_ROW)
    line("json-bom", b'\xef\xbb\xbf{"id": "json-bom", ' + SPOKEN + b"}", RECORD)
    line("json-crlf", b'{"id": "json-crlf", ' + SPOKEN + b"}\r", RECORD)
    line("json-key-twice", b'{"id": "first", "id": "json-key-twice", ' + SPOKEN + b"}", RECORD)
    line("json-escapes", b'{"\\u0069d": "json-escapes", ' + SPOKEN + b"}", RECORD)
    extra = json.dumps({"x": ["y" * 1000] * 3000}).encode()
    line("json-extra-3mb", b'{"id": "json-extra-3mb", "extra": ' + extra + b", " + SPOKEN + b"}", RECORD)
    line("json-extra-nan", b'{"id": "json-extra-nan", "extra": [NaN, 1e999], ' + SPOKEN + b"}", RECORD)
    assert OFFSET == 0.3
