"""LibriSpeech-Alignments in the condensed form (github.com/CorentinJ/librispeech-alignments), `*.alignment.txt`.

A line is `id ",WORD,WORD," "0.5,0.8,1.2,1.4"`: words, with empty ones for silences, and where each ends in seconds. The
first starts at 0, each other one where the one before it ends.
"""

from collections.abc import Iterable

from stages.alignment_files.entry import BadAlignment, Entry, ImportedWord, decode_text, parse_number


def librispeech_keys(line: bytes, file: str, number: int) -> tuple[str, ...]:
    """Return the id of a line's utterance, or nothing for a blank line."""
    start = line.split(None, 1)
    return (decode_text(start[0], file, number),) if start else ()


def read_librispeech(file: str, lines: Iterable[tuple[int, bytes]]) -> Entry:
    """Read the line of one utterance; the last end is the length of the audio.

    Raises:
        BadAlignment: if there are several lines, or a line is of another form.
    """
    found = [(number, text) for number, line in lines if (text := decode_text(line, file, number).strip())]
    if len(found) != 1:
        raise BadAlignment(file, found[1][0] if found else None, "an utterance must have one line")
    (number, text), fields = found[0], found[0][1].split()
    if len(fields) != 3 or any(len(field) < 2 or field[0] != '"' or field[-1] != '"' for field in fields[1:]):
        raise BadAlignment(file, number, 'an id, "words" and "times" are expected')
    words, times = (field[1:-1].split(",") for field in fields[1:])
    if len(words) != len(times):
        raise BadAlignment(file, number, f"{len(words)} words and {len(times)} times")
    ends = [parse_number(time, file, number) for time in times]
    starts = [0.0, *ends[:-1]]
    if any(end < start for start, end in zip(starts, ends, strict=True)):
        raise BadAlignment(file, number, "times descend")
    spoken = [ImportedWord(w, s, e) for w, s, e in zip(words, starts, ends, strict=True) if w]
    return Entry(file=file, words=tuple(spoken), seconds=ends[-1])
