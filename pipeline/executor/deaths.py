"""Why a child died: by what it worked on, or by somebody outside, which no record is to blame for."""

import signal
from enum import StrEnum

OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM}
"""Exit status of a child that was killed; nothing that a record makes our libraries do ends so, but lack of memory."""
LITTLE = 0.5
"""Share of the memory between the loaded models and the limit: who never had so much was not killed for its greed."""


class Blame(StrEnum):
    """Who a death is laid to.

    RECORD: what was in the child's hands. OUTSIDE: who killed it; what was in its hands is tried alone, without a
    strike. NOBODY: nothing was in its hands.
    """

    RECORD = "record"
    OUTSIDE = "outside"
    NOBODY = "nobody"


MOST_DEATHS = {Blame.OUTSIDE: 10, Blame.NOBODY: 3}
"""So many in one go at a split fail it."""


def blame(
    *, killed_by_us: bool, status: int, peak_bytes: int, loaded_bytes: int, memory_bytes: int, held: int
) -> Blame:
    """Return who a child's death is laid to.

    Args:
        killed_by_us: the child lived until its worker killed it.
        status: its exit status, minus the signal where one ended it.
        peak_bytes: most resident memory that it ever had, as the kernel counted it.
        loaded_bytes: what it had when its models were loaded, before any record.
        memory_bytes: what it may have: the limit, or the machine's memory where that is less.
        held: number of records in its hands.
    """
    modest = peak_bytes < loaded_bytes + LITTLE * (memory_bytes - loaded_bytes)
    if not killed_by_us and status in OUTSIDE and modest:
        return Blame.OUTSIDE
    return Blame.RECORD if held else Blame.NOBODY
