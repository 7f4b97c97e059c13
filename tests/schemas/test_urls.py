"""Names of files as others see them: no credentials, and else unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.clock import Samples
from schemas.records import Aligned, Checked, Clip, Encoded, Utterance
from schemas.rejects import Reason, Reject
from schemas.unit_record import UnitRecord
from schemas.urls import public_url

SECRET = "https://user:hunter2@h/a.wav?id=5&X-Amz-Signature=abc"
SHOWN = "https://h/a.wav?id=5&X-Amz-Signature=..."


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (SECRET, SHOWN),
        ("https://only-a-token@h/a.wav", "https://h/a.wav"),
        ("https://u:p@ss@h/a.wav", "https://h/a.wav"),
        ("s3://key:secret@bucket/a@b.wav", "s3://bucket/a@b.wav"),
        ("https://h/a.wav?sv=2024&sig=x%2B&se=1", "https://h/a.wav?sv=2024&sig=...&se=1"),
        ("https://h/a.wav?key=AIza&alt=media", "https://h/a.wav?key=...&alt=media"),
        ("https://h/a?GoogleAccessId=g&Signature=s", "https://h/a?GoogleAccessId=g&Signature=..."),
        ("https://h/a?access_token=t&api-key=k&apikey=l", "https://h/a?access_token=...&api-key=...&apikey=..."),
        ("https://h/a?X-Amz-Security-Token=t&X-Amz-Date=d", "https://h/a?X-Amz-Security-Token=...&X-Amz-Date=d"),
        ("abfs://container@account.dfs.core.windows.net/a.wav", "abfs://container@account.dfs.core.windows.net/a.wav"),
        ("abfs://name:secret@account/a.wav", "abfs://account/a.wav"),
        ("s3://bucket/token=5/a.wav", "s3://bucket/token=5/a.wav"),
        ("corpus/token=5/a@b?sig=1.wav", "corpus/token=5/a@b?sig=1.wav"),
        ("https://h/a.wav?signature", "https://h/a.wav?signature"),
    ],
)
def test_credentials_are_left_out_and_nothing_else(url: str, shown: str) -> None:
    assert public_url(url) == shown
    assert public_url(shown) == shown


@given(st.text())
def test_what_is_no_url_stays_as_it_is(path: str) -> None:
    assert public_url(path) == path or "://" in path


@given(st.text(), st.text())
def test_it_is_the_same_twice(place: str, query: str) -> None:
    shown = public_url(f"https://{place}?{query}")
    assert public_url(shown) == shown


def test_a_name_of_megabytes_is_no_burden() -> None:
    """A search that is not linear would take hours."""
    for part in ("a-key", "token", "a@", "://", "auth", "&"):
        public_url("https://h/a?" + part * 200_000)
        public_url("https://" + part * 200_000)


def test_neither_a_record_nor_a_reject_holds_them() -> None:
    import numpy as np

    row = Utterance(key="k", id="k", audio=SECRET, location=SECRET, text="x", recording="r", index=0)
    clip = Clip(utterance=row, pcm=np.zeros(160, np.int16), source_rate=16_000, source_channels=1)
    aligned = Aligned(clip=clip, words=(), score_all=None, score_words=None, fallback=False)
    encoded = Encoded(checked=Checked(aligned=aligned, doubtful=()), streams=())
    record = UnitRecord.from_encoded(encoded, flac=None, store_f0=False)
    assert record.meta["audio"] == SHOWN
    assert record.num_samples == Samples(160)
    reject = Reject.of(row, "decode", Reason.MISSING_AUDIO, "no such object")
    assert reject.detail == f"{SHOWN}: no such object"
