"""Names seen before: exact, with and without runs on disk."""

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import distinct
from pipeline.distinct import Distinct

NAMES = st.lists(st.text(max_size=3) | st.sampled_from(["a", "b", "\ud800", "a\0"]), max_size=60)


@given(names=NAMES, recent=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_it_is_a_set(names, recent):
    found, seen = Distinct(recent=recent), set()
    for name in names:
        assert found.add(name) == (name not in seen)
        seen.add(name)


def test_names_are_found_in_any_of_many_runs_and_blocks():
    found = Distinct(recent=3 * distinct.FENCE + 1)
    count = 5 * distinct.FENCE * 3
    assert all(found.add(f"n{i}") for i in range(count))
    assert len(found._runs) > 3
    assert not any(found.add(f"n{i}") for i in range(count))
    assert found.add("another")


def test_a_filter_that_says_yes_to_everything_changes_no_answer(monkeypatch):
    monkeypatch.setattr(Distinct, "_filtered", lambda self, digest: True)
    found = Distinct(recent=50)
    assert [found.add(f"n{i % 700}") for i in range(1400)] == [True] * 700 + [False] * 700


def test_nearly_all_new_names_are_answered_without_a_run(monkeypatch):
    found = Distinct(recent=1000)
    for i in range(5000):
        found.add(f"n{i}")
    asked = []
    contains = distinct._Run.__contains__
    monkeypatch.setattr(distinct._Run, "__contains__", lambda run, digest: (asked.append(1), contains(run, digest))[1])
    for i in range(5000):
        found.add(f"m{i}")
    assert len(asked) < 5


def test_what_stays_in_memory_is_the_filter_and_the_latest():
    code = (
        "import resource; from pipeline.distinct import Distinct\n"
        "d = Distinct(recent=10_000)\n"
        "d.add('x'); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "distinct = sum(d.add(str(i % 60_000)) for i in range(90_000))\n"
        "print(distinct, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    count, grown = map(int, answer.split())
    assert count == 60_000
    assert grown * 1024 < distinct.FILTER_BYTES + 20 * 2**20


def test_bytes_that_lie_across_two_digests_are_no_digest():
    run = distinct._Run(b"".join([b"\0" * 8 + b"\2" * 8, b"\1" * 8 + b"\3" * 8, b"\2" * 8 + b"\1" * 8]))
    assert b"\2" * 8 + b"\1" * 8 in run  # it also lies across the first two
    assert b"\2" * 8 + b"\1" * 8 not in distinct._Run(b"".join([b"\0" * 8 + b"\2" * 8, b"\1" * 8 + b"\3" * 8]))
    assert b"\3" * 8 + b"\2" * 8 not in run
