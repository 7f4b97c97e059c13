"""An index of alignment files: which lines or file hold the words of an id, a recording or an audio file.

Files of lines are read once from end to end and only offsets are kept: about 250 bytes for each id, and some 10 s for
10 million lines. Files of one recording each are known by their path. Words are parsed when they are asked for.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from schemas.records import Utterance
from stages.alignment_files.entry import BadAlignment, Entry, printable, shown
from stages.alignment_files.folder import Source, read_whole, stem
from stages.alignment_files.lines import LINE_FORMATS, LineFiles, Span
from stages.alignment_files.textgrid import read_mfa_csv, read_mfa_json, read_textgrid
from stages.alignment_files.whisper_json import read_whisper_json

MAX_SCATTERED = 1_000_000
"""Runs of lines beyond the first that recordings may have, all together: their offsets are kept in memory."""
_CACHED = 4
_PROBED = 20
_PROBED_RUNS = 1000


class Found(NamedTuple):
    """Where an utterance's words are.

    Attributes:
        entry: number for `read`.
        by_recording: True where the key names the audio file or its recording, so that times count from its start.
    """

    entry: int
    by_recording: bool


class AlignmentIndex:
    """Index over the files of a source.

    Raises:
        BadAlignment: if a compressed file is damaged, or the lines of recordings are scattered.
    """

    def __init__(self, source: Source, tier: str) -> None:
        self._source = source
        self._tier = tier
        self._names: list[str] = []
        self._by_tail: dict[str, int | list[int]] = {}
        self._spans = tuple(array("q") for _ in Span._fields)
        self._more: dict[int, list[Span]] = {}
        self._scattered = 0
        self._first_bad = ""
        self._cache: OrderedDict[int, Entry | BadAlignment] = OrderedDict()
        self._lines = LineFiles(source.root, source.files, source.format)
        for number, name in enumerate(source.files):
            if source.format in LINE_FORMATS:
                self._add_lines(number)
            else:
                self._new(stem(name), Span(number, 0, 0, 1))

    def __len__(self) -> int:
        return len(self._names)

    def find(self, utterance: Utterance) -> Found | None:
        """Return where an utterance is: by its id, else its recording's name, else the path of its audio.

        A path matches where its folders agree, as far as both have some: `a/001` is no alignment of `b/001.wav`.

        Raises:
            BadAlignment: if several match as well.
        """
        audio = _without_suffix(utterance.audio)
        dashed = audio.replace(" ", "-")  # as NeMo writes ids
        tried = [self._match(name) for name in (utterance.id, utterance.recording, audio, dashed)]
        best = next((entries for entries in tried if entries), None)
        if best is None:
            return None
        if len(best) > 1:
            names = ", ".join(sorted(shown(self._names[entry]) for entry in best)[:3])
            raise BadAlignment(utterance.id, None, f"several alignments go by that name: {names}")
        return Found(best[0], any(best[0] in entries for entries in tried[1:]))

    def missing(self, utterance: Utterance) -> str:
        """Return what to say of an utterance that is not found."""
        name = printable(utterance.id)
        namesake = self._by_tail.get(_parts(_without_suffix(utterance.audio))[-1])
        if isinstance(namesake, int):
            return f"no alignment for {name!r}; {printable(self._names[namesake])!r} lies in another folder"
        return f"no alignment for {name!r}" + (f"; {self._first_bad}" if self._first_bad else "")

    def read(self, entry: int) -> Entry:
        """Parse an entry, or return it from a small cache.

        Raises:
            BadAlignment: if its lines or its file are damaged.
        """
        if entry not in self._cache:
            try:
                self._cache[entry] = self._parsed(entry)
            except BadAlignment as bad:
                self._cache[entry] = bad
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(entry)
        held = self._cache[entry]
        if isinstance(held, BadAlignment):
            raise held.with_traceback(None)
        return held

    def _parsed(self, entry: int) -> Entry:
        first = self._first(entry)
        if self._source.format in LINE_FORMATS:
            return self._lines.read([first, *self._more.get(entry, [])], self._names[entry], self._tier)
        return read_file(self._source, self._source.files[first.file], self._tier)

    def _match(self, name: str) -> list[int]:
        """Return the entries whose path agrees with a name in the most folders, and in as many as either has."""
        parts = _parts(name)
        held = self._by_tail.get(parts[-1], []) if parts[-1] else []
        agreed = {}
        for entry in [held] if isinstance(held, int) else held:
            theirs = _parts(self._names[entry])
            common = min(len(parts), len(theirs))
            if parts[-common:] == theirs[-common:]:
                agreed[entry] = common
        return [entry for entry, common in agreed.items() if common == max(agreed.values())]

    def _add_lines(self, file: int) -> None:
        for run in self._lines.scan(file):
            if isinstance(run, BadAlignment):
                self._first_bad = self._first_bad or str(run)
                continue
            keys, span = run
            for key in keys:
                self._extend(key, span)

    def _extend(self, name: str, span: Span) -> None:
        entry = self._exact(name)
        if entry is None:
            self._new(name, span)
            return
        last = self._more[entry][-1] if entry in self._more else self._first(entry)
        if last.file == span.file and last.end == span.start:
            joined = last._replace(end=span.end)
            if entry in self._more:
                self._more[entry][-1] = joined
            else:
                self._spans[Span._fields.index("end")][entry] = span.end
            return
        self._scattered += 1
        if self._scattered > MAX_SCATTERED:
            raise BadAlignment(
                self._source.files[span.file], span.line, "the lines of recordings are scattered; sort it"
            )
        self._more.setdefault(entry, []).append(span)

    def _exact(self, name: str) -> int | None:
        held = self._by_tail.get(_parts(name)[-1], [])
        return next((e for e in ([held] if isinstance(held, int) else held) if self._names[e] == name), None)

    def _new(self, name: str, span: Span) -> None:
        entry, tail = len(self._names), _parts(name)[-1]
        self._names.append(name)
        for column, value in zip(self._spans, span, strict=True):
            column.append(value)
        held = self._by_tail.get(tail)
        if held is None:
            self._by_tail[tail] = entry
        elif isinstance(held, int):
            self._by_tail[tail] = [held, entry]
        else:
            held.append(entry)

    def _first(self, entry: int) -> Span:
        return Span(*(column[entry] for column in self._spans))


def read_file(source: Source, name: str, tier: str) -> Entry:
    """Read a file that holds one recording.

    Raises:
        BadAlignment: if it is damaged, too large, or of another format.
    """
    data = read_whole(source.root, name)
    if source.format != "textgrid":
        return read_whisper_json(name, data)
    if name.lower().endswith(".csv"):
        return read_mfa_csv(name, data, tier)
    return read_mfa_json(name, data, tier) if name.lower().endswith(".json") else read_textgrid(name, data, tier)


def probe(source: Source, tier: str) -> None:
    """Check that one of the first files holds words that can be read.

    Raises:
        BadAlignment: the first problem, if none does.
    """
    first: BadAlignment | None = None
    for number, name in enumerate(source.files[:_PROBED]):
        tried = _probed_lines(source, number, tier) if source.format in LINE_FORMATS else (_probed(source, name, tier),)
        for outcome in tried:
            if not isinstance(outcome, BadAlignment):
                return
            first = first or outcome
    raise first or BadAlignment(str(source.root), None, f"no words in files of format {source.format!r}")


def _probed(source: Source, name: str, tier: str) -> Entry | BadAlignment:
    try:
        return read_file(source, name, tier)
    except BadAlignment as bad:
        return bad


def _probed_lines(source: Source, file: int, tier: str) -> Iterator[Entry | BadAlignment]:
    lines = LineFiles(source.root, source.files, source.format)
    try:
        runs = list(islice(lines.scan(file), _PROBED_RUNS))
    except BadAlignment as bad:
        runs = [bad]
    for run in runs:
        try:
            yield run if isinstance(run, BadAlignment) else lines.read([run[1]], run[0][0], tier)
        except BadAlignment as bad:
            yield bad


def _without_suffix(audio: str) -> str:
    folders, slash, name = audio.rpartition("/")
    return folders + slash + (name.rpartition(".")[0] or name)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")] or [""]
