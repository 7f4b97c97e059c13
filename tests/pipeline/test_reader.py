import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset import Dataset
from pipeline.reader import IGNORED, Block, SequenceReader, block_of, draw_sequence, open_reader, vocabulary_of
from pipeline.reader.draw import draw_document
from pipeline.reader.packing import Packer
from schemas.contract import ContractMismatch
from schemas.sequence import BakedSource, Mixture, SequenceSection, SpiritLmPolicy, UnitsSource
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
    return open_reader(dataset, SEQUENCE, **{"seed": 0, "epochs": 1, "vocabulary": VOCABULARY, **options})


def keys_read(dataset: Dataset, epoch: int, **options: object) -> list[str]:
    """The keys of the documents of one epoch in the order in which a reader takes them up."""
    seen: list[str] = []

    def note(document: Document, now: int) -> Document:
        if now == epoch and (not seen or seen[-1] != document.key):
            seen.append(document.key)
        return document

    list(reader(dataset, epochs=epoch + 1, prepare=note, **options))
    return seen


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
    drawn: list[list[int]] = []

    def note(doc: Document, epoch: int) -> Document:
        drawn.append(draw_sequence(doc, SEQUENCE, VOCABULARY, seed=0, epoch=epoch).ids.tolist())
        return doc

    blocks = list(reader(dataset, prepare=note))
    assert len(drawn) == 10
    assert without_reopenings(blocks, drawn) == drawn


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
            blocks.append(block_of(packer.take(), context))
            at = packer.add(sequence, at)
    blocks.append(block_of(packer.take(), context))
    sequences = [s.ids.tolist() for s in tokens]
    assert without_reopenings(blocks, sequences) == sequences
    for block in blocks:
        check_block(block, context)


def check_block(block: Block, context: int) -> None:
    edges = block["cu_seqlens"].tolist()
    starts = [i for i in range(context) if i == 0 or block["document_ids"][i] != block["document_ids"][i - 1]]
    assert edges == [*starts, context]
    assert block["cu_seqlens"].dtype == np.int32
    assert {name: (a.shape, a.dtype.name) for name, a in block.items() if name != "cu_seqlens"} == {
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
    first = block_of(packer.take(), 8)
    assert first["document_ids"].tolist() == [0] * 6 + [-1] * 2
    assert packer.add(sequence, 6) == len(sequence.ids)
    assert packer.take().ids.tolist() == sequence.ids[6:].tolist()


def test_a_continuation_reopens_with_its_modality() -> None:
    sequence = VOCABULARY.encode([Piece(modality=Modality.SPEECH, tokens=tuple(f"[Hu{i}]" for i in range(12)))])
    packer = Packer(8, VOCABULARY)
    assert packer.add(sequence, 0) == 8
    packer.take()
    assert packer.add(sequence, 8) == 13
    block = block_of(packer.take(), 8)
    assert block["input_ids"][:6].tolist() == [MARKERS[1], *sequence.ids[8:].tolist()]
    assert block["labels"][:2].tolist() == [IGNORED, sequence.ids[8]]


def test_same_seed_epoch_and_key_give_the_same_draw_in_any_order(dataset: Dataset, tmp_path: Path) -> None:
    shuffled = Dataset.open(str(write_dataset(tmp_path / "other", [corpus(10)[15:], corpus(10)[:15]])))
    draws: list[dict[str, list[int]]] = []
    for one in (dataset, shuffled):
        found: dict[str, list[int]] = {}

        def note(doc: Document, epoch: int, found: dict[str, list[int]] = found) -> Document:
            found[doc.key] = draw_sequence(doc, SEQUENCE, VOCABULARY, seed=3, epoch=epoch).ids.tolist()
            return doc

        blocks = list(reader(one, seed=3, prepare=note))
        assert without_reopenings(blocks, list(found.values())) == list(found.values())
        draws.append(found)
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
    orders = {tuple(keys_read(dataset, epoch)) for epoch in range(4)}
    assert len(orders) > 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 20])
def test_ranks_divide_the_documents_without_overlap_or_hole(dataset: Dataset, world_size: int) -> None:
    for epoch in range(3):
        shares = [keys_read(dataset, epoch, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert sorted(key for share in shares for key in share) == [f"rec{i:02d}-000" for i in range(10)]
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


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


def test_a_state_of_another_run_is_refused_with_what_differs(dataset: Dataset) -> None:
    state = reader(dataset, seed=1).state_dict()
    with pytest.raises(ValueError, match=r"another run: seed: 1 then, 0 now"):
        reader(dataset).load_state_dict(state)


def test_single_utterances_when_recordings_are_not_joined(dataset: Dataset) -> None:
    section = SEQUENCE.model_copy(update={"join_recordings": False})
    seen: list[str] = []

    def note(doc: Document, epoch: int) -> Document:
        seen.append(doc.key)
        return doc

    list(open_reader(dataset, section, seed=0, epochs=1, vocabulary=VOCABULARY, prepare=note))
    assert sorted(seen) == sorted(r.key for r in corpus(10))


def test_prepare_may_leave_documents_out(dataset: Dataset) -> None:
    kept: list[list[int]] = []

    def only(doc: Document, epoch: int) -> Document | None:
        if doc.key != "rec03-000":
            return None
        kept.append(draw_sequence(doc, SEQUENCE, VOCABULARY, seed=0, epoch=epoch).ids.tolist())
        return doc

    assert without_reopenings(list(reader(dataset, prepare=only)), kept) == kept
    assert len(kept) == 1


def test_several_datasets_are_read_as_one_if_their_contracts_agree(dataset: Dataset, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", [corpus(12)[30:]])
    seen: set[str] = set()

    def note(doc: Document, epoch: int) -> Document:
        seen.add(doc.key)
        return doc

    list(open_reader([dataset, other], SEQUENCE, seed=0, epochs=1, vocabulary=VOCABULARY, prepare=note))
    assert len(seen) == 12
    info = json.loads((other / "dataset.json").read_text())
    info["streams"]["hubert"]["hop"] = 320
    (other / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ContractMismatch, match="hop: 640"):
        open_reader([dataset, other], SEQUENCE, seed=0, vocabulary=VOCABULARY)


def test_a_stream_that_the_dataset_lacks_is_refused(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", [corpus(1)])
    info = json.loads((root / "dataset.json").read_text())
    del info["streams"]["pitch"]
    (root / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"'expressive' needs \['pitch'\]"):
        open_reader(root, SEQUENCE, seed=0, vocabulary=VOCABULARY)


def test_a_rank_outside_the_world_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"rank must lie in \[0, 2\), got 2"):
        reader(dataset, rank=2, world_size=2)


def test_the_vocabulary_is_that_of_the_dataset(dataset: Dataset) -> None:
    pytest.importorskip("stages.tokenizer")
    vocabulary = vocabulary_of(dataset)
    assert vocabulary.sizes == SIZES
    assert vocabulary.size == vocabulary.tokenizer.vocab_size + 2 + sum(SIZES.values()) + 2


def test_the_reader_imports_neither_torch_nor_an_engine() -> None:
    code = (
        "import sys, pipeline.reader; print(sorted({'torch', 'apache_beam', 'ray', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def ids_of(blocks: Iterable[Any]) -> list[list[int]]:
    return [block["input_ids"].tolist() for block in blocks]


def content(blocks: Iterable[Any]) -> Counter[int]:
    """The tokens of blocks, without markers and padding."""
    pairs = (
        pair for block in blocks for pair in zip(block["input_ids"].tolist(), block["modality"].tolist(), strict=True)
    )
    return Counter(token for token, modality in pairs if modality >= 0 and token not in MARKERS)


def torch_sequences(dataset: Dataset, *, epochs: int | None = 1, **options: Any) -> Any:
    from pipeline.reader.torch_dataset import TorchSequences

    opened = partial(open_reader, dataset, SEQUENCE, seed=0, epochs=epochs, vocabulary=VOCABULARY)
    return TorchSequences(opened, **options)


def test_the_torch_dataset_gives_the_readers_blocks(dataset: Dataset) -> None:
    torch = pytest.importorskip("torch")
    for tensors, block in zip(torch_sequences(dataset), reader(dataset), strict=True):
        assert all(torch.equal(tensors[name], torch.from_numpy(block[name])) for name in block)


def test_a_loader_with_workers_gives_the_blocks_of_one_process_in_their_order(dataset: Dataset) -> None:
    torch = pytest.importorskip("torch")
    for rank in range(2):
        sequences = torch_sequences(dataset, epochs=None, rank=rank, world_size=2, streams=8)
        loader = torch.utils.data.DataLoader(sequences, batch_size=None, num_workers=2)
        alone = reader(dataset, epochs=None, rank=rank, world_size=2, streams=8)
        assert ids_of(islice(loader, 12)) == ids_of(islice(alone, 12))


def test_batches_have_one_cu_seqlens(dataset: Dataset) -> None:
    torch = pytest.importorskip("torch")
    from pipeline.reader.torch_dataset import collate

    loader = torch.utils.data.DataLoader(torch_sequences(dataset), batch_size=3, collate_fn=collate)
    batch = next(iter(loader))
    documents = batch["document_ids"].flatten().tolist()
    places = [(i // 64, number) for i, number in enumerate(documents)]
    starts = [i for i in range(len(places)) if i == 0 or places[i] != places[i - 1]]
    assert batch["cu_seqlens"].tolist() == [*starts, 3 * 64]
    assert batch["input_ids"].shape == (3, 64)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_resumes_exactly(dataset: Dataset, workers: int) -> None:
    pytest.importorskip("torchdata")
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader() -> Any:
        return StatefulDataLoader(torch_sequences(dataset), batch_size=None, num_workers=workers)

    whole = ids_of(loader())
    first = loader()
    before = ids_of(islice(first, 5))
    state = first.state_dict()
    second = loader()
    second.load_state_dict(state)
    assert before + ids_of(second) == whole


def test_what_a_loader_saved_can_be_dealt_onto_other_ranks_and_workers(dataset: Dataset) -> None:
    pytest.importorskip("torchdata")
    from torchdata.stateful_dataloader import StatefulDataLoader

    from pipeline.reader.torch_dataset import reader_states

    drawn: list[list[int]] = []

    def note(doc: Document, epoch: int) -> Document:
        drawn.append(draw_sequence(doc, SEQUENCE, VOCABULARY, seed=0, epoch=epoch).ids.tolist())
        return doc

    list(reader(dataset, prepare=note))
    loader = StatefulDataLoader(torch_sequences(dataset), batch_size=None, num_workers=2)
    blocks = list(islice(loader, 5))
    saved = reader_states(loader.state_dict())
    assert len(saved) == 2
    for rank in range(3):
        sequences = torch_sequences(dataset, rank=rank, world_size=3)
        sequences.load_state_dict(saved)
        blocks += list(sequences)
    assert content(blocks) == Counter(token for ids in drawn for token in ids if token not in MARKERS)


def test_a_mixture_of_bakes_alone_carries_its_vocabulary(dataset: Dataset, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from jobs.cli import main

    arguments = [
        "bake",
        dataset.root,
        "--out",
        str(tmp_path / "b"),
        "--epochs",
        "1",
        "--streams",
        "1",
        "--workers",
        "1",
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    sequence = dataset.recipe.sequence
    baked = open_reader(Mixture(sources=[BakedSource(path=str(tmp_path / "b"))]), sequence, seed=5, epochs=1)
    assert baked.vocabulary.describe() == vocabulary_of(dataset).describe()
    drawn = open_reader(dataset, sequence, seed=0, epochs=1)
    assert sorted(ids_of(baked)) == sorted(ids_of(drawn))


def test_what_was_done_with_the_dataset_before_does_not_reach_the_workers(dataset: Dataset) -> None:
    torch = pytest.importorskip("torch")
    alone = torch_sequences(dataset)
    alone.state_dict()
    next(iter(alone))
    whole = ids_of(torch.utils.data.DataLoader(torch_sequences(dataset), batch_size=None, num_workers=3))
    assert ids_of(torch.utils.data.DataLoader(alone, batch_size=None, num_workers=3)) == whole


def test_a_snapshot_that_is_older_than_the_last_block_is_refused(dataset: Dataset) -> None:
    pytest.importorskip("torchdata")
    from torchdata.stateful_dataloader import StatefulDataLoader

    from pipeline.reader.torch_dataset import reader_states

    loader = StatefulDataLoader(torch_sequences(dataset), batch_size=None, num_workers=2, snapshot_every_n_steps=5)
    list(islice(loader, 8))
    with pytest.raises(ValueError, match="snapshot_every_n_steps=1"):
        reader_states(loader.state_dict())


def test_a_bake_of_other_units_is_refused_beside_a_dataset(dataset: Dataset, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from jobs.cli import main

    records = corpus(3)
    other = write_dataset(tmp_path / "other", [records])
    info = json.loads((other / "dataset.json").read_text())
    info["streams"]["hubert"]["codebook_sha256"] = "1" * 64
    (other / "dataset.json").write_text(json.dumps(info))
    arguments = ["bake", str(other), "--out", str(tmp_path / "b"), "--epochs", "1", "--streams", "1", "--workers", "1"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    mixture = Mixture(sources=[UnitsSource(path=dataset.root), BakedSource(path=str(tmp_path / "b"))])
    sequence = dataset.recipe.sequence
    with pytest.raises(ContractMismatch, match="codebook_sha256"):
        open_reader(mixture, sequence, seed=0)
    with pytest.raises(ContractMismatch, match="codebook_sha256"):
        open_reader(Mixture(sources=[UnitsSource(path=str(other))]), sequence, seed=0, like=dataset)


def test_the_blocks_of_a_seed_and_an_epoch_are_the_same_on_every_machine(dataset: Dataset) -> None:
    """Written down once: whoever changes them starts every run in progress from other data."""
    digest = hashlib.sha256()
    for block in reader(dataset, epochs=2, streams=3):
        for name in sorted(block):
            digest.update(block[name].astype("<i8").tobytes())
    assert digest.hexdigest() == "ae1ef173b8baa91c8a872a053739a9474ec85b0125f71ad6c4ad8dfc9b0caa19"
