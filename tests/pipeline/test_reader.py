import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset import Dataset
from pipeline.reader import IGNORED, Block, SequenceReader, draw_sequence, vocabulary_of
from pipeline.reader.draw import draw_document
from pipeline.reader.packing import Packer
from schemas.contract import ContractMismatch
from schemas.sequence import SequenceSection, SpiritLmPolicy
from stages.documents import Document
from stages.interleave import Modality, Piece
from stages.vocabulary import Vocabulary
from tests.sequence_builders import SIZES, ByteTokenizer, corpus, document, documents, write_dataset

VOCABULARY = Vocabulary(ByteTokenizer(), SIZES)
SEQUENCE = SequenceSection(context=64, policy=SpiritLmPolicy(text_words=(2, 5), speech_words=(2, 4)))
MARKERS = (VOCABULARY.marker_id(0), VOCABULARY.marker_id(1))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    records = corpus(10)
    return Dataset.open(str(write_dataset(tmp_path_factory.mktemp("data") / "d", [records[:12], records[12:]])))


def reader(dataset: Dataset, **options: object) -> SequenceReader:
    return SequenceReader(dataset, SEQUENCE, **{"seed": 0, "epochs": 1, "vocabulary": VOCABULARY, **options})


def stretches(blocks: list[Block]) -> Iterator[list[int]]:
    for block in blocks:
        for number in range(block["document_ids"].max() + 1):
            yield block["input_ids"][block["document_ids"] == number].tolist()


def without_reopenings(blocks: list[Block], sequences: list[list[int]]) -> list[list[int]]:
    """Join stretches until they give the sequences, dropping the marker with which a continuation opens."""
    joined: list[list[int]] = []
    for stretch in stretches(blocks):
        if joined and len(joined[-1]) < len(sequences[len(joined) - 1]):
            done = len(joined[-1])
            whole = sequences[len(joined) - 1]
            joined[-1] += stretch if whole[done] in MARKERS else stretch[1:]
        else:
            joined.append(list(stretch))
    return joined


def test_blocks_hold_the_draws_of_the_documents_and_nothing_else(dataset: Dataset) -> None:
    one = reader(dataset)
    sequences = [draw_sequence(d, SEQUENCE, VOCABULARY, seed=0, epoch=0).ids.tolist() for d in one.documents(0)]
    assert len(sequences) == 10
    assert without_reopenings(list(one), sequences) == sequences


@given(
    docs=st.lists(documents(), min_size=1, max_size=4),
    context=st.integers(8, 80),
    stream=st.sampled_from(["base", "expressive"]),
)
def test_packing_keeps_every_token_and_every_group(docs: list[Document], context: int, stream: str) -> None:
    section = SEQUENCE.model_copy(update={"context": context, "stream": stream})
    tokens = [draw_sequence(d, section, VOCABULARY, seed=0, epoch=0) for d in docs]
    packer = Packer(context, VOCABULARY)
    blocks = []
    for sequence in tokens:
        at = packer.add(sequence, 0)
        while at < len(sequence.ids):
            assert not sequence.glued[at]
            assert packer.room < 4, "a block was closed although the largest group fits"
            blocks.append(packer.take())
            at = packer.add(sequence, at)
    blocks.append(packer.take())
    sequences = [s.ids.tolist() for s in tokens]
    assert without_reopenings(blocks, sequences) == sequences
    for block in blocks:
        check_block(block, context)


def check_block(block: Block, context: int) -> None:
    assert {name: (a.shape, a.dtype.name) for name, a in block.items()} == {
        "input_ids": ((context,), "int64"), "labels": ((context,), "int64"), "position_ids": ((context,), "int64"),
        "document_ids": ((context,), "int32"), "modality": ((context,), "int8"),
    }  # fmt: skip
    modality = -1
    for i in range(context):
        token, number = int(block["input_ids"][i]), int(block["document_ids"][i])
        begins = number >= 0 and (i == 0 or block["document_ids"][i - 1] != number)
        if number < 0:
            assert (block["labels"][i], block["modality"][i], token) == (IGNORED, -1, 0)
            continue
        assert not begins or token in MARKERS, "a stretch opens with its modality token"
        assert block["labels"][i] == (IGNORED if begins else token)
        assert block["position_ids"][i] == (0 if begins else block["position_ids"][i - 1] + 1)
        modality = MARKERS.index(token) if token in MARKERS else modality
        assert block["modality"][i] == modality
        assert (token >= 258) <= (modality == 1)
        last = i + 1 == context or block["document_ids"][i + 1] != number
        assert not (last and token in MARKERS), "a marker at the end opens nothing"


def test_a_marker_moves_on_with_its_first_group() -> None:
    text = Piece(modality=Modality.TEXT, text="abcde")
    speech = Piece(modality=Modality.SPEECH, tokens=("[St1]", "[Pi2]", "[Hu3]", "[Hu4]"))
    sequence = VOCABULARY.encode([text, speech])
    packer = Packer(8, VOCABULARY)
    assert packer.add(sequence, 0) == 6
    first = packer.take()
    assert first["document_ids"].tolist() == [0] * 6 + [-1] * 2
    assert packer.add(sequence, 6) == len(sequence.ids)
    assert packer.take()["input_ids"][:5].tolist() == sequence.ids[6:].tolist()


def test_a_continuation_reopens_with_its_modality() -> None:
    sequence = VOCABULARY.encode([Piece(modality=Modality.SPEECH, tokens=tuple(f"[Hu{i}]" for i in range(12)))])
    packer = Packer(8, VOCABULARY)
    assert packer.add(sequence, 0) == 8
    packer.take()
    assert packer.add(sequence, 8) == 13
    block = packer.take()
    assert block["input_ids"][:6].tolist() == [MARKERS[1], *sequence.ids[8:].tolist()]
    assert block["labels"][:2].tolist() == [IGNORED, sequence.ids[8]]


def test_same_seed_epoch_and_key_give_the_same_draw_in_any_order(dataset: Dataset, tmp_path: Path) -> None:
    shuffled = Dataset.open(str(write_dataset(tmp_path / "other", [corpus(10)[15:], corpus(10)[:15]])))
    draws = [
        {d.key: draw_sequence(d, SEQUENCE, VOCABULARY, seed=3, epoch=2).ids.tolist() for d in one.documents(2)}
        for one in (reader(dataset, seed=3), reader(shuffled, seed=3))
    ]
    assert draws[0] == draws[1]
    assert list(draws[0]) != list(draws[1]), "the two datasets were meant to differ in order"


def test_epochs_seeds_and_keys_differ_in_draw_and_order(dataset: Dataset) -> None:
    doc = document((40,))
    draws = {
        tuple(draw_sequence(doc, SEQUENCE, VOCABULARY, seed=seed, epoch=epoch).ids.tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(draws) == 9
    twins = [replace(doc, key=f"twin{i}") for i in range(5)]
    assert len({draw_document(twin, SEQUENCE, seed=0, epoch=0) for twin in twins}) > 1
    orders = {tuple(d.key for d in reader(dataset).documents(epoch)) for epoch in range(4)}
    assert len(orders) > 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 20])
def test_ranks_divide_the_documents_without_overlap_or_hole(dataset: Dataset, world_size: int) -> None:
    for epoch in range(3):
        shares = [
            [d.key for d in reader(dataset, rank=rank, world_size=world_size).documents(epoch)]
            for rank in range(world_size)
        ]
        assert sorted(key for share in shares for key in share) == [f"rec{i:02d}-000" for i in range(10)]
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 2, "shares differ by at most one document per shard"


@pytest.mark.parametrize("options", [{}, {"rank": 1, "world_size": 3}, {"last": "drop"}])
def test_resuming_anywhere_equals_the_uninterrupted_run(dataset: Dataset, options: dict[str, object]) -> None:
    whole = list(reader(dataset, epochs=2, **options))
    assert len(whole) > 10
    for stop in range(len(whole) + 1):
        first = reader(dataset, epochs=2, **options)
        before = list(islice(first, stop))
        state = json.loads(json.dumps(first.state_dict()))
        second = reader(dataset, epochs=2, **options)
        second.load_state_dict(state)
        resumed = before + list(second)
        assert len(resumed) == len(whole)
        assert all(np.array_equal(a[name], b[name]) for a, b in zip(whole, resumed, strict=True) for name in a)


def test_the_last_block_is_padded_or_dropped(dataset: Dataset) -> None:
    padded, dropped = list(reader(dataset)), list(reader(dataset, last="drop"))
    assert len(padded) == len(dropped) + 1
    assert padded[-1]["document_ids"][-1] == -1


def test_without_an_end_blocks_run_on_into_the_next_epoch(dataset: Dataset) -> None:
    one = reader(dataset, epochs=None)
    per_epoch = len(list(reader(dataset)))
    blocks = list(islice(one, 3 * per_epoch))
    assert one.epoch >= 2
    assert all((block["document_ids"] < 0).sum() < 4 for block in blocks)


def test_a_rank_without_documents_says_so_instead_of_spinning(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "one", [corpus(1)])
    with pytest.raises(ValueError, match="rank 1 of 2 gets no document"):
        next(iter(SequenceReader(root, SEQUENCE, seed=0, rank=1, world_size=2, vocabulary=VOCABULARY)))


def test_a_state_of_another_run_is_refused_with_what_differs(dataset: Dataset) -> None:
    state = reader(dataset, seed=1).state_dict()
    with pytest.raises(ValueError, match=r"another run: seed: 1 then, 0 now"):
        reader(dataset).load_state_dict(state)


def test_single_utterances_when_recordings_are_not_joined(dataset: Dataset) -> None:
    section = SEQUENCE.model_copy(update={"join_recordings": False})
    one = SequenceReader(dataset, section, seed=0, vocabulary=VOCABULARY)
    assert sorted(d.key for d in one.documents(0)) == sorted(r.key for r in corpus(10))


def test_prepare_may_leave_documents_out(dataset: Dataset) -> None:
    one = reader(dataset, prepare=lambda d, epoch: d if d.key == "rec03-000" else None)
    assert [d.key for d in one.documents(0)] == ["rec03-000"]


def test_several_datasets_are_read_as_one_if_their_contracts_agree(dataset: Dataset, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", [corpus(12)[30:]])
    both = SequenceReader([dataset, other], SEQUENCE, seed=0, vocabulary=VOCABULARY)
    assert len(list(both.documents(0))) == 12
    info = json.loads((other / "dataset.json").read_text())
    info["streams"]["hubert"]["hop"] = 320
    (other / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ContractMismatch, match="hop: 640"):
        SequenceReader([dataset, other], SEQUENCE, seed=0, vocabulary=VOCABULARY)


def test_a_stream_that_the_dataset_lacks_is_refused(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", [corpus(1)])
    info = json.loads((root / "dataset.json").read_text())
    del info["streams"]["pitch"]
    (root / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"'expressive' needs \['pitch'\]"):
        SequenceReader(root, SEQUENCE, seed=0, vocabulary=VOCABULARY)


def test_a_rank_outside_the_world_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"rank must lie in \[0, 2\), got 2"):
        reader(dataset, rank=2, world_size=2)


def test_the_vocabulary_is_that_of_the_dataset(dataset: Dataset) -> None:
    pytest.importorskip("stages.tokenizer")
    vocabulary = vocabulary_of(dataset)
    assert vocabulary.sizes == SIZES
    assert vocabulary.size == vocabulary.tokenizer.vocab_size + 2 + sum(SIZES.values())


def test_the_reader_imports_neither_torch_nor_an_engine() -> None:
    code = (
        "import sys, pipeline.reader; print(sorted({'torch', 'apache_beam', 'ray', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_torch_dataset_gives_the_readers_blocks_and_divides_them_among_workers(dataset: Dataset) -> None:
    torch = pytest.importorskip("torch")
    from pipeline.reader.torch_dataset import TorchSequences

    opened = partial(SequenceReader, dataset, SEQUENCE, seed=0, epochs=1, vocabulary=VOCABULARY)
    plain = list(TorchSequences(opened))
    for tensors, block in zip(plain, reader(dataset), strict=True):
        assert all(torch.equal(tensors[name], torch.from_numpy(block[name])) for name in block)
    loader = torch.utils.data.DataLoader(TorchSequences(opened), batch_size=None, num_workers=2)
    from_workers = sorted(tuple(block["input_ids"].tolist()) for block in loader)
    shares = [reader(dataset, rank=rank, world_size=2) for rank in range(2)]
    assert from_workers == sorted(tuple(b["input_ids"].tolist()) for share in shares for b in share)
