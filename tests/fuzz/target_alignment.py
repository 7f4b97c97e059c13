"""Fuzz target: alignment files of every format, through the index and the aligner. BadAlignment is the only error."""

import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

from schemas.records import Aligned
from schemas.rejects import Reject
from stages.align_imported import ImportedConfig, alignment_source
from stages.alignment_files.entry import BadAlignment
from tests.fuzz.mutations import mutated
from tests.fuzz.seeds_text import SECONDS, alignment_seeds
from tests.fuzz.targets import require_line
from tests.stages.alignment_builders import spoken

KINDS = tuple(alignment_seeds())


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="interloom-fuzz-")


def example(rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(KINDS)
    return kind, mutated(rng, alignment_seeds()[kind])


def check(kind: str, data: bytes) -> None:
    """Check, index and align; what comes out lies in the clip, in order, or is a reject of one line."""
    folder = Path(_folder().name) / "a"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / f"u.{kind.removeprefix('mfa.')}").write_bytes(data)
    for share in (0.0, 1.0):
        try:
            config = ImportedConfig(source=alignment_source(str(folder)), max_unmatched_share=share)
            config.check()
            aligner = config.setup()
        except BadAlignment as error:
            require_line(str(error))
            return
        items = [spoken("hello there x", SECONDS, id=name, audio=f"{name}.wav", recording=name) for name in ("u", "v")]
        for outcome in aligner.process(items):
            _check_outcome(outcome)


def _check_outcome(outcome: Aligned | Reject) -> None:
    if isinstance(outcome, Reject):
        require_line(outcome.detail)
        return
    assert len(outcome.words) == 3
    last = 0
    for word in outcome.words:
        assert (word.start is None) == (word.end is None)
        if word.start is not None and word.end is not None:
            assert last <= word.start < word.end <= SECONDS * 16_000
            last = word.end
        assert word.score is None or -14 < word.score <= 0
