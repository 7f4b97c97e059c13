"""Damage to small files: cuts, flipped bits, sizes and counts made absurd, numbers and words made hostile."""

import random
import re
import struct
from collections.abc import Callable, Sequence

INTEGERS = (
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    -1,
)
NUMBERS = (
    b"0", b"-0", b"-1", b"1", b"1e308", b"-1e308", b"1e-320", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 400,
    b"0x10", b"1_0", b"1.5", b".", b"null", b"true", b'"1"', b"[]", b"{}", b"99999999999999999999", b"2147483648",
)  # fmt: skip
TOKENS = (
    b"\0", b"\n", b"\r", b"\r\n", b"\t", b" ", b'"', b'""', b"'", b"\\", b"\\u0000", b"\\ud800", b"\\udfff", b"{", b"}",
    b"[", b"]", b",", b":", b"/", b"../", b"/dev/zero", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\xf0\x9f\x98\x80", b";;", b"<exists>", b"<ALT_BEGIN>",
    b"=cmd()", b"<script>",
    b"[" * 3000, b'{"a":' * 3000, b"A" * 5000, b"null", b"NA", b"*", b"!", b"%n%s", b"${x}", b"://", b"::",
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")

Mutation = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def mutated(rng: random.Random, seeds: Sequence[bytes], most: int = 6) -> bytes:
    """Return one of the seeds after one to `most` mutations, a few of which may draw on the other seeds."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, most)):
        rng.choice(MUTATIONS)(rng, data, seeds)
    return bytes(data)


def _place(rng: random.Random, data: bytearray) -> int:
    """Prefer the beginning, where headers are."""
    if not data:
        return 0
    return rng.randrange(min(len(data), rng.choice((16, 64, 256, len(data)))))


def _flip(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[_place(rng, data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _integer(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    size, order = rng.choice((1, 2, 3, 4, 8)), rng.choice(("little", "big"))
    at = _place(rng, data)
    value = rng.choice(INTEGERS) % 256**size
    data[at : at + size] = value.to_bytes(size, order)


def _float(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = _place(rng, data)
    value = rng.choice((float("nan"), float("inf"), -float("inf"), 1e-310, 1e38, -0.0))
    data[at : at + 4] = struct.pack(rng.choice("<>") + "f", value if abs(value) < 3e38 else float("inf"))


def _cut(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    del data[_place(rng, data) :]


def _delete(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 2, 4, 16, 512))]


def _double(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = _place(rng, data)
    part = bytes(data[at : at + rng.choice((1, 4, 16, 64, 512))])
    data[at:at] = part * rng.choice((1, 2, 20))


def _splice(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    if other:
        start = rng.randrange(len(other))
        at = _place(rng, data)
        data[at : at + rng.choice((0, 4, 64))] = other[start : start + rng.choice((4, 16, 64, 512, len(other)))]


def _number(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    found = list(_NUMBER.finditer(data[: 1 << 16]))
    if found:
        match = rng.choice(found)
        data[match.start() : match.end()] = rng.choice(NUMBERS)


def _token(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = _place(rng, data)
    data[at : at + rng.choice((0, 0, 1, 4))] = rng.choice(TOKENS)


MUTATIONS: tuple[Mutation, ...] = (
    _flip, _flip, _byte, _integer, _integer, _float, _cut, _delete, _double, _splice, _number, _number, _token, _token,
)  # fmt: skip
