"""The units stage: one outcome per clip, whatever the batch, in windows or not."""

import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.clock import Samples
from schemas.records import Encoded
from schemas.rejects import Reason, Reject
from stages import units_hubert
from stages.checkpoints import BadCheckpoint, checkpoint_of
from stages.kmeans_quantiser import KmeansQuantiser
from stages.linear_quantiser import LinearQuantiser
from stages.quantisers import QuantiserConfig
from stages.units_hubert import ClipFeatures, HubertFeatures, HubertUnits, HubertUnitsConfig
from tests.feature_builders import checked, clip, noise, npy_artifact, speech

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
NAMES = ("hubert_group", "hubert_layer", "hubert_25hz", "wav2vec2", "wavlm")
CLUSTERS = 20


def checkpoint(name):
    return checkpoint_of(str(CHECKPOINTS / name))


def tuned(name, folder, **more):
    """A config whose codebook is rows of the model's own features, so that all of it is used."""
    given = {"checkpoint": checkpoint(name), "layer": 2, **more}
    rows = HubertFeatures(**given).setup().features(clip(noise(60_000)))
    codebook = npy_artifact(folder / f"{name}.npy", rows[:: len(rows) // CLUSTERS][:CLUSTERS])
    return HubertUnitsConfig(quantiser=QuantiserConfig(kind="kmeans", codebook=codebook, clusters=CLUSTERS), **given)


@pytest.fixture(params=NAMES)
def config(request, tmp_path):
    return tuned(request.param, tmp_path)


def ids_of(outcomes):
    return [outcome.streams[0].ids.tolist() for outcome in outcomes]


def test_each_clip_gets_as_many_ids_as_the_model_has_frames(config):
    grid, stage = config.contract().grid, config.setup()
    least = stage._clips.encoder.receptive
    batch = [checked(noise(n, n), key=f"u{n}") for n in (least, least + grid.hop - 1, least + grid.hop, 16_000)]
    for record, outcome, count in zip(batch, stage.process(batch), (1, 1, 2, None), strict=True):
        (stream,) = outcome.streams
        assert isinstance(outcome, Encoded)
        assert outcome.checked is record
        assert (stream.name, stream.ids.dtype) == ("hubert", np.uint16)
        assert len(stream.ids) == (count or (16_000 - least) // grid.hop + 1)
        assert stream.ids.max() < config.contract().codebook_size
        assert grid.position(len(stream.ids) - 1) < record.clip.num_samples


def test_a_clip_without_a_frame_is_rejected_and_the_others_are_not(config):
    least = config.setup()._clips.encoder.receptive
    lengths = [least - 1, 8000, 1, least, least - 1]
    batch = [checked(noise(n, i), key=f"u{i}") for i, n in enumerate(lengths)]
    outcomes = config.setup().process(batch)
    for i, (length, outcome) in enumerate(zip(lengths, outcomes, strict=True)):
        if length < least:
            assert isinstance(outcome, Reject)
            assert (outcome.key, outcome.stage, outcome.reason) == (f"u{i}", "units", Reason.TOO_SHORT)
            assert f"u{i}: {length} samples" in outcome.detail
            assert str(least) in outcome.detail
        else:
            assert isinstance(outcome, Encoded)
            assert outcome.clip is batch[i].clip
    assert config.setup().process([]) == []
    assert all(isinstance(outcome, Reject) for outcome in config.setup().process(batch[:1]))


records = st.lists(
    st.builds(
        lambda length, seed, spread: checked(noise(length, seed, spread)),
        st.integers(1, 6000),
        st.integers(0, 99),
        st.sampled_from([0, 1, 3000]),
    ),
    min_size=1,
    max_size=5,
)


@cache
def live(name, folder, pack):
    stage = tuned(name, folder).setup()
    stage._clips.encoder.pack = Samples(pack)
    return stage


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("codebooks")


@settings(max_examples=8, deadline=None)
@given(batch=records, random=st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pack", [0, 8000])
def test_order_and_batching_never_change_the_outcome(name, pack, place, batch, random):
    stage = live(name, place, pack)
    want = [stage.process([record])[0] for record in batch]
    order = list(range(len(batch)))
    random.shuffle(order)
    for i, got in zip(order, stage.process([batch[i] for i in order]), strict=True):
        if isinstance(got, Reject):
            assert got == want[i]
        else:
            assert got.streams[0].ids.tolist() == want[i].streams[0].ids.tolist()


class RoundedWhenTogether:
    """An encoder whose features differ in the last bits where clips share a matrix, as those of a GPU may."""

    pack = Samples(60_000)

    def __init__(self, encoder):
        self._encoder = encoder
        self.receptive = encoder.receptive

    def encode(self, waves):
        found = self._encoder.encode(waves)
        if len(waves) == 1:
            return found
        drawn = torch.Generator().manual_seed(len(waves))
        noises = [torch.randn(rows.shape, generator=drawn) for rows in found]
        return [
            r + 1e-6 * n * r.norm(dim=1, keepdim=True) / n.norm(dim=1, keepdim=True)
            for r, n in zip(found, noises, strict=True)
        ]


def on_the_edge(name):
    """A packing stage whose codebook puts every frame of two clips as near as can be to the edge of two cells."""
    features = HubertFeatures(checkpoint=checkpoint(name), layer=3).setup()
    clips = [clip(noise(9000, seed)) for seed in (1, 2)]
    rows = np.concatenate([features.alone(one) for one in clips])
    step = np.random.default_rng(0).normal(size=rows.shape).astype(np.float32) / 64
    features.encoder = RoundedWhenTogether(features.encoder)
    stage = HubertUnits("units", features, KmeansQuantiser(np.concatenate([rows - step, rows + step])))
    return stage, [checked(one.pcm) for one in clips]


@pytest.mark.parametrize("name", ["hubert_group", "hubert_layer"])
def test_rounding_would_flip_ids_on_the_edge_without_the_guard(name, monkeypatch):
    stage, batch = on_the_edge(name)
    alone = [ids_of(stage.process([record]))[0] for record in batch]
    assert ids_of(stage.process(batch)) == alone
    assert ids_of(stage.process(batch[::-1])) == alone[::-1]
    monkeypatch.setattr(units_hubert, "DOUBTFUL", 0.0)
    assert ids_of(stage.process(batch)) != alone


def test_long_clips_pass_in_windows_and_short_ones_do_not(tmp_path):
    config = tuned("hubert_group", tmp_path, window_seconds=1.0, context_seconds=0.0)
    batch = [checked(noise(n, n)) for n in (16_000, 16_001, 50_000, 3_000)]
    outcomes = ids_of(config.setup().process(batch))
    whole = ids_of(replace(config, window_seconds=100.0).setup().process(batch))
    assert [len(ids) for ids in outcomes] == [len(ids) for ids in whole]
    assert outcomes[0] == whole[0]
    assert outcomes[3] == whole[3]
    assert outcomes[2] != whole[2]
    same = (np.array(outcomes[2]) == whole[2]).mean()
    assert same > 0.7
    assert ids_of(config.setup().process(batch[::-1])) == outcomes[::-1]


@pytest.mark.slow
def test_windows_are_quantised_as_their_join_would_be(tmp_path):
    config = tuned("hubert_25hz", tmp_path, window_seconds=0.4, context_seconds=0.1)
    one = clip(noise(90_000))
    rows = config.setup()._clips.alone(one)
    # The nearest of six rows, as a linear layer; the last one is the blank, and opens the second window.
    nearest = rows[[0, 25, 50, 75, 100, 10]]
    linear = LinearQuantiser([(2 * nearest, -(nearest**2).sum(axis=1))])
    assert linear.classes(rows).ids[10] == 5 != linear.assign(rows).ids[10]
    for quantiser in (config.quantiser.load(), linear):
        stage = HubertUnits("units", config.setup()._clips, quantiser)
        assert ids_of(stage.process([checked(one.pcm)])) == [quantiser.assign(rows).ids.tolist()]


def test_what_fit_learns_from_is_what_the_stage_quantises(config):
    features = HubertFeatures(checkpoint=config.checkpoint, layer=config.layer).setup()
    batch = [checked(noise(n, n)) for n in (9_000, 4_000)]
    codebook = np.load(config.quantiser.codebook.path)
    for record, got in zip(batch, ids_of(config.setup().process(batch)), strict=True):
        rows = features.features(record.clip, None)
        assert rows.dtype == np.float32
        assert ((rows[:, None] - codebook) ** 2).sum(2).argmin(1).tolist() == got
    assert features.features(clip(noise(1)), None).shape == (0, 32)


def test_units_of_real_speech_repeat_within_a_sound(tmp_path):
    config = tuned("hubert_layer", tmp_path)
    outcomes = config.setup().process([checked(pcm) for pcm in speech()[:6]])
    ids = np.concatenate([outcome.streams[0].ids for outcome in outcomes])
    repeats = (ids[1:] == ids[:-1]).mean()
    assert repeats > ((np.bincount(ids) / len(ids)) ** 2).sum()
    assert len(np.unique(ids)) > 1


def test_the_contract_says_what_made_the_stream(tmp_path):
    wanted = {"hubert_group": ("hubert", "50/1", 320, 199), "hubert_25hz": ("hubert", "25/1", 640, 359)}
    wanted |= {"wav2vec2": ("wav2vec2", "50/1", 320, 199), "wavlm": ("wavlm", "50/1", 320, 199)}
    for name, facts in wanted.items():
        config = tuned(name, tmp_path)
        contract = config.contract()
        assert (contract.extractor, contract.frame_rate, contract.hop, contract.offset) == facts
        assert (contract.stream, contract.layer, contract.model_sha256) == ("hubert", 2, config.checkpoint.sha256)
        assert (contract.codebook_sha256, contract.codebook_size) == (config.quantiser.codebook.sha256, CLUSTERS)
        assert contract.chunking == "windows of 100 s, 5 s of context"


def test_a_linear_quantiser_has_an_id_for_its_blank():
    linear = QuantiserConfig(
        kind="linear", codebook=checkpoint_of(str(CHECKPOINTS / "quantisers" / "linear.pt")), clusters=CLUSTERS
    )
    config = HubertUnitsConfig(checkpoint=checkpoint("hubert_25hz"), layer=3, quantiser=linear)
    config.check()
    assert config.contract().codebook_size == CLUSTERS + 1
    (outcome,) = config.setup().process([checked(noise(20_000))])
    assert outcome.streams[0].ids.max() <= CLUSTERS


def test_configs_travel(config):
    features = HubertFeatures(checkpoint=config.checkpoint, layer=2)
    assert pickle.loads(pickle.dumps((config, features))) == (config, features)


def test_check_finds_what_setup_would(config, tmp_path):
    config.check()
    HubertFeatures(checkpoint=config.checkpoint, layer=2).check()
    narrow = QuantiserConfig(
        kind="kmeans", codebook=npy_artifact(tmp_path / "narrow.npy", np.ones((3, 8), np.float32)), clusters=3
    )
    for bad in (replace(config, layer=9), replace(config, quantiser=narrow)):
        for use in (bad.check, bad.setup):
            with pytest.raises(BadCheckpoint, match=r"layer 9|narrow\.npy"):
                use()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"layer": -1}, "layer must not be negative, got -1"),
        ({"window_seconds": 0.0}, r"of 0\.0 s"),
        ({"window_seconds": float("inf")}, "inf"),
        ({"window_seconds": 10.0, "context_seconds": 2.6}, r"got 2\.6 s of 10\.0 s"),
        ({"context_seconds": -1.0}, "-1"),
        ({"precision": "int8"}, "'int8'"),
    ],
)
def test_settings_that_make_no_sense_are_named(config, wrong, told):
    with pytest.raises(ValueError, match=told):
        replace(config, **wrong)
    with pytest.raises(ValueError, match=told):
        replace(HubertFeatures(checkpoint=config.checkpoint, layer=2), **wrong)


def test_windows_follow_the_seconds_of_the_config(config):
    made = ClipFeatures.of(replace(config, window_seconds=1.5, context_seconds=0.25), None)
    assert not made.is_long(clip(noise(24_000)))
    assert made.is_long(clip(noise(24_001)))


def test_the_encoder_is_given_full_scale_as_one():
    heard = units_hubert._wave(clip(np.array([-32768, 0, 1, 16384], np.int16)))
    assert heard.dtype == np.float32
    assert heard.tolist() == [-1.0, 0.0, 1 / 32768, 0.5]
