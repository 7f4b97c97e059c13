from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.clock import Samples
from schemas.contract import ContractMismatch
from schemas.records import Word
from stages.documents import Document, document_from, documents_from
from tests.sequence_builders import HOPS, contracts, document, documents, record, recording


def test_words_of_later_utterances_move_onto_the_one_timeline() -> None:
    first = record("a", [Word("one", Samples(0), Samples(900), -1.0)], num_samples=1001, index=4)
    second = record(
        "b", [Word("--", None, None, None), Word("two", Samples(5), Samples(700), -1.0)], index=5, doubtful=[0]
    )
    joined = document_from([first, second], contracts())
    assert joined.key == "a"
    assert joined.keys == ("a", "b")
    assert [(w.text, w.start, w.end) for w in joined.words] == [
        ("one", 0, 900), ("--", None, None), ("two", 1006, 1701),
    ]  # fmt: skip
    assert joined.doubtful == {1}
    assert joined.closed_boundaries() == {1, 2}
    assert joined.text(0, 3) == "one -- two"


@given(doc=documents(), extra=st.sets(st.integers(0, 89)))
def test_boundaries_beside_a_doubtful_or_untimed_word_are_closed(doc: Document, extra: set[int]) -> None:
    count = len(doc.words)
    doc = replace(doc, doubtful=frozenset(i for i in extra if i < count))
    shut = [w.start is None or w.end is None or i in doc.doubtful for i, w in enumerate(doc.words)]
    assert doc.closed_boundaries() == {i for i in range(1, count) if shut[i - 1] or shut[i]}


@given(doc=documents(), cuts=st.lists(st.integers(0, 2_000_000), max_size=8), slot=st.sampled_from(sorted(HOPS)))
def test_any_cuts_partition_the_frames_of_every_utterance(doc: Document, cuts: list[int], slot: str) -> None:
    groups = doc.divide(slot, sorted(cuts))
    assert len(groups) == len(cuts) + 1
    found = [(part.segment, frame) for group in groups for part in group for frame in part.frames]
    assert found == [(i, f) for i, segment in enumerate(doc.segments) for f in range(len(segment.streams[slot]))]


@given(doc=documents(), cuts=st.lists(st.integers(0, 2_000_000), max_size=8), slot=st.sampled_from(sorted(HOPS)))
def test_a_frame_lies_on_the_side_of_a_cut_where_its_centre_lies(doc: Document, cuts: list[int], slot: str) -> None:
    cuts = sorted(cuts)
    for group, parts in enumerate(doc.divide(slot, cuts)):
        for segment, frames in parts:
            for frame in frames:
                here = doc.segments[segment]
                # The centre of a partial last frame may lie outside the utterance; it still belongs to it.
                centre = here.start + min(frame * HOPS[slot] + HOPS[slot] // 2, here.num_samples - 1)
                assert group == sum(cut <= centre for cut in cuts)


def test_a_hole_in_a_recording_ends_a_document() -> None:
    records = recording("r", [3, 3, 3, 3])
    del records[1]
    assert [d.keys for d in documents_from(records, contracts(), join=True)] == [("r-000",), ("r-002", "r-003")]


def test_recordings_and_single_utterances() -> None:
    records = recording("a", [2, 2]) + recording("b", [2], first_index=2)
    assert [d.keys for d in documents_from(records, contracts(), join=True)] == [("a-000", "a-001"), ("b-000",)]
    assert [d.keys for d in documents_from(records, contracts(), join=False)] == [("a-000",), ("a-001",), ("b-000",)]


def test_records_that_do_not_follow_are_refused() -> None:
    a, b = recording("a", [2, 2])
    with pytest.raises(ValueError, match=r"'a-000' does not follow 'a-001'"):
        document_from([b, a], contracts())


def test_a_stream_at_another_rate_than_its_contract_is_refused() -> None:
    good = record(num_samples=64_000)
    streams = {**good.streams, "hubert": np.repeat(good.streams["hubert"], 2)}
    with pytest.raises(ContractMismatch, match=r"'u0' has 200 frames of 'hubert'.* 25/1 Hz asks for 100"):
        document_from([record(num_samples=64_000, streams=streams)], contracts())
    with pytest.raises(ContractMismatch, match="no stream 'style'"):
        document_from(
            [record(streams={k: good.streams[k] for k in ("hubert", "pitch")}, num_samples=64_000)], contracts()
        )


def test_the_builder_makes_utterances_out_of_phase() -> None:
    assert any(segment.start % 640 for segment in document((5, 5, 5)).segments)


def test_a_partial_last_frame_stays_in_its_utterance() -> None:
    a, b = (record(key, num_samples=700, index=i, words=[Word("x", Samples(0), Samples(9), -1.0)])
            for i, key in enumerate("ab"))  # fmt: skip
    doc = document_from([a, b], contracts())
    # Frame 1 of each stands for sample 960 of an utterance of 700.
    for cut in (700, 800):
        assert doc.divide("hubert", [cut])[0] == [(0, range(0, 2))]
