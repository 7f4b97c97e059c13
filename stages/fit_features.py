"""What a sample of the corpus contributes to the codebooks; runs on decoded clips, before alignment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from schemas.records import Clip, FitFeatures
from schemas.rejects import Reject
from stages.f0_fcpe import F0Estimator, FcpeConfig, load_estimator
from stages.mfcc import unit_features
from stages.pitch_codebook import pitch_features
from stages.style_prosody import style_features


@dataclass(frozen=True, slots=True, kw_only=True)
class FitFeaturesConfig:
    """What decides the features. `f0` must be the F0 configuration of the build."""

    name: ClassVar[str] = "fit_features"
    version: ClassVar[int] = 1

    f0: FcpeConfig

    def setup(self) -> "FitFeaturesStage":
        return FitFeaturesStage(load_estimator(self.f0))


class FitFeaturesStage:
    """Turns a clip into the features of all three codebooks, by the functions that the build itself uses."""

    def __init__(self, estimator: F0Estimator) -> None:
        self._estimator = estimator

    def process(self, batch: Sequence[Clip]) -> list[FitFeatures | Reject]:
        return [self._features(clip) for clip in batch]

    def _features(self, clip: Clip) -> FitFeatures:
        track = self._estimator.track(clip.pcm)
        pitch = pitch_features(track, clip.num_samples)
        return FitFeatures(
            key=clip.utterance.key,
            speaker=clip.utterance.speaker,
            text=clip.utterance.text,
            units=unit_features(clip.pcm),
            pitch=pitch.values[pitch.voiced],
            style=style_features(clip.pcm, track),
        )
