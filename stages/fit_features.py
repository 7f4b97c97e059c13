"""What a sample of the corpus contributes to the codebooks; runs on decoded clips, before alignment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from schemas.records import Clip, F0Track, FitFeatures
from schemas.rejects import Reason, Reject
from stages.base import FeatureConfig, FeatureSource
from stages.f0_fcpe import F0Estimator

NOTHING = np.zeros((0, 1), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitFeaturesConfig:
    """What decides the features: those of the parts that are to be trained, None for parts that are given.

    `f0` must be the F0 configuration of the build.
    """

    name: ClassVar[str] = "fit_features"
    version: ClassVar[int] = 2

    f0: Any = None
    units: FeatureConfig | None = None
    pitch: FeatureConfig | None = None
    style: FeatureConfig | None = None

    def setup(self) -> "FitFeaturesStage":
        sources = {name: getattr(self, name) for name in ("units", "pitch", "style")}
        live = {name: None if config is None else config.setup() for name, config in sources.items()}
        return FitFeaturesStage(None if self.f0 is None else self.f0.load(), live)


class FitFeaturesStage:
    """Turns a clip into the features of the codebooks to train, by the functions that the build itself uses."""

    def __init__(self, estimator: F0Estimator | None, sources: dict[str, FeatureSource | None]) -> None:
        self._estimator = estimator
        self._sources = sources

    def process(self, batch: Sequence[Clip]) -> list[FitFeatures | Reject]:
        return [self._outcome(clip) for clip in batch]

    def _outcome(self, clip: Clip) -> FitFeatures | Reject:
        track = self._estimator.track(clip.pcm) if self._estimator is not None else None
        rows = {name: self._rows(name, clip, track) for name in self._sources}
        if any(not np.isfinite(found).all() for found in rows.values()):
            return Reject.of(clip.utterance, FitFeaturesConfig.name, Reason.NOT_FINITE, "features are not finite")
        utterance = clip.utterance
        return FitFeatures(key=utterance.key, speaker=utterance.speaker, text=utterance.text, **rows)

    def _rows(self, name: str, clip: Clip, track: F0Track | None) -> npt.NDArray[np.float32]:
        source = self._sources[name]
        return NOTHING if source is None else source.features(clip, track)
