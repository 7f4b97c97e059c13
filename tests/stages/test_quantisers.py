import shutil
from itertools import pairwise
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file
from sklearn.cluster import KMeans

from schemas.canonical import rng_for
from schemas.records import Artifact
from stages import kmeans_quantiser, linear_quantiser
from stages.artifacts import artifact_of
from stages.checkpoints import BadCheckpoint
from stages.kmeans import assign
from stages.kmeans_quantiser import KmeansQuantiser
from stages.linear_quantiser import LinearQuantiser, linear_layers, without_blanks
from stages.quantisers import QuantiserConfig

FILES = Path(__file__).parent.parent / "checkpoints" / "quantisers"
KMEANS_FILES = ["kmeans.npy", "kmeans.safetensors", "kmeans.bin", "kmeans_joblib_1_1.bin"]
CENTROIDS = np.load(FILES / "kmeans.npy")


def config(path=FILES / "kmeans.npy", kind="kmeans", clusters=20, **fields):
    return QuantiserConfig(kind=kind, codebook=artifact_of(str(path)), clusters=clusters, **fields)


def rows(count, width=32, seed=0, spread=2.0):
    return (spread * rng_for(seed, "rows").normal(size=(count, width))).astype(np.float32)


# ---------------------------------------------------------------- k-means


@pytest.mark.parametrize("name", KMEANS_FILES)
def test_every_layout_gives_the_same_ids(name):
    features = rows(200)
    quantiser = config(FILES / name).load()
    assert (quantiser.width, quantiser.size) == (32, 20)
    np.testing.assert_array_equal(quantiser.assign(features).ids, assign(features, CENTROIDS))
    config(FILES / name).check(32)


def test_ids_are_those_of_scikit_learn():
    features = rows(3000, 40)
    model = KMeans(30, n_init=1, random_state=0).fit(features[:500])
    found = KmeansQuantiser(model.cluster_centers_).assign(features)
    assert found.ids.dtype == np.uint16
    assert found.margin.dtype == np.float32
    np.testing.assert_array_equal(found.ids, model.predict(features))


values = st.floats(-1e4, 1e4, width=32)


@st.composite
def rows_and_codebook(draw):
    columns = draw(st.integers(1, 20))
    elements = draw(st.sampled_from([values, st.sampled_from([0.0, 1.0, 2.0, 3.0])]))
    codebook = draw(hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(columns)), elements=elements))
    features = draw(hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(columns)), elements=elements))
    return features, codebook


@given(case=rows_and_codebook(), cut=st.integers(0, 12))
def test_the_nearest_centroid_wins_in_any_company(case, cut):
    """The reference measures each distance by itself; whole numbers make ties and equal centroids common."""
    features, codebook = case
    quantiser = KmeansQuantiser(codebook)
    ids = quantiser.assign(features).ids
    np.testing.assert_array_equal(ids, assign(features, codebook))
    apart = [quantiser.assign(features[:cut]).ids, quantiser.assign(features[cut:]).ids]
    np.testing.assert_array_equal(ids, np.concatenate(apart))


@pytest.mark.parametrize("offset", [0, 1000, 30_000])
def test_all_but_tied_rows_are_settled_one_by_one(offset):
    """Half-way between two centroids the matrix product's last bits decide, and differ with the number of rows."""
    codebook = (offset + rng_for(1).normal(size=(100, 39))).astype(np.float32)
    pairs = rng_for(2).integers(100, size=(2000, 2))
    features = codebook[pairs].mean(axis=1, dtype=np.float32)
    quantiser = KmeansQuantiser(codebook)
    ids = quantiser.assign(features).ids
    np.testing.assert_array_equal(ids, assign(features, codebook))
    np.testing.assert_array_equal(ids[::50], [quantiser.assign(row[None]).ids[0] for row in features[::50]])


def test_equal_centroids_are_one_and_leave_no_doubt():
    codebook = np.array([[4, 0], [1, 1], [1, 1], [4, 0]], np.float32)
    found = KmeansQuantiser(codebook).assign(np.array([[1, 1], [4, 0]], np.float32))
    assert found.ids.tolist() == [1, 0]
    assert (found.margin > 0.1).all()


def test_one_centroid_is_never_in_doubt():
    found = KmeansQuantiser(np.ones((1, 3), np.float32)).assign(rows(4, 3))
    assert found.ids.tolist() == [0] * 4
    assert np.isinf(found.margin).all()


@given(case=rows_and_codebook(), seed=st.integers(0, 99), exact=st.booleans())
@settings(max_examples=60)
def test_a_change_within_the_margin_never_changes_the_id(case, seed, exact):
    features, codebook = case
    quantiser = KmeansQuantiser(codebook)
    if not exact:
        quantiser._spans = quantiser._bounds()
    found = quantiser.assign(features)
    for row, number, margin in zip(
        features.astype(np.float64), found.ids, found.margin.astype(np.float64), strict=True
    ):
        others = codebook.astype(np.float64)
        steps = np.concatenate([others - others[number], rng_for(seed).normal(size=(5, len(row)))])
        lengths = np.linalg.norm(steps, axis=1)
        steps = steps[lengths > 0] / lengths[lengths > 0, None]
        moved = row + steps * min(margin, 1e6) * np.linalg.norm(row) * (1 - 1e-5)
        distances = ((moved[:, None] - others) ** 2).sum(-1)
        slack = 1e-9 * (distances.max(initial=0) + 1)
        assert (distances[:, number] <= distances.min(axis=1) + slack).all()


def test_the_margin_is_no_smaller_than_it_must_be():
    """A step just longer than the margin, towards the nearest plane, does change the id."""
    codebook, features = rows(30, 8, 1), rows(300, 8, 2)
    quantiser = KmeansQuantiser(codebook)
    found = quantiser.assign(features)
    for row, number, margin in zip(features.astype(np.float64), found.ids, found.margin, strict=True):
        steps = np.delete(codebook.astype(np.float64) - codebook[number], number, axis=0)
        steps /= np.linalg.norm(steps, axis=1)[:, None]
        moved = row + steps * float(margin) * np.linalg.norm(row) * (1 + 1e-4)
        ids = assign(moved.astype(np.float32), codebook)
        assert (ids != number).any()


def test_many_centroids_get_a_lower_bound_of_the_margin(monkeypatch):
    codebook, features = rows(30, 8, 1), rows(100, 8, 2)
    exact = KmeansQuantiser(codebook).assign(features)
    monkeypatch.setattr(kmeans_quantiser, "SPANS_KEPT", 10)
    monkeypatch.setattr(kmeans_quantiser, "ENTRIES_AT_ONCE", 90)  # three rows at once
    bound = KmeansQuantiser(codebook).assign(features)
    np.testing.assert_array_equal(exact.ids, bound.ids)
    assert (bound.margin <= exact.margin).all()
    assert (bound.margin > exact.margin / 10).all()


@pytest.mark.parametrize("kind", ["kmeans", "linear"])
def test_no_rows_give_no_ids(kind):
    found = config(FILES / ("kmeans.npy" if kind == "kmeans" else "linear.pt"), kind).load().assign(rows(0))
    assert found.ids.shape == found.margin.shape == (0,)
    assert found.ids.dtype == np.uint16


@pytest.mark.parametrize("bad", [rows(3, 31), rows(3)[0], np.full((2, 32), np.nan, np.float32)])
@pytest.mark.parametrize(("name", "kind"), [("kmeans.npy", "kmeans"), ("linear.pt", "linear")])
def test_features_that_do_not_fit_are_an_error(bad, name, kind):
    with pytest.raises(ValueError, match=r"do not fit a codebook 32 wide|not finite"):
        config(FILES / name, kind).load().assign(bad)


# ---------------------------------------------------------------- linear


def reference(layers):
    """The published shape of the model, in PyTorch."""
    parts = []
    for weight, bias in layers:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        parts += [linear, torch.nn.LeakyReLU()]
    return torch.nn.Sequential(*parts[:-1])


def layers_of(sizes, seed=0):
    rng = rng_for(seed, "layers")
    return [
        ((1.5 * rng.normal(size=(b, a)) / np.sqrt(a)).astype(np.float32), rng.normal(size=b).astype(np.float32))
        for a, b in pairwise(sizes)
    ]


@given(seed=st.integers(0, 50), sizes=st.lists(st.integers(2, 12), min_size=2, max_size=5))
@settings(deadline=None)
def test_classes_are_those_of_pytorch(seed, sizes):
    layers = layers_of(sizes, seed)
    features = rows(50, sizes[0], seed)
    with torch.no_grad():
        scores = reference(layers).double()(torch.from_numpy(features).double()).numpy()
    np.testing.assert_array_equal(LinearQuantiser(layers).classes(features).ids, scores.argmax(axis=1))


def test_the_file_of_the_release_is_read():
    quantiser = config(FILES / "linear.pt", "linear").load()
    assert (quantiser.width, quantiser.size) == (32, 21)
    features = rows(2000)
    told = torch.load(FILES / "linear.pt", weights_only=True)["model_weight"]
    with torch.no_grad():
        scores = reference(linear_layers(told, "linear.pt"))(torch.from_numpy(features)).numpy()
    found = quantiser.assign(features)
    classes = scores.argmax(axis=1)
    assert 50 < (classes == 20).sum() < 1000
    np.testing.assert_array_equal(found.ids[classes != 20], classes[classes != 20])
    assert found.ids.max() < 20


@pytest.mark.parametrize(
    ("ids", "want"),
    [
        ([3, 9, 9, 4, 9], [3, 3, 3, 4, 4]),
        ([9, 9, 5, 9], [5, 5, 5, 5]),
        ([9, 9], [9, 9]),
        ([9], [9]),
        ([1, 2], [1, 2]),
        ([], []),
    ],
)
def test_blanks_take_the_id_to_their_left_else_to_their_right(ids, want):
    found = without_blanks(np.array(ids, np.uint16), 9)
    assert found.tolist() == want
    assert found.dtype == np.uint16


@given(st.lists(st.integers(0, 3), max_size=30))
def test_blanks_inside_follow_the_release(ids):
    """The release copies left neighbours over blanks, wrapping around, until no blank is left."""
    array = np.array(ids, np.uint16)
    found = without_blanks(array, 3)
    spoken = np.flatnonzero(array != 3)
    if len(spoken) == 0:
        assert found.tolist() == ids
        return
    rolled = array.copy()
    while (rolled == 3).any():
        rolled = np.where(rolled == 3, np.roll(rolled, 1), rolled)
    np.testing.assert_array_equal(found[spoken[0] :], rolled[spoken[0] :])
    assert (found[: spoken[0]] == array[spoken[0]]).all()


def test_blank_frames_at_a_block_border_still_see_their_left_neighbour(monkeypatch):
    quantiser = config(FILES / "linear.pt", "linear").load()
    features = rows(500)
    want = quantiser.assign(features)
    monkeypatch.setattr(linear_quantiser, "ROWS_AT_ONCE", 7)
    found = quantiser.assign(features)
    np.testing.assert_array_equal(found.ids, want.ids)
    np.testing.assert_allclose(found.margin, want.margin, rtol=1e-2)


def test_the_margin_of_a_linear_id_is_where_the_two_best_classes_meet():
    """One layer is exactly linear, so a step of the margin along the gradient gives a tie."""
    (weight, bias), *_ = layers = layers_of([8, 12])
    features = rows(200, 8)
    found = LinearQuantiser(layers).classes(features)
    scores = features.astype(np.float64) @ weight.T.astype(np.float64) + bias
    order = np.argsort(scores, axis=1)
    for row, best, second, margin in zip(features, order[:, -1], order[:, -2], found.margin, strict=True):
        step = weight[best].astype(np.float64) - weight[second]
        moved = row - step / np.linalg.norm(step) * float(margin) * np.linalg.norm(row)
        assert weight[best] @ moved + bias[best] == pytest.approx(weight[second] @ moved + bias[second], abs=1e-4)


def test_the_margin_of_deep_layers_is_that_of_pytorchs_gradient():
    layers = layers_of([16, 14, 12, 9])
    features = rows(100, 16)
    inputs = torch.from_numpy(features).double().requires_grad_()
    best = reference(layers).double()(inputs).topk(2, dim=1).values
    (slope,) = torch.autograd.grad((best[:, 0] - best[:, 1]).sum(), inputs)
    want = (best[:, 0] - best[:, 1]) / slope.norm(dim=1) / inputs.norm(dim=1)
    np.testing.assert_allclose(LinearQuantiser(layers).classes(features).margin, want.detach().numpy(), rtol=1e-3)


def test_small_changes_keep_linear_ids_whose_margin_is_larger():
    layers = layers_of([32, 28, 24, 21])
    features = rows(3000)
    found = LinearQuantiser(layers).classes(features)
    step = rng_for(5).normal(size=features.shape)
    step *= 1e-3 * np.linalg.norm(features, axis=1)[:, None] / np.linalg.norm(step, axis=1)[:, None]
    moved = LinearQuantiser(layers).classes((features + step).astype(np.float32))
    flipped = found.ids != moved.ids
    assert flipped.any()
    assert found.margin[flipped].max() < 1.1e-3


def test_doubtful_linear_ids_come_from_float64():
    """Two classes whose scores differ by less than float32 holds."""
    weight = np.array([[1, 1], [1, 1.0000001], [0, 0]], np.float32)
    found = LinearQuantiser([(weight, np.zeros(3, np.float32))]).classes(np.array([[1e4, 1], [1e4, -1]], np.float32))
    assert found.ids.tolist() == [1, 0]


@pytest.mark.parametrize("outer", ["model_weight", "model_state_dict", None])
@pytest.mark.parametrize("prefix", ["", "encoder.", "quantizer.encoder."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_layouts_of_the_same_layers_are_read(tmp_path, outer, prefix, suffix):
    told = torch.load(FILES / "linear.pt", weights_only=True)["model_weight"]
    tensors = {prefix + name: value for name, value in told.items()}
    path = tmp_path / f"q{suffix}"
    if suffix == ".safetensors":
        save_file({name: value.numpy() for name, value in tensors.items()}, path)
    else:
        torch.save(tensors if outer is None else {outer: tensors, "model_cfg": {}}, path)
    found = config(path, "linear").load().assign(rows(50))
    np.testing.assert_array_equal(found.ids, config(FILES / "linear.pt", "linear").load().assign(rows(50)).ids)


# ---------------------------------------------------------------- what is wrong with a file


@pytest.mark.parametrize("name", KMEANS_FILES)
def test_another_number_of_centroids_is_named(name):
    with pytest.raises(BadCheckpoint, match=r"has 20 centroids, the recipe says 500 clusters"):
        config(FILES / name, clusters=500).check(32)


def test_a_codebook_trained_here_may_be_smaller_than_asked_for():
    small = config(clusters=500, trained=True)
    small.check(32)
    assert small.size == small.load().size == 20
    with pytest.raises(BadCheckpoint, match="has 20 centroids, the recipe says 19"):
        config(clusters=19, trained=True).check(32)


def test_another_number_of_classes_is_named():
    with pytest.raises(BadCheckpoint, match=r"has 21 classes, the recipe says 21 clusters, hence 22 with the blank"):
        config(FILES / "linear.pt", "linear", clusters=21).check(32)


@pytest.mark.parametrize(("name", "kind"), [("kmeans.bin", "kmeans"), ("linear.pt", "linear")])
def test_another_width_is_named(name, kind):
    with pytest.raises(BadCheckpoint, match=r"is for features 32 wide, but the layer's features are 1024 wide"):
        config(FILES / name, kind).check(1024)


@pytest.mark.parametrize("name", [*KMEANS_FILES, "linear.pt"])
@pytest.mark.parametrize("kind", ["kmeans", "linear"])
def test_a_missing_changed_or_cut_file_is_named(tmp_path, name, kind):
    path = tmp_path / name
    shutil.copy(FILES / name, path)
    wanted = config(path, kind)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"?")
    with pytest.raises(BadCheckpoint, match="sha256"):
        wanted.check(32)
    path.write_bytes(data[:100])
    with pytest.raises(BadCheckpoint) as caught:
        config(path, kind).check(32)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(BadCheckpoint, match="is missing"):
        wanted.load()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((20, 32, 1), np.float32),
        np.zeros(20, np.float32),
        np.zeros((20, 32), np.int64),
        np.zeros((20, 0), np.float32),
        np.full((20, 32), np.nan, np.float32),
        np.full((20, 32), 1e300),
    ],
)
def test_what_is_no_codebook_is_named(tmp_path, array):
    np.save(tmp_path / "odd.npy", array)
    with pytest.raises(BadCheckpoint, match=r"odd\.npy .*(must hold centroids|not finite)"):
        config(tmp_path / "odd.npy").check(32)


def test_an_npy_file_of_objects_is_never_unpickled(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadCheckpoint, match=r"evil\.npy is damaged, or an \.npy file of objects"):
        config(tmp_path / "evil.npy").check(32)


def test_several_tensors_without_a_name_that_says_which_are_named(tmp_path):
    save_file({"a": CENTROIDS, "b": CENTROIDS}, tmp_path / "two.safetensors")
    with pytest.raises(BadCheckpoint, match=r"two\.safetensors holds 2 tensors"):
        config(tmp_path / "two.safetensors").check(32)
    save_file({"a": CENTROIDS[:3], "centroids": CENTROIDS}, tmp_path / "named.safetensors")
    config(tmp_path / "named.safetensors").check(32)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("2.bias"), "lacks its weight or bias"),
        (
            lambda t: t.update({"2.weight": t["2.weight"][:, :-1]}),
            "a layer takes 27 numbers, the one before it gives 28",
        ),
        (lambda t: t.update({"2.bias": t["2.bias"][:-1]}), "do not fit"),
        (lambda t: t.update({"norm.gamma": t["2.bias"]}), "norm.gamma"),
        (lambda t: t.update({"0.bias": t["0.bias"] * np.nan}), "not finite"),
        (lambda t: t.clear(), "holds no layers"),
        (lambda t: t.update({"1.weight": "text"}), "1.weight"),
    ],
)
def test_layers_that_make_no_quantiser_are_named(tmp_path, change, told):
    tensors = torch.load(FILES / "linear.pt", weights_only=True)["model_weight"]
    change(tensors)
    torch.save({"model_weight": tensors}, tmp_path / "q.pt")
    with pytest.raises(BadCheckpoint, match=r"q\.pt.*" + told.replace(".", r"\.")):
        config(tmp_path / "q.pt", "linear").check(32)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "large.npy"
    with open(path, "wb") as file:
        file.truncate(300_000_000)
    with pytest.raises(BadCheckpoint, match=r"large\.npy is larger than"):
        QuantiserConfig(kind="kmeans", codebook=Artifact(path=str(path), sha256=""), clusters=5).check(3)


class Unknown(dict):
    """Stands for whatever a release wraps its centroids in."""


def test_what_else_a_joblib_file_holds_is_never_run(tmp_path):
    model = KMeans(20, n_init=1, random_state=0).fit(rows(100))
    model.extra = Unknown(a=1)
    joblib.dump(model, tmp_path / "km.bin")
    with pytest.raises(BadCheckpoint, match=r"refused, and nothing in it was run"):
        config(tmp_path / "km.bin").check(32)


@pytest.mark.parametrize("fields", [{"kind": "vq"}, {"clusters": 0}, {"clusters": 65_537}])
def test_configs_are_checked(fields):
    with pytest.raises(ValueError, match=r"kmeans or linear|65536"):
        config(**fields)


def test_the_vocabulary_has_the_blank():
    assert config().size == 20
    assert config(FILES / "linear.pt", "linear").size == 21
    with pytest.raises(ValueError, match="65536"):
        config(FILES / "linear.pt", "linear", clusters=65_536)
