"""Units datasets as a source: the same documents as the plain way through the whole shard, by random access."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset import Dataset
from pipeline.reader.draw import draw_sequence
from pipeline.reader.shard_cache import ShardCache
from pipeline.reader.source import BadShard, Source
from pipeline.reader.units_source import UnitsShard, UnitsSource, document_starts
from pipeline.reader.vocabularies import vocabulary_of
from pipeline.shards import num_documents
from schemas.sequence import SequenceSection, SpeechOnlyPolicy, TextOnlyPolicy
from stages.documents import Document, documents_from
from stages.vocabulary import TokenSequence, Vocabulary
from tests.sequence_builders import corpus, record, write_dataset

BASE = SequenceSection(stream="base", join_recordings=False)


def with_holes() -> list:
    records = corpus(4, utterances=5)
    return [item for i, item in enumerate(records) if i not in (2, 7, 8)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    records = with_holes()
    shards = [records[:9], [], records[9:]]
    return Dataset.open(str(write_dataset(tmp_path_factory.mktemp("units") / "d", shards)))


def source(dataset: Dataset, sequence: SequenceSection = BASE, **options) -> UnitsSource:
    return UnitsSource(dataset, sequence, vocabulary_of(dataset), seed=7, **options)


def plain(dataset: Dataset, shard: int, sequence: SequenceSection, vocabulary: Vocabulary, epoch: int) -> list:
    """The items of a shard as their definition gives them."""
    found = documents_from(dataset.records(shard), dataset.contracts, join=sequence.join_recordings)
    return [draw_sequence(item, sequence, vocabulary, seed=7, epoch=epoch) for item in found]


def item(shard: UnitsShard, index: int, epoch: int) -> TokenSequence | None:
    """Read an item and finish it by itself."""
    found = shard.item(index, epoch)
    if found is None:
        return None
    (outcome,) = found.finish([found.content])
    if isinstance(outcome, BadShard):
        raise outcome
    return outcome


def as_lists(items: Sequence[TokenSequence]) -> list:
    return [[column.tolist() for column in item] for item in items]


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("stream", ["base", "expressive"])
def test_items_are_the_documents_of_the_shard(dataset: Dataset, join: bool, stream: str) -> None:
    sequence = SequenceSection(stream=stream, join_recordings=join)
    read: Source = source(dataset, sequence)
    vocabulary = vocabulary_of(dataset)
    for shard, size in enumerate(read.sizes.tolist()):
        wanted = plain(dataset, shard, sequence, vocabulary, 3)
        opened = read.open(shard)
        assert size == len(wanted)
        assert as_lists(item(opened, i, 3) for i in reversed(range(size))) == as_lists(wanted)[::-1]
        opened.close()


def test_epochs_differ_and_a_policy_of_its_own_is_used(dataset: Dataset) -> None:
    opened = source(dataset).open(0)
    assert any(as_lists([item(opened, i, 0)]) != as_lists([item(opened, i, 1)]) for i in range(9))
    speech = source(dataset, policy=SpeechOnlyPolicy()).open(0)
    assert item(speech, 0, 0).modality.all()
    assert not item(source(dataset, policy=TextOnlyPolicy()).open(0), 0, 0).modality.any()


def test_prepare_sees_the_epoch_and_leaves_out(dataset: Dataset) -> None:
    seen = []

    def prepare(document: Document, epoch: int) -> Document | None:
        seen.append((document.key, epoch))
        return None if epoch == 5 else document

    opened = source(dataset, prepare=prepare).open(0)
    assert item(opened, 1, 5) is None
    assert item(opened, 1, 4) is not None
    assert seen == [(seen[0][0], 5), (seen[0][0], 4)]


def test_documents_without_words_are_left_out(tmp_path: Path) -> None:
    silent = record("a", [], num_samples=16_000)
    opened = source(Dataset.open(str(write_dataset(tmp_path / "d", [[silent, record("b", recording="r1")]])))).open(0)
    assert item(opened, 0, 0) is None
    assert item(opened, 1, 0) is not None


def test_identity_holds_what_decides_the_items_and_no_path(dataset: Dataset, tmp_path: Path) -> None:
    one = source(dataset).identity()
    assert one["fingerprint"] == dataset.info["fingerprint"]
    assert one["splits"] == 3
    assert one["vocabulary"]["tokenizer_sha256"] == dataset.info["artifacts"]["tokenizer"]["sha256"]
    assert one == json.loads(json.dumps(source(dataset, BASE.model_copy(update={"context": 64})).identity()))
    assert str(tmp_path.parent) not in json.dumps(one)
    for changed in ({"gap": "left"}, {"silence": "drop"}, {"stream": "expressive"}, {"join_recordings": True}):
        assert source(dataset, BASE.model_copy(update=changed)).identity() != one
    assert source(dataset, policy=TextOnlyPolicy()).identity() != one


@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3)), max_size=8),
)
def test_documents_begin_where_the_writer_counts_them(rows: list[tuple[str, int]]) -> None:
    starts = document_starts([name for name, _ in rows], np.array([i for _, i in rows], dtype=np.int64))
    assert starts[-1] == len(rows)
    assert len(starts) - 1 == num_documents([{"recording": name, "index": i} for name, i in rows])
    for start in starts[1:-1]:
        (name, i), after = rows[start - 1], rows[start]
        assert (name, i + 1) != after


def damaged(tmp_path: Path, *, extension: str, change) -> UnitsSource:
    """A dataset of one shard of which one file was changed behind its commit record's back."""
    root = write_dataset(tmp_path / "d", [corpus(2)])
    path = root / "shards" / f"shard-000000.{extension}"
    path.write_bytes(change(path.read_bytes()))
    return source(Dataset.open(str(root)), SequenceSection(stream="base"))


@pytest.mark.parametrize("extension", ["tar.idx", "stats.parquet"])
def test_a_changed_side_file_is_named(tmp_path: Path, extension: str) -> None:
    read = damaged(tmp_path, extension=extension, change=lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BadShard, match=rf"shard-000000\.{extension} is damaged \(its sha256 .*run the build again"):
        read.open(0)


@pytest.mark.parametrize("extension", ["tar", "tar.idx", "stats.parquet"])
def test_a_file_cut_short_is_named(tmp_path: Path, extension: str) -> None:
    read = damaged(tmp_path, extension=extension, change=lambda data: data[:-8])
    with pytest.raises(BadShard, match=rf"shard-000000\.{extension} is damaged \(it has \d+ bytes"):
        read.open(0)


@pytest.mark.parametrize("extension", ["tar", "tar.idx", "stats.parquet", "commit.json"])
def test_a_missing_file_is_named(tmp_path: Path, extension: str) -> None:
    root = write_dataset(tmp_path / "d", [corpus(2)])
    (root / "shards" / f"shard-000000.{extension}").unlink()
    with pytest.raises(BadShard, match=rf"shard-000000\.{extension} is missing"):
        source(Dataset.open(str(root)), SequenceSection(stream="base")).open(0)


def test_a_changed_shard_is_found_at_once_with_verify_and_by_its_headers_without(tmp_path: Path) -> None:
    read = damaged(tmp_path, extension="tar", change=lambda data: b"x" + data[1:])
    opened = read.open(0)
    with pytest.raises(BadShard, match=r"shard-000000\.tar is damaged \(sample 0 at byte 0"):
        item(opened, 0, 0)
    assert item(opened, 1, 0) is not None
    dataset = Dataset.open(str(tmp_path / "d"))
    with pytest.raises(BadShard, match="its sha256 is not"):
        source(dataset, verify=True).open(0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"key":"rec00-000"', b'"key":"rec00-00x"', "'rec00-000': ValueError: the JSON names another key"),
        (b'"doubtful":[]', b'"doubtful":3 ', "'rec00-000': TypeError"),
        (b"-5.0]", b'"-5"]', "'rec00-000': TypeError: the scores of words"),
        (b'{"doub', b'["doub', "'rec00-000': JSONDecodeError"),
        (b"'descr': '<u2'", b"'descr': '<u4'", "'rec00-000': ValueError"),
        (b"'descr': '<u2'", b"'descr': '|O '", "'rec00-000': ValueError"),
        (b"\x93NUMPY", b"\x93NUMPX", "'rec00-000': ValueError"),
        (b'"num_samples":', b'"num_simples":', "'rec00-000': KeyError"),
    ],
)
def test_damage_within_a_member_names_the_record(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    assert len(old) == len(new)
    read = damaged(tmp_path, extension="tar", change=lambda data: data.replace(old, new, 1))
    with pytest.raises(BadShard, match=rf"shard-000000\.tar: record {message}.*run the build again"):
        item(read.open(0), 0, 0)


def test_a_unit_beyond_its_codebook_names_the_record(tmp_path: Path) -> None:
    good = record("a", num_samples=32_000)
    bad = record("a", num_samples=32_000, streams={**good.streams, "hubert": [99] * 50})
    dataset = Dataset.open(str(write_dataset(tmp_path / "d", [[bad]])))
    opened = source(dataset, policy=SpeechOnlyPolicy()).open(0)
    with pytest.raises(BadShard, match=r"shard-000000\.tar: document 'a' has the hubert unit 99, .* ends at 49"):
        item(opened, 0, 0)


def test_a_failing_prepare_is_no_damage(dataset: Dataset) -> None:
    def prepare(document: Document, epoch: int) -> Document:
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        item(source(dataset, prepare=prepare).open(0), 0, 0)


def test_what_is_not_needed_is_not_read(tmp_path: Path) -> None:
    def change(data: bytes) -> bytes:
        """Spoil the third array of the first sample: its style."""
        first, second, third, rest = data.split(b"NUMPY", 3)
        return b"NUMPY".join([first, second, third + b"NUMPX" + rest])

    assert item(damaged(tmp_path, extension="tar", change=change).open(0), 0, 0) is not None
    expressive = SequenceSection(policy=SpeechOnlyPolicy())
    with pytest.raises(BadShard, match="record 'rec00-000'"):
        item(source(Dataset.open(str(tmp_path / "d")), expressive).open(0), 0, 0)


def test_shards_of_an_object_store_come_through_the_cache(tmp_path: Path) -> None:
    import fsspec

    records = corpus(4)
    local = write_dataset(tmp_path / "d", [records[:6], records[6:]])
    store = fsspec.filesystem("memory")
    store.put(str(local), "/units-source/d", recursive=True)
    remote = Dataset.open("memory://units-source/d")
    cache = ShardCache(tmp_path / "cache")
    sequence = SequenceSection()
    read, near = source(remote, sequence, cache=cache), source(Dataset.open(str(local)), sequence)
    read.expect([1, 0])
    for shard in (1, 0):
        far, here = read.open(shard), near.open(shard)
        assert as_lists(item(far, i, 0) for i in range(2)) == as_lists(item(here, i, 0) for i in range(2))
    assert not cache._coming
    assert len(list((tmp_path / "cache").iterdir())) == 6
    cache.close()
    store.rm("/units-source", recursive=True)
