"""Letter-to-sound for words that the aligner's dictionary lacks, learnt from that dictionary (CMUdict, in the wheel).

Each letter of a word becomes zero, one or two ARPAbet phones, decided by the longest stored context around it. Contexts
are nested, so an entry that agrees with its shorter contexts is not stored: the tables shrink and nothing changes.
`python -m stages.g2p` rebuilds the shipped file byte for byte; `python -m stages.g2p --report` measures it instead.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from stages.g2p_fit import CONTEXTS, Tables, context_key, fit, padded

TABLES_PATH = Path(__file__).parent / "data" / "g2p_en_us.txt"
HELD_OUT_EVERY = 55
"""Every so many words are kept from the training for the report: about 2,000."""

Phones = tuple[str, ...]


class LetterToSound:
    """Pronounces any word written in a to z. About 0.02 ms a word."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def pronounce(self, word: str) -> Phones:
        """Return ARPAbet phones without stress; characters other than a to z are passed over."""
        letters = "".join(c for c in word if "a" <= c <= "z")
        text = padded(letters)
        return tuple(phone for i in range(len(letters)) for phone in self._letter(text, i))

    def _letter(self, text: str, index: int) -> Sequence[str]:
        for table, context in zip(reversed(self._tables), reversed(CONTEXTS), strict=True):
            phones = table.get(context_key(text, index, context))
            if phones is not None:
                return phones.split()
        return ()


def dictionary_path() -> Path:
    """Return the pronunciation dictionary inside the pocketsphinx wheel."""
    import pocketsphinx

    return Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))


def read_dictionary() -> Iterator[tuple[str, str]]:
    """Yield (word, phones separated by spaces); variants carry a suffix such as `(2)`."""
    with dictionary_path().open(encoding="ascii") as lines:
        for line in lines:
            word, _, phones = line.strip().partition(" ")
            if phones:
                yield word, phones


@cache
def known_words() -> frozenset[str]:
    """Return every word of the dictionary, without variants."""
    return frozenset(word for word, _ in read_dictionary() if not word.endswith(")"))


@cache
def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tables_sha256() -> str:
    """Return the hexadecimal sha256 of the shipped tables."""
    return sha256_of(TABLES_PATH)


@cache
def load() -> LetterToSound:
    """Return the shipped letter-to-sound model, read once per process."""
    return LetterToSound(decode_tables(TABLES_PATH.read_bytes()))


def training_words() -> dict[str, Phones]:
    """Return the plain words of the dictionary, sorted, each with its first pronunciation."""
    plain = (pair for pair in read_dictionary() if pair[0].isalpha() and len(pair[0]) <= 16)
    return {word: tuple(phones.split()) for word, phones in sorted(plain)}


def encode_tables(tables: Tables) -> bytes:
    """Return the tables as text: per context size, `phones: contexts` lines, all sorted.

    Uncompressed on purpose: the bytes do not depend on the version of a compressor.
    """
    lines = []
    for (left, right), table in zip(CONTEXTS, tables, strict=True):
        lines.append(f"[{left} {right}]")
        by_phones: dict[str, list[str]] = {}
        for key, phones in sorted(table.items()):
            by_phones.setdefault(phones, []).append(key)
        lines += [f"{phones}:{''.join(keys)}" for phones, keys in sorted(by_phones.items())]
    return ("\n".join(lines) + "\n").encode("ascii")


def decode_tables(data: bytes) -> Tables:
    """Read what `encode_tables` wrote."""
    tables: Tables = [{} for _ in CONTEXTS]
    level, width = 0, 1
    for line in data.decode("ascii").splitlines():
        if line.startswith("["):
            left, right = (int(part) for part in line[1:-1].split())
            level, width = CONTEXTS.index((left, right)), left + 1 + right
            continue
        phones, _, keys = line.partition(":")
        tables[level].update((keys[i : i + width], phones) for i in range(0, len(keys), width))
    return tables


def error_rate(model: LetterToSound, words: Mapping[str, Phones]) -> tuple[float, float]:
    """Return (phone errors per phone, share of words without an error) against given pronunciations."""
    errors = [_edits(model.pronounce(word), phones) for word, phones in words.items()]
    return sum(errors) / sum(map(len, words.values())), sum(e == 0 for e in errors) / len(errors)


def _edits(a: Sequence[str], b: Sequence[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def held_out_report() -> dict[str, float | int]:
    """Train on all but every 55th word and measure on those: a minute of CPU."""
    words = training_words()
    order = sorted(words, key=lambda word: hashlib.sha256(word.encode()).digest())
    test = {word: words[word] for word in order[::HELD_OUT_EVERY]}
    model = LetterToSound(fit({word: phones for word, phones in words.items() if word not in test}))
    phone_errors, exact = error_rate(model, test)
    return {"words": len(test), "phone_error_rate": round(phone_errors, 4), "words_exact": round(exact, 4)}


def main(argv: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Rebuild the letter-to-sound tables from the aligner's dictionary.")
    parser.add_argument("--out", type=Path, default=TABLES_PATH, help="where to write them (default: as shipped)")
    parser.add_argument("--report", action="store_true", help="measure on held-out words; write nothing")
    args = parser.parse_args(None if argv is None else list(argv))
    if args.report:
        print(json.dumps(held_out_report()))
        return 0
    data = encode_tables(fit(training_words()))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(data)
    print(f"{args.out}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
