"""F0 by FCPE (arXiv 2509.15140), which Spirit LM's pitch tokens are made from too. Weights lie in torchfcpe's wheel.

The weights are checked against their sha256 before they are parsed, and parsed with `weights_only`.
"""

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from schemas.canonical import sha256_hex
from schemas.clock import SAMPLE_RATE, Samples, frames_covering
from schemas.records import Encoded, F0Track
from schemas.rejects import Reject

HOP = Samples(160)
"""Samples between the frames of the net."""

WEIGHTS_SHA256 = "b9aeaeb673436eeda50ceafd632aa681aa63417e52eae4207503d180c9b10015"
"""Of `assets/fcpe_c_v001.pt` in torchfcpe 0.0.4; the `model_sha256` of every stream made from this F0."""

BLOCK = 3_000
"""Frames that pass the net at once (30 s); bounds the memory of long clips."""

CONTEXT = 6 * 15
"""Frames that six convolutions of width 31 see to each side, hence what a block needs of its neighbours."""

MEL_CONTEXT = 4
"""Frames by which a stretch of audio is lengthened: the window of 1024 samples reaches over its ends at 3 frames, and a
clip's last frame may be a copy of the one before."""


class F0Estimator(Protocol):
    """What the stages need of an F0 extractor."""

    def track(self, pcm: npt.NDArray[np.int16]) -> F0Track:
        """Return the track of one clip, with exactly frames_covering(num_samples, hop) frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FcpeConfig:
    """What decides the F0.

    Attributes:
        threshold: a frame whose largest class probability is not above it is unvoiced. The package's own default of
            0.006 calls most noise voiced.
        min_hz: frames below it are unvoiced.
        max_hz: frames above it are unvoiced.
        hop: samples between frames, 160, or 80 where each frame of the net stands for two.
    """

    name: ClassVar[str] = "f0"
    version: ClassVar[int] = 1

    threshold: float = 0.05
    min_hz: float = 50.0
    max_hz: float = 1100.0
    hop: int = 160

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in 0 .. 1, got {self.threshold}")
        if self.hop not in (80, 160):
            raise ValueError(f"hop must be 80 or 160 samples, got {self.hop}")
        if not 0 < self.min_hz < self.max_hz:
            raise ValueError(f"need 0 < min_hz < max_hz, got {self.min_hz} and {self.max_hz}")

    def setup(self) -> "FcpeF0":
        return FcpeF0(self.load())

    def load(self) -> "FcpeEstimator":
        """Return the live estimator, for stages that need F0 in passing."""
        return load_estimator(self)


class FcpeF0:
    """Adds the F0 track to a record. Clips are analysed one by one."""

    def __init__(self, estimator: F0Estimator) -> None:
        self._estimator = estimator

    def process(self, batch: Sequence[Encoded]) -> list[Encoded | Reject]:
        return [replace(record, f0=self._estimator.track(record.clip.pcm)) for record in batch]


class FcpeEstimator:
    """FCPE on the CPU, with as many torch threads as the worker has set.

    The last bits of float32 sums depend on the number of torch threads and on the CPU's vector width; bytes are equal
    between runs that agree in both.
    """

    def __init__(self, config: FcpeConfig, mel: Any, network: Any) -> None:
        self._config = config
        self._mel = mel
        self._network = network

    def track(self, pcm: npt.NDArray[np.int16]) -> F0Track:
        """Return the F0 of a clip of one sample or more; frame i stands for sample i * hop.

        With a hop of 80, frame i is the net's frame i // 2: the nearest neighbour, as in torchfcpe itself.

        A clip longer than 30 s passes in blocks that overlap by their whole receptive field, first for the statistics
        of the normalisation, which are over the whole clip, and then for the rest; an hour takes no more memory than
        five minutes (0.15 GB beside the audio and the net), and the values are those of one pass up to the rounding of
        float32. For the same reason a clip cut from a longer one has another track: over cuts of 1 s of real speech
        1 % of the voiced frames are lost, of 0.1 s 5 %, of 50 ms 14 %. Digital silence is unvoiced.

        Raises:
            ValueError: if the clip is empty or not int16.
        """
        import torch

        if pcm.dtype != np.int16 or pcm.ndim != 1 or len(pcm) == 0:
            raise ValueError(f"a clip must be int16 of shape (num_samples,), got {pcm.dtype}{list(pcm.shape)}")
        count = frames_covering(len(pcm), HOP)
        with torch.inference_mode():
            if count <= BLOCK:
                hz = self._hz(self._network.input_stack(self._mels(pcm, 0, count)))
            else:
                hz = self._blockwise(pcm, count)
        hz = np.where((hz >= self._config.min_hz) & (hz <= self._config.max_hz), hz, np.float32(0))
        times = HOP // self._config.hop
        if times > 1:
            hz = np.repeat(hz, times)[: frames_covering(len(pcm), self._config.hop)]
        return F0Track(hz=hz, hop=Samples(self._config.hop))

    def _blockwise(self, pcm: npt.NDArray[np.int16], count: int) -> npt.NDArray[np.float32]:
        first, norm, activation, second = self._network.input_stack
        scale, shift = self._group_norm(pcm, count, first, norm)
        blocks = []
        for start in range(0, count, BLOCK):
            end = min(count, start + BLOCK)
            left, right = max(0, start - CONTEXT), min(count, end + CONTEXT)
            outer_left, outer_right = max(0, left - 2), min(count, right + 2)
            hidden = first(self._mels(pcm, outer_left, outer_right))
            hidden = second(activation(hidden * scale[:, None] + shift[:, None]))
            hz = self._hz(hidden[:, :, left - outer_left : right - outer_left])
            blocks.append(hz[start - left : end - left])
        return np.concatenate(blocks)

    def _group_norm(self, pcm: npt.NDArray[np.int16], count: int, first: Any, norm: Any) -> tuple[Any, Any]:
        """Return factor and summand of each channel that normalise the first convolution over the whole clip."""
        import torch

        sums = torch.zeros(2, norm.num_groups, dtype=torch.float64)
        for start in range(0, count, BLOCK):
            end = min(count, start + BLOCK)
            left = max(0, start - 1)
            hidden = first(self._mels(pcm, left, min(count, end + 1)))[0, :, start - left : end - left]
            rows = hidden.reshape(norm.num_groups, -1)
            sums += torch.stack([rows.sum(1, dtype=torch.float64), (rows * rows).sum(1, dtype=torch.float64)])
        mean, square = sums / (count * (norm.num_channels // norm.num_groups))
        factor = (square - mean * mean).clamp(min=0).add(norm.eps).rsqrt()
        mean, factor = (each.repeat_interleave(norm.num_channels // norm.num_groups) for each in (mean, factor))
        scale = norm.weight * factor
        return scale.float(), (norm.bias - mean * scale).float()

    def _mels(self, pcm: npt.NDArray[np.int16], start: int, end: int) -> Any:
        """Return the log-mel frames [start, end) of a clip: float32 tensor, shape (1, num_mels, end - start)."""
        import torch

        left = max(0, start - MEL_CONTEXT)
        stretch = pcm[left * HOP : (end + MEL_CONTEXT) * HOP]
        wave = torch.from_numpy(stretch.astype(np.float32) / 32768)
        return self._mel(wave[None, :, None], SAMPLE_RATE)[:, start - left : end - left].transpose(1, 2)

    def _hz(self, hidden: Any) -> npt.NDArray[np.float32]:
        network = self._network
        encoded = network.net(hidden.transpose(1, 2))
        latent = network.output_proj(network.norm(encoded)).sigmoid()
        cents = network.latent2cents_local_decoder(latent, threshold=self._config.threshold)
        return np.asarray(network.cent_to_f0(cents)[0, :, 0].numpy(), dtype=np.float32)


def load_estimator(config: FcpeConfig) -> FcpeEstimator:
    """Load FCPE with the weights of torchfcpe's wheel; nothing is downloaded.

    Raises:
        ValueError: if torchfcpe is missing or its weights are others than those of version 0.0.4.
    """
    import torch

    with contextlib.redirect_stdout(io.StringIO()):  # the package greets on stdout when it is imported
        from torchfcpe.mel_extractor import Wav2MelModule
        from torchfcpe.models import CFNaiveMelPE

    checkpoint = torch.load(io.BytesIO(_weights()), map_location="cpu", weights_only=True)
    mel, shape = checkpoint["config_dict"]["mel"], checkpoint["config_dict"]["model"]
    extractor = Wav2MelModule(
        sr=mel["sr"],
        n_mels=mel["num_mels"],
        n_fft=mel["n_fft"],
        win_size=mel["win_size"],
        hop_length=mel["hop_size"],
        fmin=mel["fmin"],
        fmax=mel["fmax"],
    )
    named = ("out_dims", "hidden_dims", "n_layers", "n_heads", "f0_max", "f0_min", "use_fa_norm", "conv_only")
    network = CFNaiveMelPE(input_channels=mel["num_mels"], **{name: shape[name] for name in named})
    network.load_state_dict(checkpoint["model"])
    return FcpeEstimator(config, extractor.eval(), network.eval())


def _weights() -> bytes:
    package = importlib.util.find_spec("torchfcpe")
    if package is None or package.origin is None:
        raise ValueError("torchfcpe is not installed: pip install 'interloom[build]'")
    path = Path(package.origin).parent / "assets" / "fcpe_c_v001.pt"
    data = path.read_bytes()
    found = sha256_hex(data)
    if found != WEIGHTS_SHA256:
        raise ValueError(
            f"{path} has sha256 {found}, but {WEIGHTS_SHA256} is known: pip install --force-reinstall torchfcpe==0.0.4"
        )
    return data
