"""Find the rows of a plan that are to be removed, and those that were."""

from collections.abc import Mapping

from pipeline.plan import Plan, Row, load_rows
from pipeline.removed import digest, is_removed
from schemas.records import Utterance

Names = Mapping[str, str]
"""sha256 to the name that was asked for."""


class Search:
    """What the rows of a plan say, taken in the plan's order.

    Attributes:
        covered: split to the number of its rows that are or will be out.
        rows: how many of these are new.
        seen: sha256 of every name asked for that a row has.
        gone: sha256 of every id asked for whose row is out already, perhaps with its recording.
        duplicates: sha256 of the ids of rows that the plan rejects and that repeat an id of a recording asked for; such
            a row has no recording, but names the id.
    """

    def __init__(self, ids: Names, recordings: Names) -> None:
        self._ids, self._recordings = ids, recordings
        self._of_recordings = set[str]()
        self.covered: dict[int, int] = {}
        self.rows = 0
        self.seen, self.gone, self.duplicates = set[str](), set[str](), set[str]()

    def take(self, split: int, row: Row) -> None:
        """Count a row."""
        if is_removed(row):
            mark = row.id.removeprefix("sha256:")
            self.gone |= {mark} & self._ids.keys()
            self._of_recordings |= {mark} if self._recordings else set()
        elif self._is_wanted(row):
            self.rows += 1
        else:
            return
        self.covered[split] = self.covered.get(split, 0) + 1

    def _is_wanted(self, row: Row) -> bool:
        mark = digest(row.id)
        hits = {mark} & self._ids.keys()
        if self._recordings and isinstance(row, Utterance):
            if found := {digest(row.recording)} & self._recordings.keys():
                self._of_recordings.add(mark)
            hits |= found
        elif mark in self._of_recordings:
            self.duplicates.add(mark)
        self.seen |= hits
        return bool(hits) or mark in self.duplicates


def search(plan: Plan, ids: Names, recordings: Names) -> Search:
    """Read all rows of the plan once."""
    found = Search(ids, recordings)
    for split in range(len(plan.inputs)):
        for row in load_rows(plan.rows_path, split, plan.base):
            found.take(split, row)
    return found
