"""F0 by YAAPT (Zahorian and Hu 2008, J. Acoust. Soc. Am. 123(6)), which Spirit LM's pitch VQ-VAE was trained on.

The package is AMFM-decompy (MIT). Frame lengths and the correlation threshold are those of Spirit LM's release: 20 ms,
25 ms, 0.25; the clip is scaled to a peak of 0.95. What YAAPT calls voiced depends on a clip's mean energy.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from schemas.clock import SAMPLE_RATE, Samples, frames_covering
from schemas.records import Encoded, F0Track
from schemas.rejects import Reject

FRAME = 320
"""Samples of an analysis frame, 20 ms; half of it is put before the clip, so that frame i is centred on i * hop."""

BLOCK = 30 * SAMPLE_RATE
"""Samples that are analysed at once; the package's spectra take 0.1 MB per frame."""

CONTEXT = SAMPLE_RATE // 2
"""Samples that a block sees of its neighbours."""

SHORTEST = 1600
"""Samples; shorter clips are filled up with silence, because the package needs some frames."""

LOWEST, HIGHEST = (50.0, 120.0), (180.0, 1000.0)
"""Where min_hz and max_hz may lie: a lag must fit into 25 ms, four harmonics below 4 kHz, and 150 Hz, the package's own
guess where it knows nothing, between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class YaaptConfig:
    """What decides the F0.

    Attributes:
        min_hz: lowest F0 searched, 50 to 120.
        max_hz: highest F0 searched, 180 to 1000.
        hop: samples between frames, 80 or 160.
    """

    name: ClassVar[str] = "f0"
    version: ClassVar[int] = 1

    min_hz: float = 60.0
    max_hz: float = 400.0
    hop: int = 80

    def __post_init__(self) -> None:
        for name, value, (low, high) in (("min_hz", self.min_hz, LOWEST), ("max_hz", self.max_hz, HIGHEST)):
            if not low <= value <= high:
                raise ValueError(f"YAAPT needs {name} in {low:g} .. {high:g} Hz, got {value}")
        if self.hop not in (80, 160):
            raise ValueError(f"hop must be 80 or 160 samples, got {self.hop}")

    def setup(self) -> "YaaptF0":
        return YaaptF0(self.load())

    def load(self) -> "YaaptEstimator":
        return load_estimator(self)

    def check(self) -> None:
        """Raise ValueError if the package is missing."""
        load_estimator(self)


class YaaptF0:
    """Adds the F0 track to a record. Clips are analysed one by one."""

    def __init__(self, estimator: "YaaptEstimator") -> None:
        self._estimator = estimator

    def process(self, batch: Sequence[Encoded]) -> list[Encoded | Reject]:
        return [replace(record, f0=self._estimator.track(record.clip.pcm)) for record in batch]


class YaaptEstimator:
    """YAAPT in float64 on one core."""

    def __init__(self, config: YaaptConfig, signal: Any, yaapt: Any) -> None:
        self._config = config
        self._signal = signal
        self._yaapt = yaapt

    def track(self, pcm: npt.NDArray[np.int16]) -> F0Track:
        """Return the F0 of a clip of one sample or more; frame i stands for sample i * hop.

        A clip longer than 30 s passes in blocks, each as if it were cut there but for half a second on each side: its
        mean energy and pitch are its own. Silence is unvoiced. F0 may read one lag of 1/16000 s low, 1.3 % at 200 Hz,
        and is that of some 6 ms before, as in the package. With a hop of 80 a second of audio takes about 0.1 s, and a
        block of 30 s 0.45 GB.

        Raises:
            ValueError: if the clip is empty or not int16.
        """
        if pcm.dtype != np.int16 or pcm.ndim != 1 or len(pcm) == 0:
            raise ValueError(f"a clip must be int16 of shape (num_samples,), got {pcm.dtype}{list(pcm.shape)}")
        hop = self._config.hop
        blocks = []
        for start in range(0, len(pcm), BLOCK):
            left, end = max(0, start - CONTEXT), min(len(pcm), start + BLOCK)
            hz = self._block(pcm[left : end + CONTEXT])
            blocks.append(hz[(start - left) // hop :][: frames_covering(end - start, hop)])
        return F0Track(hz=np.concatenate(blocks), hop=Samples(hop))

    def _block(self, pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        count = frames_covering(len(pcm), self._config.hop)
        peak = int(np.abs(pcm.astype(np.int32)).max())
        if peak == 0:
            return np.zeros(count, np.float32)
        wave = pcm.astype(np.float64) * (0.95 / peak)
        wave = np.pad(wave, (FRAME // 2, FRAME // 2 + max(0, SHORTEST - len(pcm))))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # means over no frames, where nothing is voiced
            pitch = self._yaapt(
                self._signal(wave, SAMPLE_RATE),
                f0_min=self._config.min_hz,
                f0_max=self._config.max_hz,
                frame_length=1000 * FRAME / SAMPLE_RATE,
                frame_space=1000 * self._config.hop / SAMPLE_RATE,
                tda_frame_length=25.0,
                nccf_thresh1=0.25,
            )
        hz = np.asarray(pitch.samp_values, dtype=np.float32)[:count]
        heard = (hz >= self._config.min_hz) & (hz <= self._config.max_hz)
        return np.where(heard, hz, np.float32(0))


def load_estimator(config: YaaptConfig) -> YaaptEstimator:
    """Return the estimator.

    Raises:
        ValueError: if AMFM-decompy is missing.
    """
    try:
        from amfm_decompy.basic_tools import SignalObj
        from amfm_decompy.pYAAPT import yaapt
    except ImportError:
        raise ValueError("AMFM-decompy is not installed: pip install AMFM-decompy") from None
    return YaaptEstimator(config, SignalObj, yaapt)
