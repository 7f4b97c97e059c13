import hashlib
import json
import subprocess
import sys
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.train_data import blank, evaluation_blocks, hold_out, load_mixture, prepare, shuffled
from jobs.train_run import RunFolder, checkpoints, claim, opened, publishing
from pipeline.dataset import BadDataset, Dataset
from pipeline.reader import IGNORED, open_reader
from schemas.training import TrainSection
from stages.documents import Document
from stages.vocabulary import Vocabulary
from tests.sequence_builders import SIZES, ByteTokenizer, corpus, document, documents, write_dataset
from tests.train_builders import SEQUENCE, TINY, entries, tiny_dataset, tiny_llama

SECTION = TrainSection(hidden_size=64, layers=2, heads=2, batch_size=4, steps=60, warmup=5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "d")


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


def test_a_missing_shard_ends_holding_out_or_is_left_out(tmp_path: Path) -> None:
    root = tiny_dataset(tmp_path / "d")
    (root / "shards" / "shard-000000.tar").unlink()
    opened = Dataset.open(str(root))
    with pytest.raises(BadDataset, match=r"shard-000000\.tar is missing; copy the shard again"):
        hold_out(opened, SEQUENCE, 0)
    later = {"rec06", "rec07", "rec08", "rec09", "rec10", "rec11"}
    (held,) = hold_out(opened, SEQUENCE, 0, on_corrupt="skip")
    assert held.key.split("-")[0] in later


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


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    def publish(step: int, keep: int = 2) -> None:
        with publishing(tmp_path, step, keep) as partial:
            assert list(partial.iterdir()) == []
            (partial / "state.json").write_text(json.dumps({"step": step, "readers": []}))
            if step == 3:
                raise OSError("the disk is full")

    publish(1)
    publish(2)
    with pytest.raises(OSError, match="disk"):
        publish(3)
    assert opened(tmp_path).step == 2
    publish(999_999)
    publish(1_000_000)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-999999", "checkpoint-1000000"]
    assert opened(tmp_path) == RunFolder(
        path=tmp_path, checkpoint=tmp_path / "checkpoint-1000000", step=1_000_000, readers=[]
    )
    assert not (tmp_path / ".partial").exists()


def test_a_mixture_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text("- {path: a, share: 2}\n- {kind: text, path: b}\n")
    assert [(s.kind, s.path, s.share) for s in load_mixture(path).sources] == [("units", "a", 2.0), ("text", "b", 1.0)]
    for bad, part in (
        ("- {kind: txt, path: b}", "txt"),
        ("[]", "sources"),
        ("{", "YAML"),
        ("- {path: a, shar: 1}", "shar"),
    ):
        path.write_text(bad)
        with pytest.raises(ValueError, match=part) as caught:
            load_mixture(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match="missing"):
        load_mixture(tmp_path / "none.yaml")


def test_a_blank_block_has_no_target() -> None:
    (block, *_) = evaluation_blocks([document((6,))], SEQUENCE, Vocabulary(ByteTokenizer(), SIZES), 0)
    assert (blank(block)["labels"] == IGNORED).all()
    assert np.array_equal(blank(block)["input_ids"], block["input_ids"])
    assert (block["labels"] != IGNORED).any()


@pytest.mark.slow
def test_accumulation_changes_rounding_alone(dataset: Path, tmp_path: Path) -> None:
    from jobs.train import train

    runs = []
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        section = TINY.model_copy(update={"batch_size": batch_size, "accumulation": accumulation, "steps": 10})
        train(dataset, tmp_path / str(batch_size), section, SEQUENCE, 0, device="cpu")
        runs.append(entries(tmp_path / str(batch_size)))
    for run in runs[1:]:
        for a, b in zip(runs[0], run, strict=True):
            for name in a.keys() | b.keys():
                exact = name in ("sources", "skipped")
                assert a[name] == (b[name] if exact else pytest.approx(b[name], abs=1e-5))
    opened = Dataset.open(str(dataset))
    held_out = frozenset(document.key for document in hold_out(opened, SEQUENCE, 0))
    trained = partial(prepare, held_out=held_out, seed=0, shuffle=False)
    blocks = list(islice(open_reader(opened, SEQUENCE, seed=0, streams=4, prepare=trained), 40))
    tokens = [sum(int((b["document_ids"] >= 0).sum()) for b in blocks[i : i + 4]) for i in range(0, 40, 4)]
    assert [entry["tokens"] for entry in runs[0] if "tokens" in entry] == tokens
    text, speech = ([entry[name] for entry in runs[0] if name in entry] for name in ("text_loss", "speech_loss"))
    share, loss = ([entry[name] for entry in runs[0] if name in entry] for name in ("speech_share", "loss"))
    mixed = [t * (1 - p) + s * p for t, s, p in zip(text, speech, share, strict=True)]
    assert loss == pytest.approx(mixed)


@pytest.mark.slow
def test_settings_of_a_run_may_change_where_they_do_not_matter(dataset: Path, tmp_path: Path) -> None:
    from jobs.train import train

    section = TINY.model_copy(update={"keep": 3, "checkpoint_every": 2, "tensorboard": True})
    train(dataset, tmp_path / "run", section, SEQUENCE, 0, device="cpu", steps=5)
    assert [c.name for c in checkpoints(tmp_path / "run")] == [f"checkpoint-00000{step}" for step in (2, 4, 5)]
    other = section.model_copy(update={"accumulation": 3, "keep": 1, "recompute": True})
    train(dataset, tmp_path / "run", other, SEQUENCE, 0, device="cpu", steps=7, resume=True)
    assert [c.name for c in checkpoints(tmp_path / "run")] == ["checkpoint-000007"]
    tokens = [entry["tokens"] for entry in entries(tmp_path / "run") if "tokens" in entry]
    assert max(tokens[:5]) <= 2 * 96 < min(tokens[5:])
    changed = other.model_copy(update={"learning_rate": 1e-4})
    with pytest.raises(ValueError, match=r"other settings: train: .*'learning_rate': 0.003"):
        train(dataset, tmp_path / "run", changed, SEQUENCE, 0, device="cpu", resume=True)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    logged = {entry["step"]: entry["speech_loss"] for entry in entries(tmp_path / "run") if "speech_loss" in entry}
    shown = {event.step: event.value for event in events.Scalars("speech_loss")}
    assert shown == {step: pytest.approx(loss, rel=1e-6) for step, loss in logged.items()}
    total = sum(entry["tokens"] for entry in entries(tmp_path / "run") if "tokens" in entry)
    assert [(event.step, event.value) for event in events.Scalars("sources/0/tokens")][-1] == (7, total)


@pytest.mark.slow
def test_a_mixture_is_trained_on(dataset: Path, tmp_path: Path) -> None:
    from jobs.train import train

    lines = [json.dumps({"text": "the old dog sat on the red barn " * 4}) for _ in range(40)]
    (tmp_path / "text.jsonl").write_text("\n".join([*lines, "{", "{}", "{"]))
    (tmp_path / "mixture.yaml").write_text(
        f"- {{path: {dataset}, policy: {{name: speech_only}}}}\n- {{kind: text, path: {tmp_path / 'text.jsonl'}}}\n"
    )
    mixture = load_mixture(tmp_path / "mixture.yaml")
    section = TINY.model_copy(update={"batch_size": 8, "evaluate_every": 2})
    train(dataset, tmp_path / "run", section, SEQUENCE, 0, device="cpu", mixture=mixture, steps=4)
    summary = train(dataset, tmp_path / "run", section, SEQUENCE, 0, device="cpu", mixture=mixture, resume=True)
    steps = [entry for entry in entries(tmp_path / "run") if "loss" in entry]
    assert 0.35 < np.mean([entry["speech_share"] for entry in steps]) < 0.65
    read = {entry["step"]: entry for entry in entries(tmp_path / "run") if "sources" in entry}
    assert list(read) == [2, 4, 6]
    for step, entry in read.items():
        units, text = entry["sources"]
        assert (units["source"], text["source"]) == (str(dataset), str(tmp_path / "text.jsonl"))
        assert units["tokens"] + text["tokens"] == sum(entry["tokens"] for entry in steps[:step])
        assert (units["skipped"], text["skipped"]) == (0, sum(entry["skipped"].values()))
    path = tmp_path / "text.jsonl"
    assert read[6]["sources"][1]["epochs"] >= 1
    assert read[6]["skipped"][f"{path}: not JSON"] >= 2
    assert read[6]["skipped"][f"{path}: field missing"] >= 1
    assert f"; {summary.skipped} items skipped, see log.jsonl; " in str(summary)
    with pytest.raises(ValueError, match="other settings: mixture"):
        train(dataset, tmp_path / "run", section, SEQUENCE, 0, device="cpu", resume=True)


def damaged_dataset(root: Path, at: str, shard: int = 1) -> Path:
    """A dataset with a changed byte after the first place of a text in a shard; held-out documents are of shard 0."""
    records = corpus(30, utterances=1)
    tiny = write_dataset(root, [records[:24], records[24:]])
    tar = tiny / "shards" / f"shard-{shard:06d}.tar"
    data = bytearray(tar.read_bytes())
    data[data.index(at.encode()) + len(at)] ^= 1
    tar.write_bytes(data)
    return tiny


@pytest.mark.slow
def test_settings_of_the_reader(tmp_path: Path) -> None:
    from jobs.train import train

    def run(name: str, dataset: str | Path, **settings: Any) -> list[dict[str, Any]]:
        section = TINY.model_copy(update={"batch_size": 32, "evaluate_every": 1, **settings})
        train(dataset, tmp_path / name, section, SEQUENCE, 0, device="cpu", steps=2, resume=True)
        return entries(tmp_path / name)

    broken = damaged_dataset(tmp_path / "broken", '"wor')
    with pytest.raises(ValueError, match=r"shard-000001\.tar: .*words"):
        run("run", broken)
    (message, count), *none = run("run", broken, on_corrupt="skip")[-1]["skipped"].items()
    assert "shard-000001.tar: " in message
    assert count >= 1
    assert not none

    early = damaged_dataset(tmp_path / "early", '"wor', shard=0)
    with pytest.raises(ValueError, match=r"shard-000000\.tar is damaged .*words"):
        run("early", early)
    assert "shard-000000.tar: record 'rec00-000'" in next(iter(run("early", early, on_corrupt="skip")[-1]["skipped"]))

    changed = damaged_dataset(tmp_path / "changed", '"text":"')
    whole = run("unseen", changed)
    assert whole[-1]["skipped"] == {}
    with pytest.raises(ValueError, match=r"shard-000001\.tar is damaged .*sha256"):
        run("verified", changed, verify=True)
    assert run("one", changed, shuffle_shards=1)[0]["loss"] != whole[0]["loss"]
    with pytest.raises(ValueError, match=r"other settings: train: .*'shuffle_shards': 1"):
        run("one", changed)

    store = fsspec.filesystem("memory")
    sound = tiny_dataset(tmp_path / "sound")
    store.put(str(sound), "/sound", recursive=True)
    try:
        remote = run("remote", "memory://sound", cache=str(tmp_path / "cache"), cache_gb=1)
    finally:
        store.rm("/sound", recursive=True)
    kept = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "cache").iterdir()}
    assert hashlib.sha256((sound / "shards" / "shard-000000.tar").read_bytes()).hexdigest() in kept
    assert [entry["loss"] for entry in remote if "loss" in entry] == [
        entry["loss"] for entry in run("local", sound) if "loss" in entry
    ]


@pytest.mark.slow
def test_a_diverging_run_stops_and_says_so(dataset: Path, tmp_path: Path) -> None:
    from jobs.train import train

    section = TINY.model_copy(update={"learning_rate": 1e30, "warmup": 0, "clip_norm": None})
    with pytest.raises(ValueError, match=r"training diverged; lower train\.learning_rate"):
        train(dataset, tmp_path / "run", section, SEQUENCE, 0, device="cpu")


@pytest.mark.slow
def test_a_checkpoint_generates_in_plain_transformers(dataset: Path, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    from jobs.score_rows import parse_sequence
    from jobs.train import train
    from jobs.train_vocabulary import require_carried
    from stages.interleave import Modality

    summary = train(dataset, tmp_path / "run", SECTION, SEQUENCE, 0, device="cpu")
    model = LlamaForCausalLM.from_pretrained(summary.checkpoint, local_files_only=True)
    vocabulary = require_carried(Path(summary.checkpoint)).vocabulary
    for prompt in ("[Text]the cat", "[Speech][St1][Pi2][Hu3]"):
        ids = torch.tensor([parse_sequence(prompt, vocabulary)])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, do_sample=False,
                              pad_token_id=0)[0].tolist()  # fmt: skip
        assert len(made) == ids.shape[1] + 60
        pieces = vocabulary.decode(made)
        assert "".join(map(str, pieces)).startswith(prompt)
        if pieces[0].modality is Modality.SPEECH:
            assert len(pieces[0].tokens) > 10
        else:
            assert len(pieces) > 1 or len(pieces[0].text) > len("the cat")


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
def test_a_resumed_run_draws_the_dropout_that_it_would_have_drawn(dataset: Path, tmp_path: Path) -> None:
    from jobs.train import train

    tiny_llama(64, attention_dropout=0.5).save_pretrained(tmp_path / "llama")
    section = TINY.model_copy(update={"model": str(tmp_path / "llama")})
    train(dataset, tmp_path / "whole", section, SEQUENCE, 0, device="cpu")
    train(dataset, tmp_path / "parts", section, SEQUENCE, 0, device="cpu", steps=3)
    train(dataset, tmp_path / "parts", section, SEQUENCE, 0, device="cpu", resume=True)
    losses = [entry["loss"] for entry in entries(tmp_path / "whole") if "loss" in entry]
    assert losses == [entry["loss"] for entry in entries(tmp_path / "parts") if "loss" in entry]


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
