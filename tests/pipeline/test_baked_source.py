import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bake import BakeConfig
from pipeline.dataset import BadDataset
from pipeline.reader import Block, SequenceReader, block_of, open_reader
from pipeline.reader.baked_source import BakedSource, baked_vocabulary
from pipeline.reader.shard_cache import ShardCache
from pipeline.reader.source import BadShard, Packed
from schemas.sequence import Mixture, SequenceSection, SpiritLmPolicy, VocabularySection
from stages.vocabulary import Vocabulary
from tests.bake_builders import bake_here
from tests.sequence_builders import SIZES, ByteTokenizer, corpus, write_dataset

SEQUENCE = SequenceSection(context=64, policy=SpiritLmPolicy(text_words=(2, 5), speech_words=(2, 4)))
CONTEXT = 64


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    records = corpus(8)
    return str(write_dataset(tmp_path_factory.mktemp("data") / "d", [records[:12], records[12:]]))


@pytest.fixture(scope="module")
def baked(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("baked") / "b"
    config = BakeConfig(dataset=dataset, sequence=SEQUENCE, seed=5, epochs=2, streams=2)
    bake_here(config, out, tokens_per_shard=4 * CONTEXT)
    return out


@pytest.fixture(scope="module")
def vocabulary(baked: Path) -> Vocabulary:
    return baked_vocabulary(str(baked))


def every_block(source: BakedSource, context: int = CONTEXT) -> list[Block]:
    blocks = []
    for number, size in enumerate(source.sizes):
        shard = source.open(number)
        for index in range(size):
            item = shard.item(index, 0)
            assert isinstance(item, Packed)
            blocks.append(block_of(item, context))
        shard.close()
    return blocks


def ids_of(blocks: list[Block]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(block["input_ids"].tolist()) for block in blocks)


def copy_of(baked: Path, to: Path) -> Path:
    import shutil

    shutil.copytree(baked, to)
    return to


def test_the_blocks_are_those_that_were_drawn(dataset: str, baked: Path, vocabulary: Vocabulary) -> None:
    blocks = every_block(BakedSource(str(baked), vocabulary))
    drawn = list(open_reader(dataset, SEQUENCE, seed=5, epochs=2, streams=2))
    assert len(BakedSource(str(baked), vocabulary).sizes) > 3
    assert ids_of(blocks) == ids_of(drawn)


@settings(max_examples=25)
@given(streams=st.integers(1, 7), width=st.integers(1, 9), stop=st.integers(0, 30), seed=st.integers(0, 9))
def test_the_reader_gives_every_block_once_in_an_epoch_and_resumes(
    baked: Path, vocabulary: Vocabulary, streams: int, width: int, stop: int, seed: int
) -> None:
    def reader() -> SequenceReader:
        return SequenceReader(
            [BakedSource(str(baked), vocabulary)],
            vocabulary,
            context=CONTEXT,
            seed=seed,
            streams=streams,
            epochs=1,
            shuffle_shards=width,
        )

    first = reader()
    before = list(islice(first, stop))
    second = reader()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert ids_of([*before, *second]) == ids_of(every_block(BakedSource(str(baked), vocabulary)))


def test_a_longer_context_pads_and_a_shorter_one_is_refused(baked: Path, vocabulary: Vocabulary) -> None:
    source = BakedSource(str(baked), vocabulary, context=80)
    block = next(iter(SequenceReader([source], vocabulary, context=80, seed=0)))
    assert block["input_ids"].shape == (80,)
    assert (block["document_ids"][64:] == -1).all()
    with pytest.raises(ValueError, match="blocks of 64 tokens; context 63 is too short"):
        BakedSource(str(baked), vocabulary, context=63)


def test_the_vocabulary_comes_with_the_bake(dataset: str, baked: Path, vocabulary: Vocabulary) -> None:
    drawn = open_reader(dataset, SEQUENCE, seed=5)
    assert vocabulary.describe() == drawn.vocabulary.describe()
    assert vocabulary.tokenizer.encode("the cat sat") == drawn.vocabulary.tokenizer.encode("the cat sat")


def test_the_vocabulary_of_another_layout_comes_with_the_bake(dataset: str, tmp_path: Path) -> None:
    layout = VocabularySection(layout="append", first_id=70_000, pad_to_multiple=128)
    section = SEQUENCE.model_copy(update={"vocabulary": layout})
    info = bake_here(BakeConfig(dataset=dataset, sequence=section, seed=5, epochs=1, streams=1), tmp_path / "b")
    assert info["dtype"] == "<u4"
    again = baked_vocabulary(str(tmp_path / "b"))
    assert again.describe() == info["vocabulary"]
    assert again.marker_id(0) == 70_000
    drawn = list(open_reader(dataset, section, seed=5, epochs=1))
    assert ids_of(every_block(BakedSource(str(tmp_path / "b"), again))) == ids_of(drawn)


def test_another_vocabulary_is_refused_with_what_differs(baked: Path) -> None:
    with pytest.raises(
        ValueError, match=r"another vocabulary: size: \d+ there, 334 here; blocks: .*; tokenizer_sha256"
    ):
        BakedSource(str(baked), Vocabulary(ByteTokenizer(), SIZES))


def test_a_mixture_of_units_and_baked_blocks(dataset: str, baked: Path) -> None:
    mixture = Mixture.model_validate([{"path": dataset}, {"kind": "baked", "path": str(baked), "share": 3}])
    reader = open_reader(mixture, SEQUENCE, seed=1)
    list(islice(reader, 200))
    tokens = [own["tokens"] for own in reader.progress()]
    assert tokens[1] / sum(tokens) == pytest.approx(0.75, abs=0.02)


def test_remote_blocks_are_the_local_ones(baked: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    remote = fsspec.filesystem("memory")
    remote.put(str(baked), "/baked", recursive=True)
    try:
        source = BakedSource("memory://baked", baked_vocabulary("memory://baked"), cache=ShardCache(tmp_path / "cache"))
        source.expect(range(len(source.sizes)))
        assert ids_of(every_block(source)) == ids_of(every_block(BakedSource(str(baked), vocabulary)))
        name = json.loads((baked / "baked.json").read_text())["shards"][0][0]
        data = bytearray(remote.cat_file(f"/baked/shards/{name}"))
        data[700] ^= 1
        remote.pipe_file(f"/baked/shards/{name}", bytes(data))
        with pytest.raises(BadShard, match=f"{name} .*sha256"):
            every_block(BakedSource("memory://baked", vocabulary, cache=ShardCache(tmp_path / "other")))
    finally:
        remote.rm("/baked", recursive=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tar: tar.unlink(), "is missing"),
        (lambda tar: tar.write_bytes(tar.read_bytes()[:-512]), "is damaged"),
        (lambda tar: tar.with_suffix(".tar.idx").unlink(), "is missing"),
        (lambda tar: tar.with_suffix(".tar.idx").write_bytes(b"\0" * 8), "is damaged"),
        (lambda tar: (tar.parent / "shard-000000.commit.json").unlink(), "no commit record of this bake"),
        (lambda tar: (tar.parent / "shard-000000.commit.json").write_text("{"), "no commit record of this bake"),
        (
            lambda tar: (tar.parent / "shard-000000.commit.json").write_text('{"plan":"x"}'),
            "no commit record of this bake",
        ),
    ],
)
def test_a_damaged_shard_is_named(
    baked: Path, vocabulary: Vocabulary, tmp_path: Path, damage: Any, message: str
) -> None:
    copy = copy_of(baked, tmp_path / "copy")
    damage(copy / "shards" / "baked-000000-000000.tar")
    with pytest.raises(BadShard, match=rf"baked-000000-000000\.tar.*{message}"):
        every_block(BakedSource(str(copy), vocabulary))


def test_a_flipped_bit_shows_where_shards_are_verified(baked: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    copy = copy_of(baked, tmp_path / "copy")
    tar = copy / "shards" / "baked-000001-000000.tar"
    data = bytearray(tar.read_bytes())
    data[512 + 128 + 1] ^= 1 << 7  # of the first block's first id
    tar.write_bytes(data)
    with pytest.raises(BadShard, match=r"baked-000001-000000\.tar.*sha256"):
        every_block(BakedSource(str(copy), vocabulary, verify=True))
    with pytest.raises(BadShard, match=r"baked-000001-000000\.tar is damaged \(block 0: .* do not fit"):
        every_block(BakedSource(str(copy), vocabulary))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"baked\.json is missing or damaged: the bake is not finished"),
        ("{", r"baked\.json is missing or damaged"),
        ('{"format":"interloom-baked/1"}', r"not of format interloom-baked/2"),
        ("[]", r"not of format"),
    ],
)
def test_what_is_no_finished_bake_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "baked.json").write_text(content)
    for opened in (lambda: BakedSource(str(tmp_path), Vocabulary(ByteTokenizer(), SIZES)),
                   lambda: baked_vocabulary(str(tmp_path))):  # fmt: skip
        with pytest.raises(BadDataset, match=message):
            opened()


def test_the_identity_is_that_of_the_bake_wherever_it_lies(baked: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    here = BakedSource(str(baked), vocabulary).identity()
    there = BakedSource(str(copy_of(baked, tmp_path / "copy")), vocabulary).identity()
    assert here == there == json.loads(json.dumps(here))
