"""The tiny CTC checkpoint and what it was trained with.

Oracles: PyTorch's CTC loss, all paths one by one, the synthesiser's word times.
"""

import json
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.ctc_tiny_data import (
    HELD_OUT_TEXTS,
    HELD_OUT_VOICES,
    RATE,
    TRAINING_VOICES,
    letters,
    tokens_of,
    training_lines,
)

torch = pytest.importorskip("torch")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("transformers")
F = torch.nn.functional

from scripts.ctc_tiny_judge import aligned, emissions  # noqa: E402
from scripts.ctc_tiny_lattice import Group, Lattice, lattice_of, posteriors  # noqa: E402
from scripts.ctc_tiny_training import VOCAB, build, logits_of  # noqa: E402

FOLDER = Path(__file__).parents[1] / "checkpoints" / "ctc_tiny"
ROWS = [json.loads(line) for line in (FOLDER / "heldout" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]
PLAIN = [row for row in ROWS if all(letters(word) == word.upper().strip(",") for word in row["text"].split())]


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import Wav2Vec2ForCTC

    loaded, report = Wav2Vec2ForCTC.from_pretrained(FOLDER, output_loading_info=True, local_files_only=True)
    assert not any(report.values()), report
    return loaded.eval()


def wave_of(row: dict[str, Any]) -> np.ndarray:
    wave, rate = soundfile.read(FOLDER / "heldout" / row["audio"], dtype="float32")
    assert rate == RATE
    return wave


def words_of(row: dict[str, Any]) -> list[str]:
    return [letters(word) for word in row["text"].split()]


# ---------------------------------------------------------------- the lattice


def unbounded(labels: list[int], frames: int) -> Lattice:
    states = [0]
    for label in labels:
        states += [label, 0]
    size = len(states)
    return Lattice(labels=np.array(states), low=np.zeros(size, np.int64), high=np.full(size, frames))


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 10**6), st.integers(0, 3)
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_without_bounds_the_gradient_is_that_of_ctc(labels: list[int], seed: int, spare: int) -> None:
    frames = 2 * len(labels) + spare
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, frames, 5)).astype(np.float32) * 3)
    logits.requires_grad_()
    log_probs = torch.log_softmax(logits, dim=-1)
    wanted, reached = posteriors(log_probs.detach(), [unbounded(labels, frames)])
    assert bool(reached.all())
    (mine,) = torch.autograd.grad(-(wanted * log_probs).sum(), logits, retain_graph=True)
    theirs = F.ctc_loss(
        log_probs.transpose(0, 1), torch.tensor([labels]), torch.tensor([frames]), torch.tensor([len(labels)]),
        reduction="sum",
    )  # fmt: skip
    (reference,) = torch.autograd.grad(theirs, logits)
    assert torch.allclose(mine, reference, atol=1e-4)


def by_all_paths(log_probs: np.ndarray, lattice: Lattice) -> np.ndarray:
    frames = len(log_probs)
    size = len(lattice.labels)
    share = np.zeros_like(log_probs, dtype=np.float64)
    for path in product(range(size), repeat=frames):
        steps = [(b - a, lattice.labels[a], lattice.labels[b]) for a, b in pairwise(path)]
        legal = path[0] < 2 and path[-1] >= size - 2
        legal &= all(step in (0, 1) or (step == 2 and to != 0 and to != of) for step, of, to in steps)
        legal &= all(lattice.low[state] <= frame < lattice.high[state] for frame, state in enumerate(path))
        if legal:
            chance = np.exp(sum(log_probs[frame, lattice.labels[state]] for frame, state in enumerate(path)))
            for frame, state in enumerate(path):
                share[frame, lattice.labels[state]] += chance
    return share / max(share[0].sum(), 1e-300)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_with_bounds_all_allowed_paths_count(data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(1, 2), min_size=1, max_size=2))
    free = unbounded(labels, frames := data.draw(st.integers(3, 5)))
    low = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(free.low), max_size=len(free.low))))
    high = np.array(data.draw(st.lists(st.integers(2, 5), min_size=len(free.low), max_size=len(free.low))))
    lattice = Lattice(labels=free.labels, low=low, high=high)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    log_probs = np.log(rng.dirichlet(np.ones(3), frames)).astype(np.float32)
    wanted, reached = posteriors(torch.from_numpy(log_probs)[None], [lattice])
    expected = by_all_paths(log_probs, lattice)
    assert bool(reached[0]) == bool(expected.any())
    assert np.allclose(wanted[0].numpy(), expected, atol=1e-4)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(6, 30)), min_size=1, max_size=4), st.integers(0, 10**6)
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_a_word_is_read_from_its_start_and_only_inside_it(spans: list[tuple[int, int]], seed: int) -> None:
    words = ["CAT", "JUMP", "HOLD", "BY"][: len(spans)]
    groups, spans_in_frames, at = [], [], 1
    for word, (gap, length) in zip(words, spans, strict=True):
        spans_in_frames.append((at + gap, at + gap + length))
        groups.append(Group((word,), (at + gap) / 50, (at + gap + length) / 50))
        at += gap + length
    lattice = lattice_of(groups, VOCAB, at + 4)
    noise = np.random.default_rng(seed).normal(size=(1, at + 4, len(VOCAB))).astype(np.float32)
    wanted, reached = posteriors(torch.log_softmax(torch.from_numpy(noise), dim=-1), [lattice])
    assert bool(reached.all())
    for word, (start, end) in zip(words, spans_in_frames, strict=True):
        mine = wanted[0, :, [VOCAB[letter] for letter in word]]
        # every word here has its own letters
        assert mine[:start].sum() < 1e-4
        assert mine[end:].sum() < 1e-4
        assert mine[start : start + 2, 0].sum() > 0.999
        assert mine[end - 4 : end, -1].sum() > 0.999


def test_words_that_cannot_fit_are_left_out_of_the_loss() -> None:
    lattice = lattice_of([Group(("SEEING",), 0.0, 0.02)], VOCAB, 3)
    wanted, reached = posteriors(torch.log_softmax(torch.zeros(1, 3, len(VOCAB)), dim=-1), [lattice])
    assert not bool(reached.any())
    assert wanted.sum() == 0


# ---------------------------------------------------------------- the model


def test_the_fast_forward_pass_is_the_models_own() -> None:
    model = build(1)
    waves = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 5_000)).astype(np.float32))
    with torch.inference_mode():
        assert torch.allclose(logits_of(model, waves), model(waves).logits, atol=1e-4)


def test_the_folder_has_the_labels_and_settings_of_the_usual_checkpoint(model: Any) -> None:
    from transformers import Wav2Vec2Processor

    processor = Wav2Vec2Processor.from_pretrained(FOLDER, local_files_only=True)
    assert processor.feature_extractor.sampling_rate == 16_000
    assert processor.tokenizer("I'M HERE").input_ids == [10, 27, 17, 4, 11, 5, 13, 5]
    assert processor.tokenizer.pad_token_id == model.config.pad_token_id == 0
    assert len(processor.tokenizer) == model.config.vocab_size == 32
    assert np.prod(model.config.conv_stride) == 320
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 3_000_000


def test_word_starts_on_voices_never_heard(model: Any) -> None:
    errors = []
    for row in PLAIN:
        starts, _ = aligned(emissions(model, wave_of(row)), words_of(row), VOCAB)
        errors += [abs(at - gold) for at, (_, gold, _) in zip(starts, row["words"], strict=True) if gold is not None]
    assert len(errors) > 50
    assert median(errors) <= 0.02
    assert np.mean(np.array(errors) <= 0.05) >= 0.95


def test_the_right_transcript_scores_best(model: Any) -> None:
    for row in PLAIN[:5]:
        log_probs = emissions(model, wave_of(row))
        scores = {other["text"]: aligned(log_probs, words_of(other), VOCAB)[1] for other in PLAIN}
        best = max(scores, key=lambda text: scores[text])
        assert best == row["text"]
        assert scores[best] > sorted(scores.values())[-2] + 0.5


def test_half_a_minute_reads_like_a_clip(model: Any) -> None:
    waves = [wave_of(row) for row in PLAIN]
    starts, _ = aligned(emissions(model, np.concatenate(waves)), [w for row in PLAIN for w in words_of(row)], VOCAB)
    shifts = np.cumsum([0, *(len(wave) / RATE for wave in waves[:-1])])
    gold = [(start, shift) for row, shift in zip(PLAIN, shifts, strict=True) for _, start, _ in row["words"]]
    errors = [abs(at - start - shift) for at, (start, shift) in zip(starts, gold, strict=True) if start is not None]
    assert sum(map(len, waves)) > 20 * RATE
    assert median(errors) <= 0.02


def test_programs_that_do_not_normalise_find_the_words_too(model: Any) -> None:
    errors = []
    for row in PLAIN:
        with torch.inference_mode():
            log_probs = torch.log_softmax(model(torch.from_numpy(wave_of(row))[None]).logits[0], dim=-1).numpy()
        starts, _ = aligned(log_probs, words_of(row), VOCAB)
        errors += [abs(at - gold) for at, (_, gold, _) in zip(starts, row["words"], strict=True) if gold is not None]
    assert median(errors) <= 0.03


# ---------------------------------------------------------------- the held-out set


def test_held_out_means_held_out() -> None:
    trained = {" ".join(t.written for t in line.tokens).lower() for lines in training_lines(40, 1) for line in lines}
    assert not {row["text"].lower() for row in ROWS} & trained
    assert {row["voice"] for row in ROWS} == set(HELD_OUT_VOICES)
    assert not set(HELD_OUT_VOICES) & set(TRAINING_VOICES)


def test_held_out_rows_have_times_in_order() -> None:
    texts = {" ".join(token.written for token in tokens_of(text)) for text in HELD_OUT_TEXTS}
    for row in ROWS:
        assert row["text"] in texts
        assert [word for word, _, _ in row["words"]] == row["text"].split()
        starts = [start for _, start, _ in row["words"] if start is not None]
        assert starts == sorted(starts)
        assert 0.1 <= starts[0] <= 0.3
        assert starts[-1] < len(wave_of(row)) / RATE
        assert all(start < end for _, start, end in row["words"] if end is not None)
    assert sum(any(not letters(word) for word in row["text"].split()) for row in ROWS) >= 4
