"""NIST CTM: `recording channel start duration word [confidence [type speaker]]`, times in seconds, comments `;;`.

The fields are those of sclite's documentation (SCTK, `infmts.htm`). NeMo's forced aligner writes one file per recording
with `NA lex NA` at the end of each line, and Kaldi leaves the confidence out.
"""

from collections.abc import Iterable

from stages.alignment_files.entry import BadAlignment, Entry, ImportedWord, decode_text, parse_number, shown

_NOT_WORDS = {"non-lex", "noise", "misc", "noscore"}
"""Types, in the seventh field, of what is no word (RT-09 evaluation plan)."""
_COARSEST = 0.01


def ctm_keys(line: bytes, file: str, number: int) -> tuple[str, ...]:
    """Return the recording that a line is about, or nothing for blank lines and comments."""
    start = line.split(None, 1)
    if not start or start[0].startswith(b";;"):
        return ()
    return (decode_text(start[0], file, number),)


def read_ctm(file: str, lines: Iterable[tuple[int, bytes]]) -> Entry:
    """Read the lines of one recording; `lane` is the channel.

    Raises:
        BadAlignment: if a line is none of a CTM.
    """
    words, decimals = [], 0
    for number, line in lines:
        fields = decode_text(line, file, number).split()
        if not fields or fields[0].startswith(";;"):
            continue
        if not 5 <= len(fields) <= 8:
            raise BadAlignment(file, number, f"5 to 8 fields are expected, found {len(fields)}")
        decimals = max(decimals, *(len(text.partition(".")[2]) for text in fields[2:4]))
        word = _word(fields, file, number)
        if len(fields) < 7 or fields[6].lower() not in _NOT_WORDS:
            words.append(word)
    rounding = min(_COARSEST, max(1e-3, 10.0 ** -min(decimals, 9)))
    return Entry(file=file, words=tuple(words), rounding=rounding, lanes="channel")


def _word(fields: list[str], file: str, number: int) -> ImportedWord:
    if fields[2] == "*":
        raise BadAlignment(file, number, "alternatives (<ALT_BEGIN>) are not supported")
    start, duration = (parse_number(text, file, number) for text in fields[2:4])
    confidence = None
    if len(fields) > 5 and fields[5].upper() not in ("NA", "NAN"):
        confidence = _confidence(fields[5], file, number)
    return ImportedWord(fields[4], start, start + duration, confidence, fields[1])


def _confidence(text: str, file: str, number: int) -> float:
    negative = text.startswith("-")
    try:
        value = parse_number(text.removeprefix("-"), file, number)
    except BadAlignment:
        raise BadAlignment(file, number, f"the confidence {shown(text)} is no number") from None
    return -value if negative else value
