"""The contract every stage meets. No engine is imported here."""

from collections.abc import Sequence
from typing import ClassVar, Protocol, TypeVar

from schemas.rejects import Reject

In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class Stage(Protocol[In_contra, Out_co]):
    """Live, worker-side, never pickled."""

    def process(self, batch: Sequence[In_contra]) -> "Sequence[Out_co | Reject]":
        """Return exactly one outcome per input, in order. An outcome may not depend on its batch-mates."""


class StageConfig(Protocol[In_contra, Out_co]):
    """Frozen, picklable, printable as JSON: the only thing that travels.

    `version` is raised when the same config would give other bytes.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    def setup(self) -> Stage[In_contra, Out_co]:
        """Load models and return the live stage; called once per worker. Heavy imports belong here."""
