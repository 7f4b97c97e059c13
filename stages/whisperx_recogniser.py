"""whisperX (arXiv 2303.00747) for the transcriber: find speech, merge it into chunks, transcribe these in batches.

Finding speech is Silero's work, whose network lies in faster-whisper's wheel as ONNX. whisperX's own choices are a
pickle (pyannote) and a download (Silero through torch.hub), so neither is used. Merging, spectrograms and batching are
whisperX's, decoding is CTranslate2's. Beam search at temperature 0 only: nothing is sampled, so that a clip gives the
same text each time.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from schemas.clock import SAMPLE_RATE, Samples
from stages.compute import device

VAD_THRESHOLD = 0.5
"""Speech probability; whisperX's onset."""
VAD_LEAST_SPEECH_MS = 250
VAD_LEAST_SILENCE_MS = 100
"""These two are Silero's own defaults."""
VAD_PAD_MS = 200
"""Added on each side: segments become utterances, whose first and last sounds are wanted."""

Wave = npt.NDArray[np.float32]
Region = tuple[Samples, Samples]


class Heard(NamedTuple):
    """What the model makes of a chunk; the fields are those of `Segment`."""

    text: str
    logprob: float
    no_speech: float


class Recogniser(Protocol):
    """What the stage needs of whisperX. Waves are float32 in [-1, 1], mono, 16 kHz."""

    def regions(self, wave: Wave, longest: Samples) -> list[Region]:
        """Return where speech is: ascending intervals that do not overlap, none longer than `longest`."""

    def language_of(self, wave: Wave) -> str:
        """Return the code of the language that the first 30 s are spoken in."""

    def texts(self, waves: Sequence[Wave], language: str) -> list[Heard]:
        """Transcribe chunks of at most 30 s."""


class WhisperxRecogniser:
    """whisperX's pipeline around a model of this machine."""

    def __init__(self, pipeline: Any, batch_size: int) -> None:
        self._pipeline = pipeline
        self._batch_size = batch_size

    def regions(self, wave: Wave, longest: Samples) -> list[Region]:
        from faster_whisper.vad import VadOptions, get_speech_timestamps
        from whisperx.vads.vad import Vad

        options = VadOptions(
            threshold=VAD_THRESHOLD,
            min_speech_duration_ms=VAD_LEAST_SPEECH_MS,
            min_silence_duration_ms=VAD_LEAST_SILENCE_MS,
            speech_pad_ms=VAD_PAD_MS,
            max_speech_duration_s=longest / SAMPLE_RATE,
        )
        speech = [_Speech(found["start"], found["end"]) for found in get_speech_timestamps(wave, options)]
        if not speech:
            return []
        merged = Vad.merge_chunks(speech, longest, VAD_THRESHOLD, None)
        return [(Samples(chunk["start"]), Samples(min(chunk["end"], len(wave)))) for chunk in merged]

    def language_of(self, wave: Wave) -> str:
        if not self._multilingual:
            return "en"
        with _device_memory():
            return str(self._pipeline.detect_language(wave))

    def texts(self, waves: Sequence[Wave], language: str) -> list[Heard]:
        from faster_whisper.tokenizer import Tokenizer

        pipeline = self._pipeline
        pipeline.tokenizer = Tokenizer(
            pipeline.model.hf_tokenizer, self._multilingual, task="transcribe", language=language
        )
        chunks = ({"inputs": wave} for wave in waves)
        heard: list[Heard] = []
        with _device_memory():
            # Batches of one come back as lists of one, larger ones item by item.
            for found in pipeline(chunks, batch_size=self._batch_size, num_workers=0):
                values = [found[name] for name in ("text", "avg_logprob", "no_speech_prob")]
                text, logprob, no_speech = (value[0] if self._batch_size == 1 else value for value in values)
                heard.append(Heard(text, float(logprob), float(no_speech)))
        return heard

    @property
    def _multilingual(self) -> bool:
        return bool(self._pipeline.model.model.is_multilingual)


class _Speech(NamedTuple):
    """What whisperX merges; times may be in any unit, here samples."""

    start: int
    end: int
    speaker: str = ""


class _ScoredModel:
    """whisperX's model as its pipeline sees it.

    whisperX 3.8.6 does not ask for the probability of no speech; this does.
    """

    def __init__(self, whisper: Any) -> None:
        self.model = whisper.model
        self.hf_tokenizer = whisper.hf_tokenizer
        self.feat_kwargs = whisper.feat_kwargs
        self.encode = whisper.encode
        self._whisper = whisper

    def generate_segment_batched(self, features: Any, tokenizer: Any, options: Any) -> dict[str, list[Any]]:
        """Decode a batch of spectrograms, float32 of shape (num_chunks, mel_bins, 3000)."""
        prompt = self._whisper.get_prompt(tokenizer, [], without_timestamps=options.without_timestamps)
        found = self.model.generate(
            self.encode(features),
            [prompt] * len(features),
            beam_size=options.beam_size,
            patience=options.patience,
            length_penalty=options.length_penalty,
            max_length=self._whisper.max_length,
            suppress_blank=options.suppress_blank,
            suppress_tokens=options.suppress_tokens,
            return_scores=True,
            return_no_speech_prob=True,
        )
        tokens = [result.sequences_ids[0] for result in found]
        spoken = [[token for token in ids if token < tokenizer.eot] for ids in tokens]
        # A score is the sum over the tokens and the end, divided by the number of tokens.
        means = [result.scores[0] * len(ids) / (len(ids) + 1) for result, ids in zip(found, tokens, strict=True)]
        return {
            "text": tokenizer.tokenizer.decode_batch(spoken),
            "avg_logprob": means,
            "no_speech_prob": [result.no_speech_prob for result in found],
        }


def load_recogniser(folder: Path, *, compute_type: str, beam_size: int, batch_size: int) -> WhisperxRecogniser:
    """Load a model through whisperX, with one thread; nothing is downloaded and nothing is unpickled.

    Raises:
        ImportError: if whisperX is not installed.
        ValueError: if the device cannot compute in the type that is asked for.
    """
    import ctranslate2

    place = device()
    where = {"device": place.type, "device_index": place.index or 0}
    kind = compute_type
    if kind == "default":
        kind = "float16" if place.type == "cuda" else "float32"
    if kind not in (able := ctranslate2.get_supported_compute_types(**where)):
        raise ValueError(f"transcribe.compute_type {kind!r}: {place} can only do {', '.join(sorted(able))}")
    with contextlib.redirect_stdout(io.StringIO()):  # whisperX prints which voice detector it takes
        from whisperx import asr

        whisper = asr.WhisperModel(str(folder), compute_type=kind, cpu_threads=1, num_workers=1, **where)
        pipeline = asr.load_model(
            str(folder),
            model=_ScoredModel(whisper),
            vad_model=_Speech,  # anything: it keeps whisperX from loading its own, and is never called
            asr_options={"beam_size": beam_size, "temperatures": [0.0]},
            **where,
        )
    return WhisperxRecogniser(pipeline, batch_size)


@contextlib.contextmanager
def _device_memory() -> Iterator[None]:
    """Turn CTranslate2's error about memory into MemoryError, which blames the record and not the machine."""
    try:
        yield
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise MemoryError("the device has no memory for this record") from None
        raise
