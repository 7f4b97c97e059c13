"""Print what becomes of every case: `python -m tests.zoo.table [--engine ray] [--all]`. Exit code 1 on a surprise."""

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path

from tests.zoo import outcomes
from tests.zoo.book import Case, Zoo
from tests.zoo.build import build, row_outcomes
from tests.zoo.make_zoo import make_zoo


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="local", choices=("local", "beam", "ray"))
    parser.add_argument("--all", action="store_true", help="a line for each case, not for each group")
    parser.add_argument("--keep", type=Path, help="new folder for the zoo and its dataset")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = args.keep or Path(scratch) / "zoo"
        base.mkdir(parents=True)
        return _table(base, args.engine, everything=args.all)


def _table(base: Path, engine: str, *, everything: bool) -> int:
    zoo = make_zoo(base / "in")
    build(zoo, base / "out", "--engine", engine)
    told = row_outcomes(zoo, base / "out") + single_outcomes(zoo, base)
    wrong = [(case, got) for case, got in told if got not in case.expect]
    if everything:
        for case, got in told:
            print(f"{case.group} | {case.name[:60]!r} | {got}")
    else:
        for group in dict.fromkeys(case.group for case, _ in told):
            counts = Counter(got for case, got in told if case.group == group)
            print(f"{group} | {counts.total()} | {', '.join(f'{got} {n}' for got, n in counts.most_common())}")
    for case, got in wrong:
        print(f"SURPRISE: {case.group} | {case.name[:60]!r} | {got}, expected {' or '.join(case.expect)}")
    print(f"{len(told)} cases, {len(wrong)} surprises, engine {engine}")
    return 1 if wrong else 0


def single_outcomes(zoo: Zoo, base: Path) -> list[tuple[Case, str]]:
    """Return what becomes of manifests, recipes and shards; each is tried in an empty folder."""
    empty = base / "empty"
    empty.mkdir()
    good = base / "good.jsonl"
    good.write_text('{"audio_filepath": "in/good.flac", "text": "x", "offset": 0.3, "duration": 3.79}\n')
    here = os.getcwd()
    os.chdir(empty)
    try:
        told = [
            (case, outcomes.of_manifest(case.path, base / "plans" / str(i))) for i, case in enumerate(zoo.manifests)
        ]
        told += [
            (case, outcomes.of_recipe(case.path, good, base / "tried" / str(i))) for i, case in enumerate(zoo.recipes)
        ]
        told += [(case, outcomes.of_shard(case.path)) for case in zoo.shards]
    finally:
        os.chdir(here)
    assert not list(empty.iterdir()), "a case wrote where it was read"
    return told


if __name__ == "__main__":
    raise SystemExit(main())
