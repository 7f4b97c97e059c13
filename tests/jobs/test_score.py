"""Scores against a token-by-token reference, whatever the batch-mates; rows refused with their reason."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from jobs.cli import main
from jobs.score import Scorer, score
from jobs.score_rows import BadRow, Refused, parse_sequence, rows_of_json
from jobs.train_vocabulary import require_carried
from pipeline.dataset import Dataset
from pipeline.reader import draw_sequence
from pipeline.reader.draw import draw_pieces
from schemas.sequence import AsrPolicy, Policy, SpeechOnlyPolicy, SpiritLmPolicy, TextOnlyPolicy, TtsPolicy
from stages.documents import Document, documents_from
from stages.tokenizer import SentencePieceTokenizer
from stages.vocabulary import Vocabulary
from tests.sequence_builders import SIZES, ByteTokenizer, documents, sentencepiece_model
from tests.train_builders import SEQUENCE, tiny_checkpoint, tiny_dataset

BYTES = Vocabulary(ByteTokenizer(), SIZES)
POLICIES: list[Policy] = [
    SpiritLmPolicy(text_words=(2, 4), speech_words=(2, 4)),
    AsrPolicy(),
    TtsPolicy(),
    SpeechOnlyPolicy(),
    TextOnlyPolicy(),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "d")


@pytest.fixture(scope="module")
def checkpoint(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(dataset, tmp_path_factory.mktemp("model") / "checkpoint")


@pytest.fixture(scope="module")
def scorer(checkpoint: Path) -> Scorer:
    return Scorer(checkpoint, "cpu")


@given(doc=documents(), policy=st.sampled_from(POLICIES), pieces=st.booleans())
def test_the_string_form_gives_the_ids_that_training_sees(doc: Document, policy: Policy, pieces: bool) -> None:
    vocabulary = Vocabulary(SentencePieceTokenizer(sentencepiece_model()), SIZES) if pieces else BYTES
    sequence = SEQUENCE.model_copy(update={"policy": policy})
    string = "".join(map(str, draw_pieces(doc, sequence, seed=0, epoch=0)))
    assert parse_sequence(string, vocabulary) == draw_sequence(doc, sequence, vocabulary, seed=0, epoch=0).ids.tolist()


def test_the_string_form_by_hand() -> None:
    text, speech, hubert, style = 256, 257, 258, 258 + 50 + 16
    assert parse_sequence("[Text]a b[Speech][St1][Hu7][Hu7][Text] c ", BYTES) == [
        text, *b"a b", speech, style + 1, hubert + 7, hubert + 7, text, *b"c",
    ]  # fmt: skip
    assert parse_sequence("[ASR][Speech][Hu0][Text]x", BYTES) == [style + 8, speech, hubert, text, *b"x"]
    assert parse_sequence("[Text]see [1] and [Hu]", BYTES) == [text, *b"see [1] and [Hu]"]


@pytest.mark.parametrize(
    "string", ["", "plain", " [Text]a", "[Speech][Hu1] [Hu2]", "[Speech]word", "[Speech][Hu50]", "[Speech][Hu01]"]
)
def test_what_is_no_sequence_is_refused(string: str) -> None:
    with pytest.raises(BadRow) as caught:
        parse_sequence(string, BYTES)
    assert caught.value.reason is Refused.BAD_SEQUENCE


def reference(scorer: Scorer, ids: list[int]) -> float:
    """Token by token, each from its own forward pass over what is before it, in Python's floats."""
    import torch

    total = 0.0
    for i in range(1, len(ids)):
        with torch.no_grad():
            logits = scorer._model(input_ids=torch.tensor([ids[:i]])).logits[0, -1].double().tolist()
        top = max(logits)
        total += logits[ids[i]] - top - math.log(sum(math.exp(x - top) for x in logits))
    return total


def test_scores_equal_a_reference_whatever_the_batch(scorer: Scorer) -> None:
    sequences = [[64, 5, 9], [65, 70], [64, *range(40)], [65, *range(66, 90), 64, 3], [64, 0, 0, 0], [64, 0, 0]]
    want = [reference(scorer, ids) for ids in sequences]
    assert max(want) - min(want) > 1
    for batch_size in (1, 2, 6):
        found = scorer.log_likelihoods(sequences, batch_size)
        assert found == pytest.approx(want, abs=1e-3, rel=1e-5)
    backwards = scorer.log_likelihoods(sequences[::-1], 6)[::-1]
    assert backwards == pytest.approx(want, abs=1e-3, rel=1e-5)


ROWS: list[Any] = [
    {"id": "t", "text": "the cat sat"},
    {"id": "s", "speech": "[St1][Pi2][Hu3][Hu4]"},
    {"id": "m", "sequence": "[Text]the cat[Speech][Hu1][Hu2]"},
    {"id": "i", "ids": [64, 5, 9]},
    {"text": "no id"},
    {"id": "p", "good": "[Text]the cat", "bad": {"text": "the the"}},
    {"id": "tie", "good": {"speech": "[Hu1]"}, "bad": "[Speech][Hu1]"},
]
BAD: list[tuple[str, Refused]] = [
    ("{", Refused.NOT_JSON),
    ("[1]", Refused.BAD_ROW),
    ('{"id": "none"}', Refused.BAD_ROW),
    ('{"text": "a", "speech": "[Hu1]"}', Refused.BAD_ROW),
    ('{"txt": "a"}', Refused.BAD_ROW),
    ('{"text": 5}', Refused.BAD_ROW),
    ('{"good": "[Text]a"}', Refused.BAD_ROW),
    ('{"good": "[Text]a", "bad": {"text": "b"}, "text": "c"}', Refused.BAD_ROW),
    ('{"ids": [1, true]}', Refused.BAD_ROW),
    ('{"ids": [1, 99999]}', Refused.BAD_SEQUENCE),
    ('{"ids": [1, -1]}', Refused.BAD_SEQUENCE),
    ('{"speech": "[Hu9999]"}', Refused.BAD_SEQUENCE),
    ('{"good": "a", "bad": "b"}', Refused.BAD_SEQUENCE),
    ('{"text": ""}', Refused.TOO_SHORT),
    ('{"ids": []}', Refused.TOO_SHORT),
    (json.dumps({"ids": [5] * 97}), Refused.TOO_LONG),
    ("\udcff", Refused.NOT_JSON),
    ("[" * 100_000, Refused.NOT_JSON),
    ('{"id": "\\ud800", "text": "a lone surrogate"}', Refused.BAD_ROW),
    ('{"id": {"a": [1]}, "text": "no name"}', Refused.BAD_ROW),
]


def write_rows(path: Path) -> Path:
    good = [json.dumps(row) for row in ROWS]
    lines = [line for pair in zip(good, [line for line, _ in BAD], strict=False) for line in pair]
    lines += ["", *[line for line, _ in BAD[len(good) :]]]
    path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    return path


def test_every_row_is_scored_or_refused_in_its_order(scorer: Scorer, tmp_path: Path) -> None:
    rows = rows_of_json(write_rows(tmp_path / "rows.jsonl"), scorer.carried.vocabulary, scorer.context)
    out = io.StringIO()
    tally = score(rows, scorer, out, batch_size=2, per_token=False)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (tally.inputs, tally.scores) == (len(ROWS) + len(BAD), len(ROWS))
    assert tally.inputs == tally.scores + tally.rejects.total() == len(lines)
    assert [line["reject"] for line in lines if "reject" in line] == [reason for _, reason in BAD]
    assert all(line["detail"] for line in lines if "reject" in line)
    scored = [line for line in lines if "reject" not in line]
    assert [line["id"] for line in scored] == ["t", "s", "m", "i", 9, "p", "tie"]
    by_id = {line["id"]: line for line in scored}
    assert by_id["i"]["tokens"] == 2
    assert by_id["i"]["log_likelihood"] == pytest.approx(reference(scorer, [64, 5, 9]), abs=1e-3)
    assert by_id["i"]["mean"] == by_id["i"]["log_likelihood"] / 2
    pair = by_id["p"]
    assert pair["correct"] == (pair["good"]["log_likelihood"] > pair["bad"]["log_likelihood"])
    assert not by_id["tie"]["correct"]
    assert (tally.pairs, tally.ties, tally.correct) == (2, 1, int(pair["correct"]))
    assert f"accuracy {tally.correct / 2:.4f} on 2 pairs, 1 ties" in str(tally)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["score", *map(str, arguments), "--device", "cpu"])


def test_pairs_may_be_compared_by_the_mean_per_token(checkpoint: Path, scorer: Scorer, tmp_path: Path) -> None:
    short, long = [64, 5], [64, 5, *[7] * 40]
    assert scorer.log_likelihoods([short], 1) > scorer.log_likelihoods([long], 1)
    found = []
    for first, second in ((short, long), (long, short)):
        rows = tmp_path / "pairs.jsonl"
        rows.write_text(json.dumps({"id": 1, "good": {"ids": first}, "bad": {"ids": second}}))
        for flag in ([], ["--per-token"]):
            line = json.loads(invoke(checkpoint, "--sequences", rows, *flag).stdout)
            name = "mean" if flag else "log_likelihood"
            assert line["correct"] == (line["good"][name] > line["bad"][name])
            found.append(line["correct"])
    assert found[0] != found[2]
    assert found[1] != found[3]


def test_the_command_writes_lines_and_one_summary(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "lines.txt"
    text.write_bytes(b"the cat sat\n\nthe dog ran\n\xff\n")
    shown = invoke(checkpoint, "--text", text)
    assert shown.exit_code == 0, shown.output
    assert [json.loads(line)["id"] for line in shown.stdout.splitlines()] == [1, 3, 4]
    assert shown.stderr.startswith("score: 3 inputs, 2 scores, 1 rejects (bad_row 1); ")
    out = tmp_path / "new" / "scores.jsonl"
    written = invoke(checkpoint, "--text", text, "--out", out)
    assert out.read_text() == shown.stdout
    assert written.stdout == shown.stderr
    assert [path.name for path in out.parent.iterdir()] == ["scores.jsonl"]


def test_a_dataset_is_scored_by_utterance_as_it_is_drawn(dataset: Path, checkpoint: Path, scorer: Scorer) -> None:
    done = invoke(checkpoint, "--dataset", dataset, "--set", "sequence.policy={name: text_only}")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    opened = Dataset.open(str(dataset))
    first = next(documents_from(opened.records(0), opened.contracts, join=False))
    assert len(lines) == 24
    assert lines[0]["id"] == first.key
    ids = scorer.carried.vocabulary.encode(draw_pieces(first, SEQUENCE.model_copy(update={"policy": TextOnlyPolicy()}),
                                                       seed=0, epoch=0)).ids.tolist()  # fmt: skip
    assert lines[0]["log_likelihood"] == pytest.approx(reference(scorer, ids), abs=1e-3)


def test_nothing_but_rejects_ends_with_1(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{\n")
    assert invoke(checkpoint, "--sequences", tmp_path / "rows.jsonl").exit_code == 1


def test_mistakes_are_one_line(dataset: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "changed").mkdir()
    for file in checkpoint.iterdir():
        (tmp_path / "changed" / file.name).write_bytes(file.read_bytes() + b" " * (file.name == "tokenizer.model"))
    cases = [
        ((checkpoint,), "give one of"),
        ((checkpoint, "--text", "a", "--sequences", "b"), "give one of"),
        ((checkpoint, "--text", tmp_path / "missing.txt"), "missing.txt is missing"),
        ((checkpoint, "--text", "a", "--set", "sequence.context=5"), "--set"),
        ((tmp_path / "empty", "--text", "a"), "vocabulary.json is missing"),
        ((tmp_path / "changed", "--text", "a"), "sha256"),
    ]
    for arguments, part in cases:
        done = invoke(*arguments)
        assert done.exit_code == 2, done.output
        assert part in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_units_of_another_codebook_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = tiny_dataset(tmp_path / "other")
    info = json.loads((other / "dataset.json").read_text())
    info["streams"]["hubert"]["codebook_sha256"] = "f" * 64
    (other / "dataset.json").write_text(json.dumps(info))
    done = invoke(checkpoint, "--dataset", other)
    assert done.exit_code == 2
    assert "codebook_sha256" in done.stderr


def test_a_checkpoint_carries_its_vocabulary(checkpoint: Path) -> None:
    carried = require_carried(checkpoint)
    assert carried.vocabulary.sizes == SIZES
    assert carried.vocabulary.describe() == json.loads((checkpoint / "vocabulary.json").read_text())["ids"]
    assert carried.vocabulary.decode(parse_sequence("[Text]the cat[Speech][Hu1]", carried.vocabulary))[0].text


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"ids": {"blocks": {"text": [0, 64]}}}, "gives other ids than it was written with"),
        ({"tokenizer": {"file": "../tokenizer.model", "sha256": ""}}, "names the tokenizer '../tokenizer.model'"),
        ({"units": None}, "is damaged"),
        (None, "is damaged"),
    ],
)
def test_a_vocabulary_that_does_not_hold_is_refused(
    checkpoint: Path, tmp_path: Path, change: dict[str, Any] | None, part: str
) -> None:
    for name in ("tokenizer.model", "vocabulary.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    path = tmp_path / "vocabulary.json"
    path.write_text("{" if change is None else json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=part) as caught:
        require_carried(tmp_path)
    assert str(path) in str(caught.value)
