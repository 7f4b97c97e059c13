import bz2
import io
import pickle
import pickletools
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joblib.numpy_pickle import NumpyArrayWrapper
from sklearn.cluster import KMeans, MiniBatchKMeans

from stages import joblib_arrays
from stages.checkpoints import BadCheckpoint
from stages.joblib_arrays import MAX_BYTES, read_centroids
from stages.pickle_opcodes import MAX_OPCODES

FILES = Path(__file__).parent.parent / "checkpoints" / "quantisers"
VALID = (FILES / "kmeans.bin").read_bytes()
OLD = (FILES / "kmeans_joblib_1_1.bin").read_bytes()
CENTROIDS = np.load(FILES / "kmeans.npy")


def dumped(value, **options):
    file = io.BytesIO()
    joblib.dump(value, file, **options)
    return file.getvalue()


def model(kind=MiniBatchKMeans, dtype=np.float32):
    rows = np.random.default_rng(0).normal(size=(90, 5)).astype(dtype)
    fitted = kind(7, n_init=1, random_state=0).fit(rows)
    fitted.random_state_ = np.random.RandomState(3)  # as older releases keep it
    fitted.n_steps_ = np.int64(3)
    return fitted


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3)])
def test_what_joblib_dumps_is_read(kind, dtype, protocol, compress):
    want = model(kind, dtype)
    found = read_centroids(dumped(want, protocol=protocol, compress=compress), "km.bin")
    np.testing.assert_array_equal(found, want.cluster_centers_)
    assert found.dtype == dtype


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_pickle_dumps_is_read_too(protocol):
    want = model()
    np.testing.assert_array_equal(read_centroids(pickle.dumps(want, protocol), "km.pkl"), want.cluster_centers_)


def test_files_of_old_joblib_and_scikit_learn_are_read():
    assert b"sklearn.cluster.k_means_" in OLD
    assert b"alignment" not in OLD
    assert b"alignment" in VALID
    np.testing.assert_array_equal(read_centroids(OLD, "km.bin"), CENTROIDS)
    np.testing.assert_array_equal(read_centroids(VALID, "km.bin"), CENTROIDS)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8", "<f2"])
def test_arrays_and_dicts_keep_their_order_of_axes_and_bytes(order, dtype):
    rows = np.asarray(np.arange(24).reshape(4, 6), dtype, order=order)
    for value in (rows, {"cluster_centers_": rows}, {"n_clusters": 4, "cluster_centers": rows}):
        np.testing.assert_array_equal(read_centroids(dumped(value), "km.bin"), rows)
        np.testing.assert_array_equal(read_centroids(pickle.dumps(value), "km.bin"), rows)


@pytest.mark.parametrize(
    "value",
    [
        model().labels_,
        np.arange(6, dtype=np.float32),
        np.arange(6).reshape(2, 3),
        {},
        [1.0],
        "text",
        None,
        KMeans(3),
    ],
)
def test_what_holds_no_centroids_is_named(value):
    with pytest.raises(BadCheckpoint, match=r"^km\.bin holds no k-means model .*numpy\.save"):
        read_centroids(dumped(value), "km.bin")


# ---------------------------------------------------------------- attacks


class Runs:
    """Unpickling this calls something."""

    def __init__(self, what, *args):
        self.what, self.args = what, args

    def __reduce__(self):
        return self.what, self.args


def attacks(sentinel):
    import os

    touch = f"open({str(sentinel)!r}, 'w').close()"
    calls = {
        "system": Runs(os.system, f'{sys.executable} -c "{touch}"'),
        "eval": Runs(eval, touch),
        "exec": Runs(exec, touch),
        "getattr": Runs(getattr, Runs(__import__, "os"), "system"),
        "subprocess": Runs(subprocess.call, [sys.executable, "-c", touch]),
        "open": Runs(open, str(sentinel), "w"),
    }
    for name, call in calls.items():
        evil = model()
        evil.cluster_centers_, evil.aside = evil.cluster_centers_, call
        yield name, call
        yield f"{name} beside the centroids", evil
        yield f"{name} in an array of objects", np.array([call], dtype=object)
        yield f"{name} as the centroids", {"cluster_centers_": call}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_attacks_are_refused_by_name_and_run_nothing(tmp_path, protocol):
    sentinel = tmp_path / "ran"
    count = 0
    for name, evil in attacks(sentinel):
        for data in (dumped(evil, protocol=protocol), pickle.dumps(evil, protocol), dumped(evil, compress=3)):
            with pytest.raises(BadCheckpoint, match=r"km\.bin is refused, and nothing in it was run: it ") as caught:
                read_centroids(data, "km.bin")
            assert not sentinel.exists(), name
            assert "\n" not in str(caught.value)
            count += 1
    assert count == 72


def test_the_attacks_are_real(tmp_path):
    """What the reader refuses does run where it is unpickled; else the test above would say nothing."""
    sentinel = tmp_path / "ran"
    data = dict(attacks(sentinel))
    for name in ("system", "eval", "exec", "subprocess", "open"):
        pickle.loads(pickle.dumps(data[f"{name} beside the centroids"]))
        assert sentinel.exists(), name
        sentinel.unlink()


@pytest.mark.parametrize(
    ("opcodes", "named"),
    [
        (b"\x80\x02cposix\nsystem\n(S'id'\ntR.", "posix.system"),
        (b"\x80\x02cbuiltins\neval\n.", "builtins.eval"),
        (b"\x80\x02cnumpy\nload\n.", "numpy.load"),
        (b"\x80\x02csklearn.cluster._kmeans\nKMeans.__init__\n.", "KMeans.__init__"),
        (b"\x80\x02cevil\nna\\u001b[31mme\n.", "evil"),
        (b"\x80\x02(iposix\nsystem\n.", "INST"),
        (b"\x80\x02(cposix\nsystem\no.", "posix.system"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02Pid\n.", "PERSID"),
        (b"\x80\x02K\x01Q.", "BINPERSID"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
    ],
)
def test_raw_opcodes_are_refused_by_name(opcodes, named):
    with pytest.raises(BadCheckpoint, match="refused") as caught:
        read_centroids(opcodes, "km.bin")
    assert named in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_known_class_is_never_made(monkeypatch):
    """The k-means class itself is on the list; still nothing of it runs."""
    monkeypatch.setattr(MiniBatchKMeans, "__setstate__", lambda *_: pytest.fail("the model was made"), raising=False)
    monkeypatch.setattr(NumpyArrayWrapper, "read", lambda *_: pytest.fail("joblib read an array"))
    np.testing.assert_array_equal(read_centroids(VALID, "km.bin"), CENTROIDS)


def test_reading_imports_neither_scikit_learn_nor_joblib():
    script = (
        "import sys; from stages.joblib_arrays import read_centroids;"
        f"read_centroids(open({str(FILES / 'kmeans.bin')!r}, 'rb').read(), 'km');"
        "print([m for m in ('sklearn', 'joblib', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- damage and bounds

small = dumped({"cluster_centers_": np.ones((2, 3), np.float32)}, protocol=4)
small_pickle = pickle.dumps({"cluster_centers_": np.ones((2, 3), np.float32)}, 4)


def outcome(data):
    """Read in bounded memory; only a result or BadCheckpoint may come out."""
    try:
        found = read_centroids(data, "km.bin")
    except BadCheckpoint as error:
        assert str(error).startswith("km.bin")  # noqa: PT017
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert found.ndim == 2
        assert found.nbytes <= len(data)


edits = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=6)


@pytest.mark.parametrize("valid", [VALID, OLD, small, small_pickle], ids=["today", "old", "dict", "pickle"])
@given(edits=edits, cut=st.integers(0, 4000))
@settings(max_examples=150, deadline=2000)
def test_damage_never_gives_anything_but_a_clear_error(valid, edits, cut):
    data = bytearray(valid)
    for place, byte in edits:
        data[place % len(data)] = byte
    outcome(bytes(data))
    outcome(bytes(data[: cut % len(data)]))


@given(st.binary(max_size=200).map(lambda tail: b"\x80\x04" + tail))
@example(b"\x80\x04\x94.")
@example(b"\x80\x04(t(\x30.")
@example(b"\x80\x04K\x01\x85R.")
@example(b"\x80\x04]]s.")
@example(b"\x80\x04}](s.")
@example(b"\x80\x04}]]s.")
@settings(max_examples=250)
def test_any_bytes_give_a_clear_error(data):
    outcome(data)


opcodes = st.sampled_from([code.code.encode("latin1") for code in pickletools.opcodes if code.arg is None])


@given(st.lists(st.one_of(opcodes, st.sampled_from([b"K\x01", b"\x8c\x05numpy", b"\x8c\x05dtype"])), max_size=30))
@settings(max_examples=250)
def test_any_opcodes_give_a_clear_error(parts):
    outcome(b"\x80\x04" + b"".join(parts) + b".")


def test_every_cut_of_a_file_is_named_as_damaged():
    for end in range(2, len(small)):
        with pytest.raises(BadCheckpoint, match=r"km\.bin"):
            read_centroids(small[:end], "km.bin")


def test_an_array_never_outgrows_its_file():
    """The shape says 2**39 numbers, and there are 24 bytes."""
    for valid in (small, small_pickle):
        shape = b"K\x02K\x03\x86"
        assert shape in valid
        data = valid.replace(shape, b"\x8a\x05" + (1 << 39).to_bytes(5, "little") + b"K\x03\x86")
        tracemalloc.start()
        with pytest.raises(BadCheckpoint, match="damaged"):
            read_centroids(data, "km.bin")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20


@pytest.mark.parametrize(
    "shape", [b"NK\x03\x86", b"]K\x03\x86", b"G@\x00\0\0\0\0\0\0K\x03\x86", b"\x8a\x01\xfeK\xfd\x86", b"N"]
)
@pytest.mark.parametrize("valid", [small, small_pickle])
def test_a_shape_of_anything_but_sizes_is_damage(valid, shape):
    with pytest.raises(BadCheckpoint, match="damaged"):
        read_centroids(valid.replace(b"K\x02K\x03\x86", shape), "km.bin")


@pytest.mark.parametrize("compress", [zlib.compress, bz2.compress])
def test_a_bomb_is_not_decompressed(monkeypatch, compress):
    monkeypatch.setattr(joblib_arrays, "MAX_BYTES", 1 << 20)
    bomb = compress(b"\x80\x04" + bytes(1 << 26))
    tracemalloc.start()
    with pytest.raises(BadCheckpoint, match=r"km\.bin is refused.*more than 1 MB"):
        read_centroids(bomb, "km.bin")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_large_file_is_refused_unread(monkeypatch):
    monkeypatch.setattr(joblib_arrays, "MAX_BYTES", 100)
    with pytest.raises(BadCheckpoint, match="more than"):
        read_centroids(VALID, "km.bin")
    assert MAX_BYTES > 65536 * 768 * 4


def test_time_is_bounded_by_a_number_of_opcodes():
    start = time.process_time()
    with pytest.raises(BadCheckpoint, match="too many parts"):
        read_centroids(b"\x80\x04" + b"N0" * MAX_OPCODES + b"N.", "km.bin")
    assert time.process_time() - start < 5


def test_a_text_encoded_again_and_again_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(joblib_arrays, "MAX_BYTES", 1 << 20)
    text = b"X" + (1 << 18).to_bytes(4, "little") + b"a" * (1 << 18) + b"q\x01X\x06\0\0\0latin1q\x02"
    again = b"c_codecs\nencode\nh\x01h\x02\x86R"
    with pytest.raises(BadCheckpoint, match="refused"):
        read_centroids(b"\x80\x02" + text + again * 5 + b".", "km.bin")


def test_deep_nesting_is_no_crash():
    outcome(b"\x80\x04" + b")" + b"\x85" * 100_000 + b".")
    outcome(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ZF0x12",
        b"\x04\x22\x4d\x18lz4",
        b"text",
        b"\x93NUMPY",
        b"\x1f\x8bnot gzip",
        b"\x78\x9cbad",
        b"BZhbad",
        b"PK",
    ],
)
def test_what_is_no_joblib_file_is_named(data):
    with pytest.raises(BadCheckpoint, match=r"^km\.bin is "):
        read_centroids(data, "km.bin")


# ---------------------------------------------------------------- what it does not know


def test_what_the_reader_does_not_know_is_refused_with_the_way_out():
    """There is no other reader: nothing is unpickled, whoever asks."""
    value = model()
    value.extra = slice(1, 2)
    with pytest.raises(BadCheckpoint, match=r"builtins\.slice.*; save `model\.cluster_centers_` with numpy\.save$"):
        read_centroids(dumped(value), "km.bin")
