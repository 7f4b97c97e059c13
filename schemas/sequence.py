"""How records become token sequences: policies of interleaving, the joint vocabulary, mixtures of sources.

Everything here is decided when a dataset is read; none of it changes a shard.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from schemas.sections import Positive, PositiveSeconds, Probability, Section, tag_of

Words = tuple[Positive, Positive]
"""Least and most words of a span."""


class SpiritLmPolicy(Section):
    """Spirit LM's sampling (arXiv 2402.05755, App. A): alternate text and speech spans with uniform lengths."""

    name: Literal["spiritlm"] = "spiritlm"
    text_words: Words = (10, 30)
    speech_words: Words = (5, 15)
    start: Literal["random", "text", "speech"] = "random"
    """Modality of a document's first span; the paper does not state it."""
    remainder: Literal["keep", "merge"] = "keep"
    """A last span shorter than its minimum: kept short, or merged into the span before it."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name, (least, most) in (("text_words", self.text_words), ("speech_words", self.speech_words)):
            if least > most:
                raise ValueError(f"{name} is [least, most], got [{least}, {most}]")
        return self


class PoissonPolicy(Section):
    """Text in which spans of Poisson length become speech, until a share of the words is speech (arXiv 2411.17607)."""

    name: Literal["poisson"] = "poisson"
    mean_words: Annotated[float, Field(ge=1, le=1000)] = 10.0
    """Mean of the Poisson distribution; a length of no words is drawn again."""
    speech_share: Probability = 0.3
    """Of the document's words."""


class BernoulliPolicy(Section):
    """Each word is speech with a probability of its own; neighbours of one modality make a span."""

    name: Literal["bernoulli"] = "bernoulli"
    speech_probability: Probability = 0.5


class WordTranscriptionPolicy(Section):
    """Each word in both modalities, one after the other (the ablation of arXiv 2402.05755, Table 6)."""

    name: Literal["word_transcription"] = "word_transcription"
    first: Literal["speech", "text"] = "speech"


class AsrPolicy(Section):
    """Each utterance as `[ASR]`, its speech, its text (the ablation of arXiv 2402.05755, Table 6)."""

    name: Literal["asr"] = "asr"


class TtsPolicy(Section):
    """Each utterance as `[TTS]`, its text, its speech (the ablation of arXiv 2402.05755, Table 6)."""

    name: Literal["tts"] = "tts"


class SpeechOnlyPolicy(Section):
    name: Literal["speech_only"] = "speech_only"


class TextOnlyPolicy(Section):
    name: Literal["text_only"] = "text_only"


Policy = Annotated[
    Annotated[SpiritLmPolicy, Tag("spiritlm")]
    | Annotated[PoissonPolicy, Tag("poisson")]
    | Annotated[BernoulliPolicy, Tag("bernoulli")]
    | Annotated[WordTranscriptionPolicy, Tag("word_transcription")]
    | Annotated[AsrPolicy, Tag("asr")]
    | Annotated[TtsPolicy, Tag("tts")]
    | Annotated[SpeechOnlyPolicy, Tag("speech_only")]
    | Annotated[TextOnlyPolicy, Tag("text_only")],
    Discriminator(tag_of("name", "spiritlm")),
]

POLICY_NAMES = ("spiritlm", "poisson", "bernoulli", "word_transcription", "asr", "tts", "speech_only", "text_only")


class VocabularySection(Section):
    """The text tokenizer and where the speech tokens' ids lie."""

    tokenizer: str = ""
    """A SentencePiece model, a `tokenizer.json` or a Hugging Face tokenizer's folder; empty: the dataset's own."""
    layout: Literal["spiritlm", "append"] = "spiritlm"
    """`spiritlm`: speech ids follow the tokenizer's last id. `append`: they begin at `first_id`, which a model whose
    embeddings are padded beyond its tokenizer needs, and the size is padded to a multiple."""
    first_id: Annotated[int, Field(ge=1)] | None = None
    """Only for `append`; None: the first id that the tokenizer does not use."""
    pad_to_multiple: Positive = 1
    """Only for `append`: the vocabulary's size is rounded up to a multiple of it; the ids in between are never used."""

    @model_validator(mode="after")
    def _options_fit_the_layout(self) -> Self:
        if self.layout == "spiritlm" and (self.first_id is not None or self.pad_to_multiple != 1):
            raise ValueError("first_id and pad_to_multiple are options of layout: append")
        return self


class SequenceSection(Section):
    """How the reader turns records into token sequences. It does not change the shards."""

    policy: Policy = SpiritLmPolicy()
    stream: Literal["base", "expressive"] = "expressive"
    gap: Literal["midpoint", "left", "right"] = "midpoint"
    """Which side of a switch the silence between two words goes to; midpoint shares it."""
    silence: Literal["keep", "cap", "drop"] = "keep"
    """Frames of speech in gaps between words: kept, cut down to `max_silence` by the gap's middle, or left out."""
    max_silence: PositiveSeconds = 0.5
    """In seconds; only for `silence: cap`."""
    context: Annotated[int, Field(ge=8)] = 512
    join_recordings: bool = True
    """Join the utterances of a recording, in order, into one document."""
    vocabulary: VocabularySection = VocabularySection()


class UnitsSource(Section):
    """A units dataset, drawn anew in each epoch."""

    kind: Literal["units"] = "units"
    path: str
    share: Annotated[float, Field(gt=0)] = 1.0
    """Of the tokens; shares are divided by their sum."""
    policy: Policy | None = None
    """None: the policy of the reader's sequence section."""


class TextSource(Section):
    """Plain text: JSON lines or Parquet files, a document per row."""

    kind: Literal["text"] = "text"
    path: str
    """A file or a folder of `.jsonl` and `.parquet` files."""
    share: Annotated[float, Field(gt=0)] = 1.0
    field: str = "text"
    """Name of the text's key or column."""


class BakedSource(Section):
    """A folder that `interloom bake` wrote: blocks as they are."""

    kind: Literal["baked"] = "baked"
    path: str
    share: Annotated[float, Field(gt=0)] = 1.0


MixtureSource = Annotated[
    Annotated[UnitsSource, Tag("units")] | Annotated[TextSource, Tag("text")] | Annotated[BakedSource, Tag("baked")],
    Discriminator(tag_of("kind", "units")),
]


class Mixture(Section):
    """Sources read together, by their shares of the tokens (arXiv 2402.05755, Table 2: a third each)."""

    sources: Annotated[list[MixtureSource], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _plain_list(cls, value: Any) -> Any:
        return {"sources": value} if isinstance(value, list) else value
