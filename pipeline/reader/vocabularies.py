"""The vocabulary of one or several datasets: their unit contracts, a text tokenizer, a layout."""

from collections.abc import Sequence

import fsspec

from pipeline.dataset import Dataset
from pipeline.storage import join
from schemas.contract import ContractMismatch, UnitContract
from schemas.records import Artifact
from schemas.sequence import VocabularySection
from stages.artifacts import artifact_of
from stages.tokenizer import check_sentencepiece, load_sentencepiece
from stages.vocabulary import SPIRITLM, TextTokenizer, Vocabulary

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
"""What may lie in a tokenizer's folder, the one to be taken first."""


def open_vocabulary(datasets: Dataset | Sequence[Dataset], section: VocabularySection = SPIRITLM) -> Vocabulary:
    """Return the vocabulary of datasets that are read together.

    Args:
        datasets: all must have been made with the same unit contracts and, unless `section` names a tokenizer, the
            same tokenizer. Without a dataset there are no unit blocks, and `section` must name a tokenizer.
        section: tokenizer and layout.

    Raises:
        ContractMismatch: if two datasets have other units.
        ImportError: if a `tokenizer.json` is named and the `tokenizers` library is not installed.
        ValueError: if a tokenizer is missing, changed or unfit, two datasets' differ, or the layout does not fit it.
    """
    given = [datasets] if isinstance(datasets, Dataset) else list(datasets)
    contracts = common_contracts(given)
    artifact = tokenizer_artifact(given, section)
    if section.tokenizer and not artifact.path.endswith(".json"):
        check_sentencepiece(artifact)
    return Vocabulary.from_contracts(load_tokenizer(artifact), contracts, section, artifact.sha256)


def vocabulary_of(dataset: Dataset) -> Vocabulary:
    """Return the vocabulary that a dataset's own tokenizer and unit contracts give, in the layout `spiritlm`.

    Raises:
        ValueError: if the tokenizer's file is not the one that the dataset was built with.
    """
    return open_vocabulary(dataset)


def common_contracts(datasets: Sequence[Dataset]) -> dict[str, UnitContract]:
    """Return the unit contracts that datasets share, by stream slot.

    Raises:
        ContractMismatch: if two datasets do not agree; the message names both.
    """
    if not datasets:
        return {}
    first = datasets[0]
    for other in datasets[1:]:
        if set(first.contracts) != set(other.contracts):
            raise ContractMismatch(
                f"{first.root} has the streams {sorted(first.contracts)}, {other.root} has {sorted(other.contracts)}"
            )
        for slot, contract in first.contracts.items():
            contract.require_same(other.contracts[slot], here=first.root, there=other.root)
    return first.contracts


def tokenizer_artifact(datasets: Sequence[Dataset], section: VocabularySection) -> Artifact:
    """Return the tokenizer's file: the one that `section` names as it is now, else the datasets' as they were built.

    Raises:
        ValueError: if the file that `section` names is missing, the datasets have different tokenizers, or there is
            neither.
    """
    if section.tokenizer:
        return artifact_of(_tokenizer_file(section.tokenizer))
    if not datasets:
        raise ValueError("no units dataset was given: name a tokenizer in sequence.vocabulary.tokenizer")
    first = datasets[0]
    for other in datasets[1:]:
        ours, theirs = (item.info["artifacts"]["tokenizer"]["sha256"] for item in (first, other))
        if ours != theirs:
            raise ValueError(
                f"{first.root} and {other.root} have different tokenizers; name one in sequence.vocabulary.tokenizer"
            )
    return Artifact(path=first.artifact("tokenizer"), sha256=first.info["artifacts"]["tokenizer"]["sha256"])


def load_tokenizer(artifact: Artifact) -> TextTokenizer:
    """Load a text tokenizer: Hugging Face's if the file's name ends in `.json`, else SentencePiece's.

    Raises:
        ImportError: if it is Hugging Face's and the `tokenizers` library is not installed.
        ValueError: if the file is missing, changed, or no tokenizer that can spell any text.
    """
    if artifact.path.endswith(".json"):
        from stages.hf_tokenizer import load_hf_tokenizer

        return load_hf_tokenizer(artifact)
    return load_sentencepiece(artifact)


def _tokenizer_file(path: str) -> str:
    """Return a tokenizer's file, given itself or its folder."""
    filesystem, key = fsspec.core.url_to_fs(path)
    if not filesystem.exists(key):
        raise ValueError(f"{path} is missing; correct sequence.vocabulary.tokenizer")
    if not filesystem.isdir(key):
        return path
    for name in TOKENIZER_FILES:
        if filesystem.exists(f"{key.rstrip('/')}/{name}"):
            return join(path, name)
    raise ValueError(f"{path} holds neither {' nor '.join(TOKENIZER_FILES)}; correct sequence.vocabulary.tokenizer")
