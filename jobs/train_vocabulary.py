"""The vocabulary that a checkpoint carries, so that its ids can be read without the dataset.

`vocabulary.json` holds the layout and the contracts of the units; the tokenizer's file lies beside it, as
`tokenizer.model` (SentencePiece) or `tokenizer.json`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.dataset import Dataset
from pipeline.reader.vocabularies import TOKENIZER_FILES, load_tokenizer, tokenizer_artifact
from schemas.contract import UnitContract
from schemas.records import Artifact
from schemas.sequence import VocabularySection
from stages.artifacts import verified_bytes
from stages.vocabulary import Vocabulary

FORMAT = "interloom-vocabulary/1"
NAME = "vocabulary.json"


class CarriedVocabulary:
    """A vocabulary as files: their names and contents."""

    def __init__(self, vocabulary: Vocabulary, dataset: Dataset, section: VocabularySection) -> None:
        """Read the tokenizer's file.

        Raises:
            ValueError: if it is missing or changed.
        """
        artifact = tokenizer_artifact([dataset], section)
        data = verified_bytes(artifact)
        name = "tokenizer.json" if artifact.path.endswith(".json") else "tokenizer.model"
        described = {
            "format": FORMAT,
            "tokenizer": {"file": name, "sha256": artifact.sha256},
            "layout": vocabulary.section.model_dump(mode="json", exclude={"tokenizer"}),
            "units": {slot: contract.to_json() for slot, contract in dataset.contracts.items()},
            "ids": vocabulary.describe(),
        }
        self.files = {NAME: (json.dumps(described, indent=2) + "\n").encode(), name: data}

    def write(self, folder: Path) -> None:
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


class Carried(NamedTuple):
    """What a checkpoint knows of its tokens.

    Attributes:
        vocabulary: from tokens to ids and back.
        contracts: slot to the contract of its units.
    """

    vocabulary: Vocabulary
    contracts: Mapping[str, UnitContract]

    def require_contracts(self, other: Mapping[str, UnitContract], *, here: str, there: str) -> None:
        """Check that units are those of the checkpoint.

        Raises:
            ValueError: if a slot is missing on one side, or its contract differs; the message names both sides.
        """
        if set(self.contracts) != set(other):
            raise ValueError(f"{here} has the unit streams {sorted(self.contracts)}, {there} has {sorted(other)}")
        for slot, contract in self.contracts.items():
            contract.require_same(other[slot], here=here, there=there)


def read_carried(folder: Path) -> Carried | None:
    """Return what a folder carries; None if it carries nothing.

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
        contracts = {str(slot): UnitContract.from_json(value) for slot, value in described["units"].items()}
        blocks = described["ids"]["blocks"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again from where the checkpoint was written") from error
    if file not in TOKENIZER_FILES:
        raise ValueError(f"{path} names the tokenizer {file!r}; known are {list(TOKENIZER_FILES)}")
    tokenizer = load_tokenizer(Artifact(path=str(folder / file), sha256=sha256))
    vocabulary = Vocabulary.from_contracts(tokenizer, contracts, section, sha256)
    if vocabulary.describe()["blocks"] != blocks:
        raise ValueError(f"{path} gives other ids than it was written with; use the interloom that wrote it")
    return Carried(vocabulary, contracts)


def require_carried(folder: Path) -> Carried:
    """Return what a checkpoint carries.

    Raises:
        ValueError: if that is nothing, or damaged.
    """
    carried = read_carried(folder)
    if carried is None:
        raise ValueError(f"{folder / NAME} is missing: name a checkpoint folder that `interloom train` wrote")
    return carried
