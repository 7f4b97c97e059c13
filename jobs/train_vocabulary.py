"""The vocabulary that a checkpoint carries, so that its ids can be read without the dataset.

`vocabulary.json` holds the layout; the tokenizer's file lies beside it, as `tokenizer.model` (SentencePiece) or
`tokenizer.json`.
"""

import json
from pathlib import Path
from typing import Any

import fsspec

from pipeline.dataset import Dataset
from schemas.canonical import sha256_hex
from schemas.records import Artifact
from schemas.sequence import VocabularySection
from stages.tokenizer import load_sentencepiece
from stages.vocabulary import Vocabulary

FORMAT = "interloom-vocabulary/1"
NAME = "vocabulary.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")


class CarriedVocabulary:
    """A vocabulary as files: their names and contents."""

    def __init__(self, vocabulary: Vocabulary, dataset: Dataset, section: VocabularySection) -> None:
        """Read the tokenizer's file.

        Raises:
            ValueError: if it is missing.
        """
        path = _tokenizer_file(dataset, section)
        try:
            with fsspec.open(path, "rb") as file:
                data: bytes = file.read()
        except FileNotFoundError:
            raise ValueError(f"{path} is missing; correct sequence.vocabulary.tokenizer") from None
        name = "tokenizer.json" if path.endswith(".json") else "tokenizer.model"
        described = {
            "format": FORMAT,
            "tokenizer": {"file": name, "sha256": sha256_hex(data)},
            "layout": vocabulary.section.model_dump(mode="json", exclude={"tokenizer"}),
            "sizes": dict(vocabulary.sizes),
            "ids": vocabulary.describe(),
        }
        self.files = {NAME: (json.dumps(described, indent=2) + "\n").encode(), name: data}

    def write(self, folder: Path) -> None:
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """Return the vocabulary that a folder carries; None if it carries none.

    Raises:
        ValueError: if `vocabulary.json` is damaged, or the tokenizer is not the one that it names.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        file, sha256 = described["tokenizer"]["file"], described["tokenizer"]["sha256"]
        section = VocabularySection.model_validate(described["layout"])
        sizes = {str(slot): int(size) for slot, size in described["sizes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again from where the checkpoint was written") from error
    if file not in TOKENIZERS:
        raise ValueError(f"{path} names the tokenizer {file!r}; known are {list(TOKENIZERS)}")
    tokenizer = load_sentencepiece(Artifact(path=str(folder / file), sha256=sha256))
    vocabulary = Vocabulary(tokenizer, sizes, section, sha256)
    if vocabulary.describe()["blocks"] != described["ids"]["blocks"]:
        raise ValueError(f"{path} gives other ids than it was written with; use the interloom that wrote it")
    return vocabulary


def require_vocabulary(folder: Path) -> Vocabulary:
    """Return the vocabulary of a checkpoint.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    vocabulary = read_vocabulary(folder)
    if vocabulary is None:
        raise ValueError(f"{folder / NAME} is missing: name a checkpoint folder that `interloom train` wrote")
    return vocabulary


def _tokenizer_file(dataset: Dataset, section: VocabularySection) -> str:
    if not section.tokenizer:
        return dataset.artifact("tokenizer")
    given = Path(section.tokenizer)
    found = [str(given / name) for name in TOKENIZERS if (given / name).is_file()]
    return found[0] if found else section.tokenizer
