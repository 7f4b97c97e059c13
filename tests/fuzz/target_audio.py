"""Fuzz target: the decoder and the probe of headers, on damaged files of every container."""

import random
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from schemas.clock import Samples
from schemas.records import Clip, Utterance
from schemas.rejects import Reject
from stages.audio_files import header_seconds
from stages.decode import DecodeConfig, Decoder
from tests.fuzz.mutations import mutated
from tests.fuzz.seeds_audio import audio_seeds
from tests.fuzz.targets import require_line

KINDS = tuple(audio_seeds())
CONFIG = DecodeConfig(min_seconds=0.05, max_seconds=20.0)


@cache
def _decoder() -> Decoder:
    return CONFIG.setup()


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="interloom-fuzz-")


def example(rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(KINDS)
    if rng.random() < 0.05:  # another name than the content
        return rng.choice((*KINDS, "raw", "txt")), mutated(rng, audio_seeds()[kind])
    return kind, mutated(rng, audio_seeds()[kind])


def check(kind: str, data: bytes) -> None:
    """Decode the whole file and a window of it; a clip or a reject comes out, the same when asked twice."""
    path = Path(_folder().name) / f"x.{kind}"
    path.write_bytes(data)
    seconds = header_seconds(str(path))
    assert 0 <= seconds < float("inf"), seconds
    for fields in ({}, {"offset": Samples(800), "length": Samples(1000), "channel": 0}):
        utterance = Utterance(
            key="k", id="k", audio=path.name, location=str(path), text="", recording="r", index=0, **fields
        )
        outcomes = [_decoder().process([utterance])[0] for _ in range(2)]
        for outcome in outcomes:
            assert isinstance(outcome, Clip | Reject)
        if isinstance(outcome, Reject):
            require_line(outcome.detail)
            assert outcome == outcomes[0]
        else:
            first = outcomes[0]
            assert isinstance(first, Clip)
            assert outcome.pcm.dtype == np.int16
            assert outcome.pcm.ndim == 1
            assert np.array_equal(outcome.pcm, first.pcm)
            limit = CONFIG.max_seconds if not fields else 1000 / 16_000
            assert len(outcome.pcm) <= (limit + 0.1) * 16_000
