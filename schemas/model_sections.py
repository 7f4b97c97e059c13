"""The recipe's sections that name models: one union per part, told apart by `backend`.

Embedded backends come first and are the defaults. A checkpoint is a path on this machine (a file or a folder); nothing
is downloaded. `sha256` may be left empty: it is then taken from the files when the run starts and kept with the
artifacts.
"""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from schemas.sections import Clusters, Positive, PositiveSeconds, Probability, Section, tag_of

Precision = Literal["float32", "bfloat16", "float16"]
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
WindowSeconds = Annotated[float, Field(ge=1)]
Layer = Annotated[int, Field(ge=0)]
"""Hidden state after this many transformer layers, as Hugging Face counts them; 0 is the input of the first."""


def require_file(sha256: str, path: str, key: str) -> None:
    """Raise ValueError where a sha256 stands without the file that it is of."""
    if sha256 and not path:
        raise ValueError(f"sha256 is of a file: name it with {key}, or leave both out and it is trained")


class ModelSection(Section):
    """What every section with a checkpoint has."""

    checkpoint: Annotated[str, Field(min_length=1)]
    """Folder in Hugging Face's layout, or a file; relative paths start from the working folder."""
    sha256: Sha256 = ""
    """Of the checkpoint, as `interloom doctor` prints it; empty: whatever the files are when the run starts."""
    licence: str = ""
    """Of the weights; one with NC in it needs `accept_noncommercial: true`."""
    origin: str = ""
    """Where to get it; said where it is missing."""


# ---------------------------------------------------------------- alignment


class PocketsphinxSection(Section):
    backend: Literal["pocketsphinx"] = "pocketsphinx"
    full_search_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Longest clip on which the unpruned search may be tried; its memory is quadratic."""
    max_words_per_second: Annotated[float, Field(gt=0)] = 12.0


class CtcSection(ModelSection):
    """Forced alignment on the emissions of a CTC model."""

    backend: Literal["ctc"] = "ctc"
    model: str = "huggingface"
    """`huggingface`: a `Wav2Vec2ForCTC` folder. Otherwise the name of a torchaudio bundle (MMS_FA,
    WAV2VEC2_ASR_BASE_960H, ...), and `checkpoint` is its file of weights."""
    star: bool = True
    """Align a wildcard to tokens that the model has no letters for; without it they get no time."""
    window_seconds: WindowSeconds = 30.0
    context_seconds: Annotated[float, Field(ge=0)] = 2.0
    """Long audio passes the model in windows that see this much of their neighbours."""
    max_words_per_second: PositiveSeconds = 12.0
    precision: Precision = "float32"


class WhisperxAlignSection(ModelSection):
    """whisperX's own alignment of a given text."""

    backend: Literal["whisperx"] = "whisperx"
    model: str = "huggingface"
    language: str = "en"


class ImportedSection(Section):
    """Word times from files instead of an aligner."""

    backend: Literal["imported"] = "imported"
    path: Annotated[str, Field(min_length=1)]
    """A file that holds many utterances, or a folder with a file for each."""
    format: Literal["auto", "ctm", "textgrid", "librispeech", "whisperx", "whisper-timestamped", "lhotse"] = "auto"
    tier: str = "words"
    """TextGrid tier (or its ending, as in `speaker - words`) that holds the words."""
    sha256: Sha256 = ""
    max_unmatched_share: Probability = 0.0
    """Largest share of a transcript's words that the file may lack or spell otherwise; those get no time."""


AlignSection = Annotated[
    Annotated[PocketsphinxSection, Tag("pocketsphinx")]
    | Annotated[CtcSection, Tag("ctc")]
    | Annotated[WhisperxAlignSection, Tag("whisperx")]
    | Annotated[ImportedSection, Tag("imported")],
    Discriminator(tag_of("backend", "pocketsphinx")),
]


# ---------------------------------------------------------------- units


class KmeansQuantiser(Section):
    kind: Literal["kmeans"] = "kmeans"
    path: str = ""
    """.npy, .safetensors, or scikit-learn's joblib file, which is never unpickled; empty: trained by `fit`."""
    sha256: Sha256 = ""
    clusters: Clusters = 500
    """Size of the codebook; a file of another size is an error."""
    licence: str = ""
    origin: str = ""

    @model_validator(mode="after")
    def _sha256_has_a_file(self) -> Self:
        require_file(self.sha256, self.path, "path")
        return self


class LinearQuantiser(Section):
    """Spirit LM's: a linear layer over features whose last class is a blank, replaced by its left neighbour."""

    kind: Literal["linear"] = "linear"
    path: Annotated[str, Field(min_length=1)]
    sha256: Sha256 = ""
    clusters: Clusters = 500
    """Units without the blank; the file holds one more class. Ids still lie in [0, clusters], as in the release."""
    licence: str = ""
    origin: str = ""


Quantiser = Annotated[
    Annotated[KmeansQuantiser, Tag("kmeans")] | Annotated[LinearQuantiser, Tag("linear")],
    Discriminator(tag_of("kind", "kmeans")),
]


class MfccKmeansSection(Section):
    backend: Literal["mfcc-kmeans"] = "mfcc-kmeans"
    clusters: Clusters = 100


class HubertSection(ModelSection):
    """HuBERT, wav2vec 2.0 or WavLM features of one layer, quantised."""

    backend: Literal["hubert"] = "hubert"
    model: str = "huggingface"
    """`huggingface`: a folder. Otherwise a torchaudio bundle (HUBERT_BASE, ...); `checkpoint` is its file."""
    layer: Layer = 11
    quantiser: Quantiser = KmeansQuantiser()
    window_seconds: WindowSeconds = 100.0
    """Longer clips pass in windows; Spirit LM's release cuts at 100 s."""
    context_seconds: Annotated[float, Field(ge=0)] = 5.0
    """What a window sees of its neighbours on each side."""
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if 4 * self.context_seconds > self.window_seconds:
            raise ValueError(f"context_seconds {self.context_seconds} is more than a quarter of the window")
        return self


UnitsSection = Annotated[
    Annotated[MfccKmeansSection, Tag("mfcc-kmeans")] | Annotated[HubertSection, Tag("hubert")],
    Discriminator(tag_of("backend", "mfcc-kmeans")),
]


# ---------------------------------------------------------------- F0 and pitch


class F0Range(Section):
    min_hz: Annotated[float, Field(gt=0)] = 50.0
    max_hz: Annotated[float, Field(gt=0)] = 1100.0
    hop: Literal[80, 160] = 160
    """Samples between frames. Spirit LM's pitch quantiser repeats FCPE's own 10 ms frames (160) to 5 ms."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.min_hz < self.max_hz:
            raise ValueError(f"need min_hz < max_hz, got {self.min_hz} and {self.max_hz}")
        return self


class FcpeSection(F0Range):
    backend: Literal["fcpe"] = "fcpe"
    threshold: Probability = 0.05


class YaaptSection(F0Range):
    """YAAPT, which Spirit LM's VQ-VAE was trained on; the package is AMFM-decompy."""

    backend: Literal["yaapt"] = "yaapt"
    min_hz: Annotated[float, Field(ge=50, le=120)] = 60.0
    max_hz: Annotated[float, Field(ge=180, le=1000)] = 400.0


F0Section = Annotated[
    Annotated[FcpeSection, Tag("fcpe")] | Annotated[YaaptSection, Tag("yaapt")],
    Discriminator(tag_of("backend", "fcpe")),
]


class F0CodebookSection(Section):
    backend: Literal["f0-codebook"] = "f0-codebook"
    clusters: Clusters = 64


class VqvaeSection(Section):
    """A VQ-VAE over F0 in the layout of Spirit LM's checkpoint: a folder with `config.yaml` and `model.pt`."""

    backend: Literal["vqvae"] = "vqvae"
    checkpoint: str = ""
    """Empty: trained by `fit`."""
    sha256: Sha256 = ""
    licence: str = ""
    origin: str = ""
    clusters: Annotated[int, Field(ge=2, le=65_535)] = 64
    steps: Positive = 2000
    """Of training, where `fit` trains."""

    @model_validator(mode="after")
    def _sha256_has_a_file(self) -> Self:
        require_file(self.sha256, self.checkpoint, "checkpoint")
        return self


PitchSection = Annotated[
    Annotated[F0CodebookSection, Tag("f0-codebook")] | Annotated[VqvaeSection, Tag("vqvae")],
    Discriminator(tag_of("backend", "f0-codebook")),
]


# ---------------------------------------------------------------- style


class ProsodyKmeansSection(Section):
    backend: Literal["prosody-kmeans"] = "prosody-kmeans"
    clusters: Clusters = 16


class Wav2Vec2StyleSection(ModelSection):
    """Spirit LM's style encoder: a `Wav2Vec2ForSequenceClassification` folder, pooled over one second."""

    backend: Literal["wav2vec2"] = "wav2vec2"
    precision: Precision = "float32"


class Wav2Vec2KmeansStyleSection(ModelSection):
    """Embeddings of a wav2vec 2.0 folder, averaged over one second, and k-means."""

    backend: Literal["wav2vec2-kmeans"] = "wav2vec2-kmeans"
    layer: Layer = 12
    quantiser: KmeansQuantiser = KmeansQuantiser(clusters=100)
    precision: Precision = "float32"


StyleSection = Annotated[
    Annotated[ProsodyKmeansSection, Tag("prosody-kmeans")]
    | Annotated[Wav2Vec2StyleSection, Tag("wav2vec2")]
    | Annotated[Wav2Vec2KmeansStyleSection, Tag("wav2vec2-kmeans")],
    Discriminator(tag_of("backend", "prosody-kmeans")),
]


# ---------------------------------------------------------------- text and transcripts


class EnglishSection(Section):
    backend: Literal["english"] = "english"
    language: Literal["en"] = "en"


class UromanSection(Section):
    """Any script, romanised for aligners that know only a to z."""

    backend: Literal["uroman"] = "uroman"
    language: str = ""
    """ISO 639 code for what differs between languages (numbers, some letters); empty: the manifest row's language."""


NormaliseSection = Annotated[
    Annotated[EnglishSection, Tag("english")] | Annotated[UromanSection, Tag("uroman")],
    Discriminator(tag_of("backend", "english")),
]


class SentencePieceSection(Section):
    backend: Literal["sentencepiece"] = "sentencepiece"
    path: str = ""
    """A SentencePiece model, such as Llama's `tokenizer.model`; empty: trained by `fit`."""
    sha256: Sha256 = ""
    licence: str = ""
    origin: str = ""
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 500
    """Where `fit` trains: at least the 256 bytes that spell what no piece covers, and some pieces."""

    @model_validator(mode="after")
    def _sha256_has_a_file(self) -> Self:
        require_file(self.sha256, self.path, "path")
        return self


class TranscribeSection(ModelSection):
    """Transcripts for audio without text: VAD and faster-whisper through whisperX, from a CTranslate2 folder."""

    backend: Literal["whisperx"] = "whisperx"
    language: str = ""
    """Empty: the row's language, or detected."""
    chunk_seconds: Annotated[float, Field(ge=1, le=30)] = 30.0
    """Longest segment; Whisper sees 30 s."""
    beam_size: Positive = 5
    batch_size: Positive = 8
    compute_type: Literal["float32", "float16", "int8", "int8_float16", "default"] = "float32"
    max_no_speech: Probability = 0.6
    min_average_logprob: float = -1.0
    max_compression_ratio: PositiveSeconds = 2.4
    """Text that compresses better than this repeats itself."""
    max_characters_per_second: PositiveSeconds = 30.0
    max_seconds: PositiveSeconds = 7_200.0
    """Longest recording."""
