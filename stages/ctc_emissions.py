"""Log-probabilities of a CTC model's labels for clips of any length."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.clock import FrameGrid, samples_from_seconds
from stages.ctc_models import CtcHead


class CtcEmissions:
    """A speech encoder with a CTC model's last layer.

    Clips that are longer than a window pass the transformer in windows with context on both sides. Frames keep their
    number and places; their values differ from those of one pass as far as attention reaches beyond the context.

    Attributes:
        grid: where frames lie.
    """

    def __init__(self, encoder: Any, head: CtcHead, *, window_seconds: float, context_seconds: float) -> None:
        self.grid: FrameGrid = encoder.grid
        self._encoder = encoder
        self._head = head
        self._window = max(self.grid.hop, samples_from_seconds(window_seconds))
        self._context = samples_from_seconds(context_seconds)

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of a clip; 0 where it is too short for one."""
        return int(self._encoder.num_frames(num_samples))

    def log_probs(self, clips: Sequence[npt.NDArray[np.int16]]) -> list[npt.NDArray[np.float32]]:
        """Return each clip's log-probabilities: float32, shape (num_frames(num_samples), labels.width), in nats.

        What a clip gets does not depend on the others.

        Raises:
            ValueError: if a clip is too short for one frame.
            MemoryError: if the device's memory does not suffice.

        Memory beside the model's: one window, and 4 bytes x labels for each frame of all clips.
        """
        waves = [pcm.astype(np.float32) / np.float32(32768) for pcm in clips]
        whole = [wave for wave in waves if len(wave) <= self._window]
        # One by one: clips that share matrices may differ in their last bits, and so may a path among equals.
        passed = (self._encoder.encode([wave])[0] for wave in whole)
        return [self._labelled(next(passed)) if len(wave) <= self._window else self._long(wave) for wave in waves]

    def _long(self, wave: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        parts = self._encoder.windows(wave, self._window, self._context)
        return np.concatenate([self._labelled(part) for part in parts])

    def _labelled(self, hidden: Any) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits = torch.nn.functional.linear(hidden, self._head.weight, self._head.bias)
            return np.asarray(logits.log_softmax(dim=-1).numpy(), dtype=np.float32)
