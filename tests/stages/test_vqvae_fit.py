import io
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import stages.vqvae_fit as vqvae_fit
from schemas.clock import Samples
from schemas.records import F0Track
from stages.checkpoints import checkpoint_of
from stages.pitch_vqvae import VqvaePitchConfig
from stages.vqvae import encode, load_vqvae
from stages.vqvae_fit import decode, decoder_shapes, fit_vqvae


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in (("WIDTH", 8), ("EMBEDDING", 8), ("DEPTH", 1), ("CLIPS", 4)):
        monkeypatch.setattr(vqvae_fit, name, value)


def contours(number=12, seed=0, spread=20.0):
    """Network inputs: F0 that swings about 0 Hz, voiced now and then."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        time = np.arange(int(rng.integers(250, 900))) / 200
        hz = spread * np.sin(2 * np.pi * (rng.uniform(0.2, 1) * time + rng.uniform()))
        found.append(np.stack([hz, np.sin(2 * np.pi * 1.5 * time + rng.uniform(0, 6)) > -0.3], 1).astype(np.float32))
    return found


def written(folder, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def error(model, decoder, rows):
    inputs = torch.from_numpy(rows[: len(rows) // 16 * 16].T.copy())[None]
    with torch.inference_mode():
        ids = torch.cdist(encode(model.tensors, model.shape, inputs)[0].T, model.codebook).argmin(1)
        return ((decode(decoder, model.shape, model.codebook[ids].T[None]) - inputs) ** 2).mean(dim=(0, 2)), ids


def test_the_stage_reads_what_fit_writes(tmp_path):
    files = fit_vqvae(lambda: iter(contours()), 20, 3, 0)
    config = VqvaePitchConfig(checkpoint=checkpoint_of(str(written(tmp_path, files))), clusters=20)
    config.check()
    ids = config.setup().ids(F0Track(hz=np.full(200, 120, np.float32), hop=Samples(80)), 16_000)
    assert ids.shape == (13,)
    assert ids.max() < 20


def test_the_layout_is_the_published_one_decoder_included(tmp_path):
    files = fit_vqvae(lambda: iter(contours()), 5, 1, 0)
    config = yaml.safe_load(files["config.yaml"])
    assert config["features"] == "norm_f0_interp,vuv"
    assert config["vq_params"] == {"l_bins": 5, "emb_width": 8, "mu": 0.99, "levels": 1}
    assert config["encoder_params"] == config["decoder_params"]
    assert b"&" not in files["config.yaml"]
    model = load_vqvae(written(tmp_path, files), 5)
    found = torch.load(io.BytesIO(files["model.pt"]), weights_only=True)["model"]
    want = {name: tuple(tensor.shape) for name, tensor in model.tensors.items()} | decoder_shapes(model.shape)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == want
    assert decoder_shapes(model.shape)["decoder.level_blocks.0.model.4.1.weight"] == (8, 8, 4)
    assert all(not tensor.requires_grad for tensor in found.values())


def fitted_errors(folder, rows, heard, clusters, steps):
    """Mean squared errors of F0 and voicing, and how many codes are used."""
    model = load_vqvae(written(folder, fit_vqvae(lambda: iter(rows), clusters, steps, 0)), clusters)
    decoder = torch.load(folder / "model.pt", weights_only=True)["model"]
    errors, ids = zip(*(error(model, decoder, clip) for clip in heard), strict=True)
    return *torch.stack(errors).mean(0).tolist(), len(torch.cat(ids).unique())


def test_training_learns_pitch_first(tmp_path):
    f0, _, _ = fitted_errors(tmp_path, contours(20), contours(5, seed=9), 32, 1)
    assert f0 > 150  # a constant has 200, the square of 20 Hz over 2
    f0, voicing, used = fitted_errors(tmp_path, contours(20), contours(5, seed=9), 32, 200)
    assert f0 < 30
    assert voicing < 0.3
    assert used > 7


@pytest.mark.slow
def test_training_learns_voicing_too(tmp_path, monkeypatch):
    for name, value in (("WIDTH", 16), ("EMBEDDING", 16), ("DEPTH", 2), ("CLIPS", 8)):
        monkeypatch.setattr(vqvae_fit, name, value)
    f0, voicing, used = fitted_errors(tmp_path, contours(40), contours(5, seed=9), 64, 600)
    assert f0 < 20
    assert voicing < 0.15  # a constant has 0.24
    assert used > 30


@pytest.mark.parametrize("factor", [2.0**-6, 2.0**9])
def test_hertz_of_any_size_are_learnt_alike(tmp_path, factor):
    found = []
    for name, scale in (("as they are", np.ones(2, np.float32)), ("scaled", np.array([factor, 1], np.float32))):
        rows = [clip * scale for clip in contours(4)]
        folder = tmp_path / name
        folder.mkdir()
        model = load_vqvae(written(folder, fit_vqvae(lambda rows=rows: iter(rows), 16, 4, 0)), 16)
        decoder = torch.load(folder / "model.pt", weights_only=True)["model"]
        errors, ids = error(model, decoder, rows[0])
        found.append((errors / torch.from_numpy(scale) ** 2, ids.tolist()))
    torch.testing.assert_close(found[1][0], found[0][0])
    assert found[1][1] == found[0][1]
    assert len(set(found[0][1])) > 1


def test_equal_arguments_give_equal_bytes_whatever_the_process_does_otherwise():
    first = fit_vqvae(lambda: iter(contours()), 9, 4, 3)
    torch.manual_seed(77)
    np.random.seed(5)
    torch.set_num_threads(2)
    state = torch.random.get_rng_state()
    try:
        assert fit_vqvae(lambda: iter(contours()), 9, 4, 3) == first
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.random.get_rng_state(), state)
    finally:
        torch.set_num_threads(1)
    assert fit_vqvae(lambda: iter(contours()), 9, 4, 4)["model.pt"] != first["model.pt"]


LITTLE = {
    "one frame": [np.zeros((1, 2), np.float32)],
    "one clip": contours(1),
    "nothing voiced": [np.zeros((300, 2), np.float32)] * 2,
    "a constant": [np.full((300, 2), 1, np.float32)],
    "an empty clip too": [np.zeros((0, 2), np.float32), *contours(1)],
    "enormous": [row * np.float32(1e6) for row in contours(2)],
}


@pytest.mark.parametrize("name", LITTLE)
@pytest.mark.parametrize("clusters", [1, 200])
def test_little_data_gives_a_codebook_too(tmp_path, name, clusters):
    files = fit_vqvae(lambda: iter(LITTLE[name]), clusters, 30, 0)
    model = load_vqvae(written(tmp_path, files), clusters)  # refuses what is not finite
    assert model.codebook.shape == (clusters, 8)


@pytest.mark.parametrize(
    ("rows", "clusters", "steps", "told"),
    [
        ([], 4, 1, "no clip is left"),
        ([np.zeros((0, 2), np.float32)], 4, 1, "no clip is left"),
        ([np.zeros((9, 1), np.float32)], 4, 1, r"got \[9, 1\]"),
        ([np.full((9, 2), np.nan, np.float32)], 4, 1, "must be finite"),
        (contours(1), 0, 1, "got 0"),
        (contours(1), 65_536, 1, "got 65536"),
        (contours(1), 4, 0, "got 0"),
    ],
)
def test_what_cannot_be_learnt_from_is_named(rows, clusters, steps, told):
    with pytest.raises(ValueError, match=told):
        fit_vqvae(lambda: iter(rows), clusters, steps, 0)


@given(lengths=st.lists(st.integers(0, 700), min_size=1, max_size=30), limit=st.integers(1, 8), seed=st.integers(0, 9))
@settings(max_examples=50)
def test_pieces_are_a_bounded_choice_of_the_clips(lengths, limit, seed):
    clips, at = [], 0
    for length in lengths:
        clips.append(np.stack([np.arange(at, at + length), np.ones(length)], 1).astype(np.float32))
        at += length
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vqvae_fit, "PIECE", 300)
        patch.setattr(vqvae_fit, "MAX_PIECES", limit)
        if not any(lengths):
            return
        pieces = vqvae_fit._pieces(lambda: iter(clips), seed)
    assert len(pieces) == min(limit, sum(-(-length // 300) for length in lengths))
    assert all(vqvae_fit.CROP <= len(piece) <= 300 for piece in pieces)
    for piece in pieces:
        assert set(np.diff(piece[:, 0])) <= {0, 1}  # one clip's frames in order, the last of them held
    starts = [piece[0, 0] for piece in pieces]
    assert len(set(starts)) == len(starts)


def test_every_piece_has_the_same_chance():
    clips = [np.full((250, 2), number, np.float32) for number in range(12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vqvae_fit, "MAX_PIECES", 4)
        kept = [piece[0, 0] for seed in range(300) for piece in vqvae_fit._pieces(lambda: iter(clips), seed)]
    counts = np.bincount(np.array(kept, dtype=int), minlength=12)
    assert (np.abs(counts - 100) < 35).all()


def test_a_code_that_nothing_chooses_is_restarted_and_one_in_use_is_not():
    rng = np.random.default_rng(0)
    codes = torch.tensor([[0.0, 0.0], [50.0, 50.0]])
    rows = torch.from_numpy(rng.normal(0, 1, (40, 2)).astype(np.float32))
    ids = torch.zeros(40, dtype=torch.int64)
    book = vqvae_fit.Codebook(codes, codes * 20, torch.full((2,), 20.0))
    books = [book]
    for _ in range(300):
        books.append(vqvae_fit._moved(books[-1], rows, ids, rng, restart=True))
    moved = [float((b.codes[1] - a.codes[1]).norm()) for a, b in pairwise(books)]
    assert 1 <= sum(step > 40 for step in moved) <= 2  # after ln(0.1) / ln(0.99) = 229 steps
    assert max(float((b.codes[0] - a.codes[0]).norm()) for a, b in pairwise(books)) < 0.1
    torch.testing.assert_close(books[-1].codes[0], rows.mean(0), atol=0.05, rtol=0)
    assert (rows - books[-1].codes[1]).norm(dim=1).min() < 0.05  # it stands where a latent was
    for _ in range(300):
        book = vqvae_fit._moved(book, rows, ids, rng, restart=False)
    torch.testing.assert_close(book.codes[1], codes[1])


def test_averages_move_by_a_hundredth():
    rows, ids = torch.tensor([[3.0], [5.0], [1.0]]), torch.tensor([0, 0, 1])
    book = vqvae_fit.Codebook(torch.tensor([[2.0], [1.0]]), torch.tensor([[4.0], [2.0]]), torch.tensor([2.0, 2.0]))
    moved = vqvae_fit._moved(book, rows, ids, np.random.default_rng(0), restart=True)
    torch.testing.assert_close(moved.counts, torch.tensor([1.98 + 0.02, 1.98 + 0.01]))
    torch.testing.assert_close(moved.sums, torch.tensor([[3.96 + 0.08], [1.98 + 0.01]]))
    torch.testing.assert_close(moved.codes, moved.sums / moved.counts[:, None])


def test_the_decoder_is_that_of_the_published_layout():
    shape = vqvae_fit._shape(5)
    rng = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(size, generator=rng) * 0.3 for name, size in decoder_shapes(shape).items()}
    nn, name = torch.nn, "decoder.level_blocks.0.model"
    layers = {"0": nn.Conv1d(8, 8, 3, padding=1)}
    codes = torch.randn(2, 8, 7, generator=rng)
    layers["0"].load_state_dict({key: tensors[f"{name}.0.{key}"] for key in ("weight", "bias")})
    x = layers["0"](codes)
    for level in range(1, 5):
        first, second, up = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 8, 1), nn.ConvTranspose1d(8, 8, 4, 2, 1)
        at = {first: f"{level}.0.model.0.model.1", second: f"{level}.0.model.0.model.3", up: f"{level}.1"}
        for layer, path in at.items():
            layer.load_state_dict({key: tensors[f"{name}.{path}.{key}"] for key in ("weight", "bias")})
        x = up(x + second(first(x.relu()).relu()))
    out = nn.Conv1d(8, 2, 3, padding=1)
    out.load_state_dict({key: tensors[f"decoder.out.{key}"] for key in ("weight", "bias")})
    with torch.inference_mode():
        torch.testing.assert_close(decode(tensors, shape, codes), out(x))
