"""Speech with exact word times from espeak-ng's C library, which reports an event for each word and phoneme."""

import ctypes
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LIBRARY = "libespeak-ng.so.1"
SYNCHRONOUS = 2
PHONEME_EVENTS, DONT_EXIT = 0x1, 0x8000
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
WORD, END, TERMINATED, PHONEME = 1, 5, 6, 7  # espeak_EVENT_TYPE
BY_CHARACTER, UTF8 = 1, 1


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """A voice of espeak-ng with its settings: words per minute, pitch and pitch range on a scale of 0 to 99."""

    voice: str
    rate: int
    pitch: int
    range: int


class Token(NamedTuple):
    """A written token of the transcript and what is said for it: one word or more, or nothing."""

    written: str
    spoken: str


class Timed(NamedTuple):
    """A written token and its time in seconds. None where the synthesiser reports no time for it alone."""

    written: str
    start: float | None
    end: float | None


class Speech(NamedTuple):
    """`pcm` is int16 at `rate` Hz, shape (num_samples,)."""

    pcm: npt.NDArray[np.int16]
    rate: int
    words: tuple[Timed, ...]


def parse(text: str) -> list[list[Token]]:
    """Split `{written|spoken}` markup into tokens; each silence `[seconds]` starts a new list."""
    parts: list[list[Token]] = [[]]
    for written, spoken, silence, plain in re.findall(r"\{([^|}]+)\|([^}]*)\}|\[([\d.]+)\]|(\S+)", text):
        if silence:
            parts.append([])
        else:
            parts[-1].append(Token(written or plain, spoken if written else plain))
    return parts


def silences(text: str) -> list[float]:
    """The silences marked in a text, in seconds, in order."""
    return [float(seconds) for seconds in re.findall(r"\[([\d.]+)\]", text)]


def written(text: str) -> str:
    """The transcript of a text with markup."""
    return " ".join(token.written for part in parse(text) for token in part)


class Synthesiser:
    """One call sequence per process: espeak-ng keeps state, so the same text twice gives slightly other samples."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(LIBRARY)
        self._rate = int(self._lib.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS | DONT_EXIT))
        if self._rate <= 0:
            raise OSError(f"espeak-ng does not start: {LIBRARY} answers {self._rate}")
        self._pcm: list[npt.NDArray[np.int16]] = []
        self._words: list[tuple[int, float]] = []
        self._pauses: list[float] = []
        self._callback = _CALLBACK(self._receive)  # held here, or it is collected while espeak still calls it
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, pcm: "ctypes._Pointer[ctypes.c_short]", count: int, events: "ctypes._Pointer[_Event]") -> int:
        if pcm and count > 0:
            self._pcm.append(np.ctypeslib.as_array(pcm, shape=(count,)).copy())
        index = 0
        while events[index].type:
            event = events[index]
            seconds = event.audio_position / 1000
            # Each clause ends with a word event of length 0 that stands for no word.
            if event.type == WORD and event.length:
                self._words.append((event.text_position - 1, seconds))
            elif event.type in (END, TERMINATED) or (event.type == PHONEME and event.id.string.startswith(b"_")):
                self._pauses.append(seconds)
            index += 1
        return 0

    def speak(self, tokens: list[Token], speaker: Speaker) -> Speech:
        """Speak the tokens. Raises ValueError for a voice that espeak-ng does not have."""
        if self._lib.espeak_SetVoiceByName(speaker.voice.encode()):
            raise ValueError(f"espeak-ng has no voice {speaker.voice!r}")
        for parameter, value in ((RATE, speaker.rate), (PITCH, speaker.pitch), (RANGE, speaker.range)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._pcm, self._words, self._pauses = [], [], []
        spoken = " ".join(token.spoken for token in tokens if token.spoken).encode()
        self._lib.espeak_Synth(spoken, len(spoken) + 1, 0, BY_CHARACTER, 0, UTF8, None, None)
        self._lib.espeak_Synchronize()
        pcm = np.concatenate(self._pcm)
        return Speech(pcm, self._rate, self._timed(tokens, len(pcm) / self._rate))

    def _timed(self, tokens: list[Token], seconds: float) -> tuple[Timed, ...]:
        """A word lasts to the next word or to the pause before it.

        espeak-ng merges some pairs ("of the"): the second word then has no time, and the first no end.
        """
        voiced = [token for token in tokens if token.spoken]
        starts: list[float | None] = []
        lasts: list[float] = []
        position = 0
        for token in voiced:
            first = position + len(token.spoken.split()[0])
            stop = position + len(token.spoken)
            starts.append(next((at for where, at in self._words if position <= where < first), None))
            lasts.append(max((at for where, at in self._words if position <= where < stop), default=0.0))
            position = stop + 1
        starts.append(seconds)
        timed: list[tuple[float | None, float | None]] = []
        for index, start in enumerate(starts[:-1]):
            following = starts[index + 1]
            if start is None or following is None:
                timed.append((start, None))
            else:
                timed.append((start, min([following, *(at for at in self._pauses if lasts[index] < at < following)])))
        answers = iter(timed)
        return tuple(Timed(t.written, *(next(answers) if t.spoken else (None, None))) for t in tokens)
