"""`interloom policy`: its counts against the reader's own token ids, its tables, its one-line errors."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from pipeline.dataset import Dataset
from pipeline.reader import draw_sequence, vocabulary_of
from schemas.clock import Samples
from schemas.records import Word
from schemas.sequence import POLICY_NAMES, SequenceSection
from stages.documents import Document, documents_from
from tests.sequence_builders import corpus, record, write_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = corpus(7, utterances=4, words=9, seed=3)
    return write_dataset(tmp_path_factory.mktemp("tiny") / "d", [records[:8], records[8:20], records[20:]])


def policy(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["policy", *arguments])


def counts(root: Path, *arguments: str) -> dict[str, Any]:
    result = policy(*arguments, "--dataset", str(root), "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def all_documents(root: Path, *, join: bool = True) -> list[Document]:
    dataset = Dataset.open(str(root))
    return [
        document
        for split in range(dataset.num_splits)
        for document in documents_from(dataset.records(split), dataset.contracts, join=join)
    ]


@pytest.mark.parametrize("name", POLICY_NAMES)
@pytest.mark.parametrize("silence", ["keep", "drop"])
def test_the_counts_are_those_of_the_readers_token_ids(root: Path, name: str, silence: str) -> None:
    found = counts(root, name, "--seed", "5", "--set", f"sequence.silence={silence}")
    sequence = SequenceSection.model_validate({"policy": {"name": name}, "silence": silence})
    vocabulary = vocabulary_of(Dataset.open(str(root)))
    drawn = [draw_sequence(doc, sequence, vocabulary, seed=5, epoch=0) for doc in all_documents(root)]
    tokens = sum(len(each.ids) for each in drawn)
    assert found["policy"]["name"] == name
    assert found["tokens"] == tokens
    assert found["documents"] == len(drawn)
    assert found["speech_share_of_tokens"] == pytest.approx(sum(int(each.modality.sum()) for each in drawn) / tokens)
    switches = sum(int((each.modality[1:] != each.modality[:-1]).sum()) for each in drawn)
    assert found["switches_per_1000_tokens"] == pytest.approx(1000 * switches / tokens)
    words = sum(len(doc.words) for doc in all_documents(root))
    assert found["words"] == words
    assert found["tokens_per_word"]["document"] == pytest.approx(tokens / words)


@pytest.mark.parametrize("name", ["spiritlm", "poisson", "bernoulli"])
def test_spans_histograms_and_classes_add_up(root: Path, name: str) -> None:
    found = counts(root, name)
    total = 0.0
    for spans in found["spans"].values():
        rows = [row for row in (spans["inner"], spans["last"]) if row["spans"]]
        assert sum(each["spans"] for each in spans["histogram"]) == sum(row["spans"] for row in rows)
        assert len(spans["histogram"]) <= 10
        assert spans["histogram"][0]["words"][0] == min(row["min"] for row in rows)
        assert spans["histogram"][-1]["words"][1] >= max(row["max"] for row in rows)
        total += sum(row["spans"] * row["mean"] for row in rows)
    assert total == pytest.approx(found["words"])
    assert sum(spans["last"]["spans"] for spans in found["spans"].values()) == found["documents"] == 7
    assert sum(row["documents"] for row in found["by_document_length"]) == 7
    assert all(row["words"][0] <= row["words"][1] for row in found["by_document_length"] if row["words"][1])


def test_documents_fall_into_their_class_of_length(root: Path) -> None:
    joined = counts(root, "text_only")["by_document_length"]
    assert [(row["words"], row["documents"]) for row in joined] == [([40, 79], 7)]
    apart = counts(root, "text_only", "--set", "sequence.join_recordings=false")["by_document_length"]
    sizes = [len(doc.words) for doc in all_documents(root, join=False)]
    assert [(row["words"], row["documents"]) for row in apart] == [
        ([1, 9], sum(size < 10 for size in sizes)),
        ([10, 19], sum(size >= 10 for size in sizes)),
    ]


@pytest.mark.parametrize(("asked", "drawn"), [(3, 3), (27, 27), (28, 28), (29, 28)])
def test_as_many_documents_are_drawn_as_asked_for_or_there_are(root: Path, asked: int, drawn: int) -> None:
    found = counts(root, "--documents", str(asked), "--set", "sequence.join_recordings=false")
    assert found["documents"] == drawn


def test_the_share_of_removed_silence_is_of_the_audio(tmp_path: Path) -> None:
    words = [Word("the", Samples(4000), Samples(8000), -1.0), Word("cat", Samples(12_000), Samples(20_000), -1.0)]
    root = write_dataset(tmp_path / "d", [[record("u", words, num_samples=24_000)]])
    assert counts(root)["removed_silence_share"] == 0
    assert counts(root, "--set", "sequence.silence=drop")["removed_silence_share"] == 0.5
    assert counts(root, "--set", "sequence.silence=cap", "--set", "sequence.max_silence=0.125")[
        "removed_silence_share"
    ] == pytest.approx(0.25)


def test_speech_shorter_than_a_frame_is_counted(tmp_path: Path) -> None:
    times = [(0, 400), (400, 500), (500, 2000)]
    words = [Word(text, Samples(a), Samples(b), -1.0) for text, (a, b) in zip("abc", times, strict=True)]
    root = write_dataset(tmp_path / "d", [[record("u", words, num_samples=2000)]])
    found = counts(root, "word_transcription")
    assert found["speech_spans_without_a_frame"] == 1
    assert found["spans"]["text"]["histogram"] == [{"words": [1, 1], "spans": 2}]
    assert found["spans"]["text"]["last"]["spans"] == 1


def test_the_policy_of_the_recipe_keeps_its_options_where_none_is_named(root: Path) -> None:
    assert counts(root)["policy"] == SequenceSection().policy.model_dump(mode="json")
    changed = counts(root, "poisson", "--set", "sequence.policy.speech_share=0.8")
    assert changed["policy"] == {"name": "poisson", "mean_words": 10.0, "speech_share": 0.8}
    assert changed["speech_share_of_words"] == pytest.approx(0.8, abs=0.02)


def test_tables_are_plain_where_there_is_no_terminal(root: Path) -> None:
    result = policy("bernoulli", "--dataset", str(root))
    assert result.exit_code == 0, result.output
    assert result.output.isascii()
    for part in ("bernoulli on", "speech_probability 0.5", "Span lengths", "Speech share", "switches per 1,000 tokens"):
        assert part in result.output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("poison", "--dataset", "D"), "did you mean 'poisson'"),
        (("asr", "--dataset", "D", "--set", "sequence.policy.first=text"), "sequence.policy.first"),
        (("poisson", "--dataset", "D", "--set", "sequence.policy.mean_words=0"), "mean_words"),
        (("asr", "--dataset", "D", "--set", "units.clusters=3"), "only sequence and train"),
        (("--dataset", "D", "--set", "sequence.vocabulary.tokenizer=E"), "none"),
        (("--dataset", "E"), "dataset.json is missing"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    root: Path, tmp_path: Path, arguments: tuple[str, ...], part: str
) -> None:
    places = {"D": str(root), "E": str(tmp_path / "none")}
    result = policy(*(places.get(argument, argument).replace("=E", f"={places['E']}") for argument in arguments))
    assert result.exit_code == 2
    assert part in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_dataset_without_words_says_so(tmp_path: Path) -> None:
    result = policy("--dataset", str(write_dataset(tmp_path / "d", [[record("u", [], num_samples=1600)]])))
    assert result.exit_code == 2
    assert "no document with words" in result.stderr
