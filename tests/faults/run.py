"""Storms until so many faults were done: python -m tests.faults.run --engine local --kills 100 --seed 7."""

import argparse
import json
import signal
import sys
from collections import Counter
from random import Random

from tests.faults.build import SPLITS
from tests.faults.storm import CLIMATES, WORKERS, Calm, Place, Storm, blow, kills, quiet

MOST_IN_A_BUILD = 12


def report(storm: Storm, calm: Calm) -> str:
    done = {
        "exit codes": dict(Counter(map(str, storm.runs))),
        "hits": dict(sorted(storm.hits.items())),
        "problems": storm.problems,
        "quiet seconds": round(calm.seconds, 1),
        "seconds": round(storm.seconds, 1),
        "seed": storm.seed,
        "splits done again": round(storm.done_again(calm), 2),
    }
    return json.dumps(done)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=sorted(CLIMATES), default="local")
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs in all; other faults come on top")
    parser.add_argument("--cluster", action="store_true", help="ray on a cluster of two nodes, with a token")
    parser.add_argument("--seed", type=int, default=7, help="of the first build; the next one has the next")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    place = Place()
    try:
        return _storms(place, chosen)
    finally:
        place.close()


def _storms(place: Place, chosen: argparse.Namespace) -> int:
    climate = place.gather() if chosen.cluster else CLIMATES[chosen.engine]
    calm = quiet(chosen.engine, climate, place)
    where = "on a tmpfs of its own" if place.mounted else "no mount here: the disk is never full"
    print(f"{chosen.engine}: quiet build in {calm.seconds:.1f} s, {where}", flush=True)
    hits, seed, again, bad, seconds = Counter[str](), chosen.seed, 0.0, 0, 0.0
    while kills(hits) < chosen.kills:
        most = min(chosen.kills - kills(hits), Random(seed).randint(3, MOST_IN_A_BUILD))
        storm = blow(chosen.engine, climate, place, seed, most, calm)
        print(report(storm, calm), flush=True)
        hits += storm.hits
        again += storm.done_again(calm)
        seconds += storm.seconds
        bad += bool(storm.problems)
        seed += 1
    print(
        f"{chosen.engine}: {kills(hits)} kills and {hits.total() - kills(hits)} other faults over {seed - chosen.seed} "
        f"builds of {SPLITS} splits in {seconds:.0f} s, {bad} builds with problems; {again:.1f} splits done again, "
        f"which took the time of {again / WORKERS:.1f}; {dict(sorted(hits.items()))}",
        flush=True,
    )
    return verdict(hits, again, bad)


def verdict(hits: Counter[str], again: float, bad: int) -> int:
    """Return the exit code: 1 after a build with problems, or where a fault cost more than the time of one split.

    Args:
        hits: faults by name.
        again: splits' worth of work that was done again; the workers did it at once.
        bad: builds with problems.
    """
    return int(bad > 0 or again / WORKERS > hits.total())


if __name__ == "__main__":
    sys.exit(main())
