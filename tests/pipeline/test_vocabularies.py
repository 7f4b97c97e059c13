import hashlib
import json
from pathlib import Path

import fsspec
import pytest

from pipeline.dataset import Dataset
from pipeline.reader.vocabularies import load_tokenizer, open_vocabulary, tokenizer_artifact, vocabulary_of
from schemas.contract import ContractMismatch
from schemas.sequence import VocabularySection
from stages.artifacts import artifact_of
from stages.hf_tokenizer import HuggingFaceTokenizer
from stages.interleave import Modality, Piece
from stages.tokenizer import SentencePieceTokenizer, fit_sentencepiece
from tests.sequence_builders import SIZES, corpus, sentencepiece_model, write_dataset
from tests.stages.tokenizer_builders import CORPUS, byte_level, space_sign, wordpiece


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.open(str(write_dataset(tmp_path / "units", [corpus(1)])))


def edited(dataset: Dataset, root: Path, **changes: object) -> Dataset:
    root.mkdir()
    (root / "artifacts").mkdir()
    (root / "artifacts" / "tokenizer.model").write_bytes(Path(dataset.artifact("tokenizer")).read_bytes())
    (root / "dataset.json").write_text(json.dumps(dataset.info | changes))
    return Dataset.open(str(root))


def test_a_datasets_own_tokenizer_is_the_default(dataset: Dataset) -> None:
    vocabulary = vocabulary_of(dataset)
    assert vocabulary.sizes == SIZES
    assert vocabulary.tokenizer_sha256 == hashlib.sha256(sentencepiece_model()).hexdigest()
    assert vocabulary.tokenizer.encode("the cat") == SentencePieceTokenizer(sentencepiece_model()).encode("the cat")
    assert open_vocabulary([dataset, dataset]).describe() == vocabulary.describe()
    assert vocabulary.describe()["layout"] == "spiritlm"


def test_a_tokenizer_that_was_replaced_is_refused(dataset: Dataset) -> None:
    Path(dataset.artifact("tokenizer")).write_bytes(fit_sentencepiece(CORPUS, 300))
    with pytest.raises(ValueError, match="sha256"):
        vocabulary_of(dataset)


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_tokenizer_of_ones_own_by_path(dataset: Dataset, tmp_path: Path, name: str, as_folder: bool) -> None:
    folder = tmp_path / "llm"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    data = byte_level("llama3").encode() if name == "tokenizer.json" else fit_sentencepiece(CORPUS, 400)
    (folder / name).write_bytes(data)
    section = VocabularySection(tokenizer=str(folder if as_folder else folder / name), layout="append", first_id=500)
    vocabulary = open_vocabulary(dataset, section)
    kind = HuggingFaceTokenizer if name == "tokenizer.json" else SentencePieceTokenizer
    assert isinstance(vocabulary.tokenizer, kind)
    assert vocabulary.tokenizer_sha256 == hashlib.sha256(data).hexdigest()
    assert (vocabulary.sizes, vocabulary.first_id) == (SIZES, 500)
    piece = Piece(modality=Modality.TEXT, text="It's a dog, isn't it?")
    assert vocabulary.decode(vocabulary.encode([piece]).ids) == [piece]


def test_of_both_files_in_a_folder_hugging_faces_is_taken(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(space_sign("legacy"))
    (tmp_path / "tokenizer.model").write_bytes(fit_sentencepiece(CORPUS, 400))
    section = VocabularySection(tokenizer=str(tmp_path))
    assert tokenizer_artifact([dataset], section).path == str(tmp_path / "tokenizer.json")


def test_a_tokenizer_may_lie_in_a_store(dataset: Dataset) -> None:
    with fsspec.open("memory://vocabularies/llm/tokenizer.json", "wb") as file:
        file.write(byte_level().encode())
    section = VocabularySection(tokenizer="memory://vocabularies/llm")
    assert isinstance(open_vocabulary(dataset, section).tokenizer, HuggingFaceTokenizer)


def test_text_alone_needs_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(byte_level())
    vocabulary = open_vocabulary([], VocabularySection(tokenizer=str(tmp_path)))
    assert vocabulary.size == vocabulary.tokenizer.vocab_size + 4
    with pytest.raises(ValueError, match=r"name a tokenizer in sequence\.vocabulary\.tokenizer"):
        open_vocabulary([])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"llm holds neither tokenizer\.json nor tokenizer\.model"),
        ({"tokenizer.json": wordpiece().encode()}, r"tokenizer\.json cannot be the text tokenizer"),
        ({"tokenizer.model": sentencepiece_model()}, r"tokenizer\.model has no byte fallback"),
        ({"tokenizer.model": b"junk"}, r"tokenizer\.model is not a SentencePiece model"),
    ],
)
def test_what_is_no_tokenizer_is_named(dataset: Dataset, tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    folder = tmp_path / "llm"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        open_vocabulary(dataset, VocabularySection(tokenizer=str(folder)))
    assert "\n" not in str(caught.value)


def test_a_path_that_leads_nowhere_is_named(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere is missing; correct sequence\.vocabulary\.tokenizer"):
        open_vocabulary(dataset, VocabularySection(tokenizer=str(tmp_path / "nowhere")))


def test_a_first_id_inside_the_tokenizer_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="first_id 10 is an id of the text tokenizer"):
        open_vocabulary(dataset, VocabularySection(layout="append", first_id=10))


def test_datasets_that_differ_are_named(dataset: Dataset, tmp_path: Path) -> None:
    streams = dataset.info["streams"]
    other = edited(dataset, tmp_path / "a", streams=streams | {"pitch": streams["pitch"] | {"codebook_sha256": "1"}})
    with pytest.raises(ContractMismatch, match="codebook_sha256") as caught:
        open_vocabulary([dataset, other])
    assert dataset.root in str(caught.value)
    assert other.root in str(caught.value)
    fewer = edited(dataset, tmp_path / "b", streams={"hubert": streams["hubert"]})
    with pytest.raises(ContractMismatch, match=r"has \['hubert'\]"):
        open_vocabulary([dataset, fewer])


def test_datasets_with_different_tokenizers_need_one_that_is_named(dataset: Dataset, tmp_path: Path) -> None:
    artifacts = {"tokenizer": dataset.info["artifacts"]["tokenizer"] | {"sha256": "0" * 64}}
    other = edited(dataset, tmp_path / "a", artifacts=artifacts)
    with pytest.raises(ValueError, match=r"different tokenizers; name one in sequence\.vocabulary\.tokenizer"):
        open_vocabulary([dataset, other])
    path = tmp_path / "own.model"
    path.write_bytes(fit_sentencepiece(CORPUS, 400))
    assert open_vocabulary([dataset, other], VocabularySection(tokenizer=str(path))).sizes == SIZES


def test_a_tokenizers_kind_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "any.json"
    path.write_text(byte_level())
    assert isinstance(load_tokenizer(artifact_of(str(path))), HuggingFaceTokenizer)
