"""Log-probabilities of a CTC model's labels for clips of any length."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.clock import Samples, samples_from_seconds
from stages.ctc_models import CtcHead

_Float32 = npt.NDArray[np.float32]


class Window(NamedTuple):
    """A part of a clip that passes the model at once.

    Attributes:
        first: first sample that it sees, a multiple of the hop.
        end: end of the samples that it sees.
        skip: frames of its output that belong to the window before.
        keep: frames of its output, after those, that are its own.
    """

    first: Samples
    end: Samples
    skip: int
    keep: int


def windows(num_samples: int, hop: int, receptive: int, size: int, context: int) -> Iterator[Window]:
    """Cut a clip so that its windows' own frames are all the frames of one pass, each once and in order.

    Frame i of one pass sees samples [i * hop, i * hop + receptive); a window that starts at frame a numbers it i - a.
    The last window sees the clip to its end.

    Args:
        num_samples: of the clip.
        hop: samples from frame to frame.
        receptive: samples that a frame of the convolutions sees.
        size: frames that each window gives, the last one fewer; at least 1.
        context: frames that a window sees on each side beyond its own.
    """
    count = max(0, 1 + (num_samples - receptive) // hop)
    for start in range(0, count, size):
        stop = min(start + size, count)
        first = max(0, start - context)
        last = min(stop + context, count)
        end = num_samples if last == count else (last - 1) * hop + receptive
        yield Window(Samples(first * hop), Samples(end), start - first, stop - start)


class CtcEmissions:
    """An encoder with its last layer.

    Clips that are longer than a window pass in windows with context on both sides. The encoder's attention, and its
    normalisation of the input, then see one window at a time: the values differ from those of one pass, the number of
    frames and their places do not. Memory beside the model: one window, and 4 bytes x labels per frame.
    """

    def __init__(self, encoder: Any, head: CtcHead, *, window_seconds: float, context_seconds: float) -> None:
        self._encoder = encoder
        self._head = head
        hop = encoder.grid.hop
        self._longest = samples_from_seconds(window_seconds)
        self._size = max(1, self._longest // hop)
        self._context = samples_from_seconds(context_seconds) // hop

    @property
    def grid(self) -> Any:
        return self._encoder.grid

    def num_frames(self, num_samples: int) -> int:
        return int(self._encoder.num_frames(num_samples))

    def log_probs(self, clips: Sequence[npt.NDArray[np.int16]]) -> list[_Float32]:
        """Return each clip's log-probabilities: float32, shape (num_frames(num_samples), labels.width), in nats.

        What a clip gets does not depend on the others. Clips must be long enough for one frame.
        """
        waves = [pcm.astype(np.float32) / np.float32(32768) for pcm in clips]
        short = [i for i, wave in enumerate(waves) if len(wave) <= self._longest]
        passed = dict(zip(short, self._encoder.encode([waves[i] for i in short]), strict=True)) if short else {}
        return [
            self._labelled(passed.pop(i)) if i in passed else np.concatenate(list(self._parts(wave)))
            for i, wave in enumerate(waves)
        ]

    def _parts(self, wave: _Float32) -> Iterator[_Float32]:
        encoder = self._encoder
        for window in windows(len(wave), encoder.grid.hop, encoder.receptive, self._size, self._context):
            (hidden,) = encoder.encode([wave[window.first : window.end]])
            yield self._labelled(hidden[window.skip : window.skip + window.keep])

    def _labelled(self, hidden: Any) -> _Float32:
        import torch

        with torch.inference_mode():
            head = self._head
            hidden = hidden.to(torch.float32)
            weight, bias = head.weight.to(hidden.device), head.bias.to(hidden.device)
            logits = torch.nn.functional.linear(hidden, weight, bias)
            return np.asarray(logits.log_softmax(dim=-1).cpu().numpy(), dtype=np.float32)
