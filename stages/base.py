"""The contract every stage meets. No engine is imported here."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from schemas.records import Clip, F0Track
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


class FeatureSource(Protocol):
    """What a trainable codebook learns from."""

    def features(self, clip: Clip, track: F0Track | None) -> npt.NDArray[np.float32]:
        """Return one clip's contribution: float32, shape (num_rows, num_features), possibly no rows."""


class FeatureConfig(Protocol):
    """Frozen and picklable, like a stage's config; the very same function of the clip as in the build."""

    def setup(self) -> FeatureSource: ...


FeatureSamples = Callable[[], Iterator[npt.NDArray[np.float32]]]
"""Starts one pass over the sample: one array per clip, always in the same order; never all in memory."""
