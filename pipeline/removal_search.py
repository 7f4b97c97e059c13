"""Find the rows of a plan that are to be removed, and those that were."""

from collections.abc import Mapping
from typing import Any

from pipeline.plan import Plan
from pipeline.removal_checks import RemoveFailed
from pipeline.removed import Removed, digest
from pipeline.verify_plan import BadRows, row_groups
from schemas.urls import public_url

Names = Mapping[str, str]
"""sha256 to the name that was asked for."""


class Search:
    """What the rows of a plan say, taken in the plan's order as they are stored.

    Attributes:
        covered: split to the number of its rows that are or will be out.
        rows: how many of these are new.
        seen: sha256 of every name asked for that such a new row has.
        gone: sha256 of every name asked for that a row has which is out already.
        recordings: sha256 of the recordings of new rows that go with their recording.
        duplicates: sha256 of the ids of rows that the plan rejects and that repeat an id of a recording asked for; such
            a row has no recording, but names the id.
    """

    def __init__(self, ids: Names, recordings: Names, listed: Removed, *, transcribed: bool = False) -> None:
        self._ids, self._recordings, self._listed = ids, recordings, listed
        self._transcribed = transcribed
        self._stretch = ""
        self._of_recordings = set[str]()
        self.covered: dict[int, int] = {}
        self.rows = 0
        self.seen, self.gone = set[str](), set[str]()
        self.recordings, self.duplicates = set[str](), set[str]()

    def take(self, split: int, row: Mapping[str, Any]) -> None:
        """Count a row."""
        mark = digest(row["id"])
        asked = self._recordings_asked(row) if self._recordings and row["reason"] is None else set[str]()
        hits = ({mark} & self._ids.keys()) | asked
        if self._listed.covers(row["id"], row["recording"]):
            self.gone |= hits
            self._of_recordings |= {mark} if self._recordings else set()
        elif hits or (row["reason"] is not None and mark in self._of_recordings):
            self.rows += 1
            self.seen |= hits
            self._note_why(mark, row, bool(asked))
        else:
            return
        self.covered[split] = self.covered.get(split, 0) + 1

    def _note_why(self, mark: str, row: Mapping[str, Any], asked: bool) -> None:
        if asked:
            self._of_recordings.add(mark)
            self.recordings.add(digest(row["recording"]))
        elif row["reason"] is not None and mark in self._of_recordings:
            self.duplicates.add(mark)

    def _recordings_asked(self, row: Mapping[str, Any]) -> set[str]:
        """Return which names asked for a row's recording has: its own, and the file's that it is a stretch of."""
        names = {digest(row["recording"])}
        if (whole := self._file_of_stretch(row)) is not None:
            names.add(digest(whole))
        return names & self._recordings.keys()

    def _file_of_stretch(self, row: Mapping[str, Any]) -> str | None:
        """Return the file that a recording is named after which the planner called `FILE#INDEX`, else None.

        INDEX is that of its first row, which tells it from a name that the manifest gave; but not where the transcriber
        has passed the name on to rows of its own.
        """
        name, audio = row["recording"], public_url(row["audio"])
        index = name.removeprefix(f"{audio}#").rstrip("#") if name.startswith(f"{audio}#") else ""
        if not (index.isascii() and index.isdecimal()):
            return None
        if self._transcribed or index == str(row["index"]):
            self._stretch = name
        return audio if name == self._stretch else None


def search(plan: Plan, ids: Names, recordings: Names, listed: Removed, *, transcribed: bool = False) -> Search:
    """Read all rows of the plan once.

    Args:
        plan: the plan.
        ids: asked for.
        recordings: asked for; that of a file stands for all stretches of it that the planner made recordings of.
        listed: what is out already.
        transcribed: whether the plan's rows are a transcriber's.

    Raises:
        RemoveFailed: if they cannot be read.
    """
    found = Search(ids, recordings, listed, transcribed=transcribed)
    try:
        for split, rows in enumerate(row_groups(plan)):
            for row in rows:
                found.take(split, row)
    except BadRows as error:
        root = plan.root.removesuffix("/plan")
        raise RemoveFailed(f"{error}; run `interloom repair {root} --manifest M`, then remove again") from error
    return found
