"""The reader keeps nothing of what it has given: ten epochs take no more memory than two."""

import gc
import tracemalloc
from pathlib import Path

import pytest

from pipeline.dataset import Dataset
from pipeline.reader import open_reader
from schemas.sequence import SequenceSection, SpiritLmPolicy
from stages.documents import Document
from stages.vocabulary import Vocabulary
from tests.sequence_builders import SIZES, ByteTokenizer, corpus, write_dataset

EPOCHS = 10


@pytest.mark.slow
def test_memory_is_flat_over_ten_epochs(tmp_path: Path) -> None:
    records = corpus(60)
    dataset = Dataset.open(str(write_dataset(tmp_path / "d", [records[:60], records[60:120], records[120:]])))
    sequence = SequenceSection(context=256, policy=SpiritLmPolicy(text_words=(2, 5), speech_words=(2, 4)))
    held: list[int] = []
    documents = 0

    def note(document: Document, epoch: int) -> Document:
        nonlocal documents
        documents += 1
        if epoch == len(held):  # the first document of an epoch
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        return document

    tracemalloc.start()
    try:
        for _ in open_reader(
            dataset, sequence, seed=0, epochs=EPOCHS, vocabulary=Vocabulary(ByteTokenizer(), SIZES), prepare=note
        ):
            pass
    finally:
        tracemalloc.stop()
    assert documents == 60 * EPOCHS
    # The tokens of one epoch take 170 kB.
    assert max(held[3:]) - held[2] < 50_000, held
