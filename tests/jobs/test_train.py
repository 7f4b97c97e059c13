import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.train_data import evaluation_blocks, hold_out, prepare, shuffled
from jobs.train_run import claim
from pipeline.dataset import Dataset
from schemas.sequence import SequenceSection, SpiritLmPolicy
from schemas.training import TrainSection
from stages.documents import Document
from stages.vocabulary import Vocabulary
from tests.sequence_builders import SIZES, ByteTokenizer, corpus, document, documents, write_dataset

SEQUENCE = SequenceSection(context=96, policy=SpiritLmPolicy(text_words=(3, 6), speech_words=(3, 6)))
SECTION = TrainSection(hidden_size=64, layers=2, heads=2, batch_size=4, steps=60, warmup=5)
TINY = TrainSection(hidden_size=16, layers=1, heads=2, batch_size=2, steps=6, warmup=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = corpus(12, utterances=2)
    return write_dataset(tmp_path_factory.mktemp("data") / "d", [records[:12], records[12:]])


def runs(ids: np.ndarray) -> list[tuple[int, int]]:
    return [(unit, len(list(run))) for unit, run in groupby(ids.tolist())]


@given(doc=documents(), epoch=st.integers(0, 3))
def test_the_control_changes_nothing_but_the_order_of_units(doc: Document, epoch: int) -> None:
    changed = shuffled(doc, 0, epoch)
    assert (changed.words, changed.doubtful, changed.keys) == (doc.words, doc.doubtful, doc.keys)
    for before, after in zip(doc.segments, changed.segments, strict=True):
        assert np.array_equal(before.streams["style"], after.streams["style"])
        for slot in ("hubert", "pitch"):
            assert after.streams[slot].dtype == np.uint16
            assert np.array_equal(np.sort(before.streams[slot]), np.sort(after.streams[slot]))
            assert len(runs(after.streams[slot])) <= len(runs(before.streams[slot]))


def test_the_control_has_another_order_each_epoch_and_each_stream() -> None:
    doc = document((40,))
    orders = {shuffled(doc, 0, epoch).segments[0].streams["hubert"].tobytes() for epoch in range(3)}
    assert len(orders | {doc.segments[0].streams["hubert"].tobytes()}) == 4


def test_held_out_documents_are_few_stable_and_never_trained_on(dataset: Path) -> None:
    opened = Dataset.open(str(dataset))
    held, second = hold_out(opened, SEQUENCE, 0)
    assert held.key != second.key
    assert hold_out(opened, SEQUENCE, 0)[0].key == held.key
    assert len({hold_out(opened, SEQUENCE, seed)[0].key for seed in range(10)}) > 1
    assert prepare(held, 0, held_out=frozenset({held.key}), seed=0, shuffle=False) is None
    other = document((5,))
    assert prepare(other, 0, held_out=frozenset({held.key}), seed=0, shuffle=False) is other


def test_a_single_document_is_not_held_out(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", [corpus(1)])
    assert hold_out(Dataset.open(str(root)), SEQUENCE, 0) == []
    assert evaluation_blocks([], SEQUENCE, Vocabulary(ByteTokenizer(), SIZES), 0) == []


def test_a_run_is_not_overwritten_and_other_settings_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert claim(out, {"seed": 0}, resume=True).step == 0
    with pytest.raises(ValueError, match=r"holds a run already: resume it"):
        claim(out, {"seed": 0}, resume=False)
    with pytest.raises(ValueError, match=r"other settings: seed: 0 then, 1 now"):
        claim(out, {"seed": 1}, resume=True)


def test_resuming_cuts_the_log_at_the_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    claim(out, {}, resume=False)
    (out / "checkpoint-000002").mkdir()
    (out / "checkpoint-000002" / "state.json").write_text(json.dumps({"step": 2, "readers": []}))
    (out / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    assert [entry["step"] for entry in claim(out, {}, resume=True).entries()] == [1, 2]


def test_importing_does_not_load_torch() -> None:
    code = "import sys, jobs.train; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_packed_documents_do_not_see_each_other() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from jobs.train_model import Learner, token_losses

    torch.manual_seed(0)
    vocabulary = Vocabulary(ByteTokenizer(), SIZES)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary.size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        )
    )
    learner = Learner(model=model, forward=model, device=torch.device("cpu"), autocast=False, flex=False)
    wide = SEQUENCE.model_copy(update={"context": 4096})
    first, second = document((4,), seed=1), document((6,), seed=2)
    with torch.no_grad():
        (both,) = evaluation_blocks([first, second], wide, vocabulary, 0)[:1]
        (alone,) = evaluation_blocks([second], wide, vocabulary, 0)[:1]
        together, target, _ = token_losses(learner, [both])
        apart, _, _ = token_losses(learner, [alone])
    length = int((alone["document_ids"] == 0).sum())
    start = int((both["document_ids"] == 0).sum())
    assert not target[0, start - 1], "the first token of a document is no target of the one before"
    assert torch.allclose(together[0, start : start + length - 1], apart[0, : length - 1], atol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(dataset: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    from jobs.train import train

    whole = train(dataset, tmp_path / "whole", TINY, SEQUENCE, 0, device="cpu")
    train(dataset, tmp_path / "parts", TINY, SEQUENCE, 0, device="cpu", steps=3)
    parts = train(dataset, tmp_path / "parts", TINY, SEQUENCE, 0, device="cpu", resume=True)
    assert (whole.first_loss, whole.last_loss, whole.eval_speech_loss) == (
        parts.first_loss, parts.last_loss, parts.eval_speech_loss,
    )  # fmt: skip
    assert Path(parts.checkpoint).name == "checkpoint-000006"
    one, other = (load_file(Path(run.checkpoint) / "model.safetensors") for run in (whole, parts))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_the_loss_falls_and_shuffled_units_make_it_worse(dataset: Path, tmp_path: Path) -> None:
    from jobs.train import train

    true = train(dataset, tmp_path / "true", SECTION, SEQUENCE, 0, device="cpu")
    control = train(dataset, tmp_path / "control", SECTION, SEQUENCE, 0, device="cpu", shuffle_units=True)
    assert true.last_loss < 0.7 * true.first_loss
    assert true.best_eval_speech_loss is not None
    assert control.best_eval_speech_loss is not None
    assert true.best_eval_speech_loss < 0.9 * control.best_eval_speech_loss
    lines = [json.loads(line) for line in (tmp_path / "true" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 61))
    assert [line["step"] for line in lines if "eval_loss" in line] == [20, 40, 60]
    assert "held-out speech" in str(true)
