"""Transcription: a clip without text becomes segments with text, through whisperX and guards against invented text.

Price on a CPU with one thread: 0.002 s per second of audio for finding speech, and the model's own.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from schemas.clock import SAMPLE_RATE, Samples, seconds_from_samples
from schemas.records import Artifact, Clip
from schemas.rejects import Reason, Reject
from schemas.transcripts import Drop, DroppedSegment, Segment, Transcribed
from stages.checkpoints import verified_path
from stages.transcript_guards import Guards, tidy
from stages.whisper_folder import WhisperFacts, whisper_facts
from stages.whisperx_recogniser import VAD_PAD_MS, VAD_THRESHOLD, Heard, Recogniser, Region, load_recogniser

COMPUTE_TYPES = ("float32", "float16", "int8", "int8_float16", "default")


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperxTranscribeConfig:
    """What decides the transcripts.

    Attributes:
        checkpoint: Whisper in CTranslate2's layout: `model.bin`, `config.json`, `vocabulary.json` (or .txt),
            `tokenizer.json`; with 128 mel bins also `preprocessor_config.json`.
        language: code such as `en`; empty: the row's language, or detected where the row has none.
        chunk_seconds: longest segment; speech is merged up to it.
        beam_size: of the beam search.
        batch_size: chunks of one clip that are decoded together; the last bits of scores depend on it.
        compute_type: CTranslate2's; `default` is float16 on CUDA and float32 elsewhere.
        max_no_speech: this and the three below are the limits of `stages.transcript_guards`.
    """

    name: ClassVar[str] = "transcribe"
    version: ClassVar[int] = 1

    checkpoint: Artifact
    language: str = ""
    chunk_seconds: float = 30.0
    beam_size: int = 5
    batch_size: int = 8
    compute_type: str = "float32"
    max_no_speech: float = 0.6
    min_average_logprob: float = -1.0
    max_compression_ratio: float = 2.4
    max_characters_per_second: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.chunk_seconds <= 30:
            raise ValueError(f"chunk_seconds must lie in [1, 30], got {self.chunk_seconds}")
        if self.beam_size < 1 or self.batch_size < 1:
            raise ValueError(f"beam_size and batch_size must be positive, got {self.beam_size} and {self.batch_size}")
        if self.compute_type not in COMPUTE_TYPES:
            raise ValueError(f"compute_type must be one of {', '.join(COMPUTE_TYPES)}, got {self.compute_type!r}")
        self.guards()

    def guards(self) -> Guards:
        return Guards(
            max_no_speech=self.max_no_speech,
            min_average_logprob=self.min_average_logprob,
            max_compression_ratio=self.max_compression_ratio,
            max_characters_per_second=self.max_characters_per_second,
        )

    def check(self) -> None:
        """Check the checkpoint, the language and the installation; reads no weights but their index.

        Raises:
            BadCheckpoint: if the folder is not a complete Whisper in CTranslate2's layout.
            ValueError: if the model does not know the language.
            ImportError: if whisperX is not installed.
        """
        import importlib.util

        if importlib.util.find_spec("whisperx") is None:
            raise ImportError("whisperx is not installed: pip install 'interloom[whisperx]'")
        self._facts(Path(self.checkpoint.path))

    def setup(self) -> "Transcriber":
        folder = verified_path(self.checkpoint)
        facts = self._facts(folder)
        recogniser = load_recogniser(
            folder, compute_type=self.compute_type, beam_size=self.beam_size, batch_size=self.batch_size
        )
        return Transcriber(self, recogniser, facts.languages)

    def metadata(self) -> dict[str, Any]:
        """Return what a manifest states about its transcripts: versions, and what found the speech."""
        from importlib.metadata import version

        packages = ("whisperx", "faster-whisper", "ctranslate2", "onnxruntime")
        return {
            "name": "whisperx",
            "version": self.version,
            "voice_detector": f"silero_vad_v6 of faster-whisper, threshold {VAD_THRESHOLD}, padded by {VAD_PAD_MS} ms",
            "score": "mean log-probability of the tokens in nats",
            "model_sha256": self.checkpoint.sha256,
            **{name: version(name) for name in packages},
        }

    def _facts(self, folder: Path) -> WhisperFacts:
        facts = whisper_facts(folder)
        if self.language and self.language not in facts.languages:
            raise ValueError(
                f"transcribe.language {self.language!r} is none of the {len(facts.languages)} that {folder} knows"
            )
        return facts


class Transcriber:
    """Live stage: Clip to Transcribed. Clips are transcribed one by one, their chunks in batches."""

    def __init__(self, config: WhisperxTranscribeConfig, recogniser: Recogniser, languages: frozenset[str]) -> None:
        self._config = config
        self._recogniser = recogniser
        self._languages = languages
        self._guards = config.guards()

    def process(self, batch: Sequence[Clip]) -> list[Transcribed | Reject]:
        return [self._outcome(clip) for clip in batch]

    def _outcome(self, clip: Clip) -> Transcribed | Reject:
        told = self._config.language or language_code(clip.utterance.language)
        if told and told not in self._languages:
            detail = f"the model does not know the language {told[:40]!r}; leave it out, or set transcribe.language"
            return self._reject(clip, Reason.BAD_ROW, detail)
        wave = clip.pcm.astype(np.float32) / np.float32(32768)
        regions = self._recogniser.regions(wave, Samples(int(self._config.chunk_seconds * SAMPLE_RATE)))
        if not regions:
            return self._reject(clip, Reason.SILENT, "the voice detector finds no speech")
        language = told or self._recogniser.language_of(wave)
        heard = self._recogniser.texts([wave[start:end] for start, end in regions], language)
        return self._judge(clip, language, not told, list(zip(regions, heard, strict=True)))

    def _judge(
        self, clip: Clip, language: str, detected: bool, found: Sequence[tuple[Region, Heard]]
    ) -> Transcribed | Reject:
        segments: list[Segment] = []
        dropped: list[DroppedSegment] = []
        for (start, end), heard in found:
            text = tidy(heard.text)
            problem = self._guards.problem(text, seconds_from_samples(end - start), heard.logprob, heard.no_speech)
            if problem is None:
                segments.append(Segment(start, end, text, heard.logprob, heard.no_speech))
            else:
                dropped.append(DroppedSegment(start, end, problem))
        if not segments:
            counts = Counter(item.reason for item in dropped)
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
            reason = Reason.SILENT if set(counts) == {Drop.NO_SPEECH} else Reason.EMPTY_TEXT
            return self._reject(clip, reason, f"no segment passes the guards: {told}")
        return Transcribed(
            utterance=clip.utterance,
            language=language,
            detected=detected,
            segments=tuple(segments),
            dropped=tuple(dropped),
        )

    def _reject(self, clip: Clip, reason: Reason, detail: str) -> Reject:
        return Reject.of(clip.utterance, self._config.name, reason, detail)


def language_code(language: str) -> str:
    """Return the code of a manifest's language: `en-US` and `EN` are `en`."""
    return re.split(r"[-_]", language.strip().casefold())[0]
