import pickle
import random

import numpy as np
import pytest

from schemas.clock import frames_covering
from stages.artifacts import artifact_of, load_npy, verified_bytes
from stages.kmeans import fit_kmeans
from stages.mfcc import unit_features
from stages.units_mfcc import MfccUnitsConfig
from tests.feature_builders import checked, harmonic, noise, npy_artifact, speech


@pytest.fixture
def config(tmp_path):
    rows = np.concatenate([unit_features(noise(40_000, seed)) for seed in range(3)])
    return MfccUnitsConfig(codebook=npy_artifact(tmp_path / "units.npy", fit_kmeans(rows, 20, 0)))


def records():
    lengths = (1, 639, 640, 641, 16_000, 33_333)
    return [checked(noise(n, seed), key=f"u{seed}") for seed, n in enumerate(lengths)]


def test_the_stream_has_one_id_per_frame_in_range(config):
    batch = records()
    for record, outcome in zip(batch, config.setup().process(batch), strict=True):
        (stream,) = outcome.streams
        assert outcome.checked is record
        assert stream.name == "hubert"
        assert stream.ids.dtype == np.uint16
        assert stream.ids.shape == (frames_covering(record.clip.num_samples, 640),)
        assert stream.ids.max() < config.contract().codebook_size


def test_order_and_batching_never_change_the_units(config):
    batch = records()
    want = {r.clip.utterance.key: r.streams[0].ids.tolist() for r in config.setup().process(batch)}
    for size in (1, 2, 5):
        random.Random(size).shuffle(batch)
        stage = config.setup()
        apart = [o for i in range(0, len(batch), size) for o in stage.process(batch[i : i + size])]
        assert {r.clip.utterance.key: r.streams[0].ids.tolist() for r in apart} == want


def test_units_tell_sounds_apart_and_repeat_within_one(tmp_path):
    buzz, hiss = harmonic(120, 1.0), noise(16_000)
    pcm = np.concatenate([buzz, hiss, buzz, hiss])
    codebook = npy_artifact(tmp_path / "c.npy", fit_kmeans(unit_features(pcm), 2, 0))
    (outcome,) = MfccUnitsConfig(codebook=codebook).setup().process([checked(pcm)])
    quarters = [round(float(part.mean())) for part in np.split(outcome.streams[0].ids, 4)]
    assert quarters[0] == quarters[2] != quarters[1] == quarters[3]


def test_units_of_real_speech_are_neither_constant_nor_noise(tmp_path):
    clips = speech()
    codebook = npy_artifact(tmp_path / "c.npy", fit_kmeans(np.concatenate([unit_features(p) for p in clips]), 50, 0))
    outcomes = MfccUnitsConfig(codebook=codebook).setup().process([checked(pcm) for pcm in clips])
    ids = np.concatenate([outcome.streams[0].ids for outcome in outcomes])
    assert len(np.unique(ids)) == 50
    repeats = (ids[1:] == ids[:-1]).mean()
    chance = ((np.bincount(ids) / len(ids)) ** 2).sum()
    assert repeats > 3 * chance


def test_the_contract_says_what_made_the_stream(config):
    contract = config.contract()
    assert (contract.stream, contract.extractor, contract.model_sha256) == ("hubert", "mfcc-kmeans", "")
    assert (contract.frame_rate, contract.hop, contract.offset) == ("25/1", 640, 320)
    assert contract.codebook_sha256 == config.codebook.sha256
    assert contract.codebook_size == len(load_npy(config.codebook, 2, np.float32))


def test_the_config_travels(config):
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_codebook_of_another_shape_is_named(tmp_path):
    config = MfccUnitsConfig(codebook=npy_artifact(tmp_path / "odd.npy", np.zeros((5, 7), np.float32)))
    with pytest.raises(ValueError, match=r"odd\.npy"):
        config.setup()


def test_a_changed_artifact_is_refused_with_both_hashes(tmp_path):
    path = tmp_path / "units.npy"
    artifact = npy_artifact(path, np.zeros((5, 39), np.float32))
    npy_artifact(path, np.ones((5, 39), np.float32))
    with pytest.raises(ValueError, match="interloom fit") as caught:
        verified_bytes(artifact)
    for part in (str(path), artifact.sha256, artifact_of(str(path)).sha256):
        assert part in str(caught.value)


def test_a_missing_artifact_is_named(tmp_path):
    artifact = npy_artifact(tmp_path / "gone.npy", np.zeros(1, np.float32))
    (tmp_path / "gone.npy").unlink()
    with pytest.raises(ValueError, match=r"gone\.npy is missing"):
        verified_bytes(artifact)


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"not numpy at all"])
def test_what_is_no_npy_is_named(tmp_path, data):
    (tmp_path / "bad.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.npy"):
        load_npy(artifact_of(str(tmp_path / "bad.npy")), 2, np.float32)


def test_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"evil\.npy.*pickle"):
        load_npy(artifact_of(str(tmp_path / "evil.npy")), 1, np.float32)


def test_another_dtype_or_rank_is_named(tmp_path):
    artifact = npy_artifact(tmp_path / "a.npy", np.zeros((2, 2), np.float64))
    with pytest.raises(ValueError, match="float32 array of rank 2"):
        load_npy(artifact, 2, np.float32)
