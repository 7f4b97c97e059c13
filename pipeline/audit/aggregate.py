"""Aggregates of a dataset, by DuckDB over its Parquet statistics. No record is loaded.

Queries are constants; file names and values reach DuckDB as parameters only.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import fsspec

from pipeline.audit.summary import (
    QUANTILES,
    Breakdown,
    Check,
    Group,
    Histogram,
    Rejects,
    SpeakerPitch,
    Totals,
    UnitUsage,
)
from pipeline.dataset import BadDataset, Dataset
from schemas.contract import UnitContract

MAX_GROUPS = 40
MAX_REJECTS = 50
BINS = 36

COLUMNS = ("source", "speaker", "language", "license")

_TOTALS = """
SELECT count(*), sum(num_samples), sum(speech_samples), sum(num_words), sum(num_unaligned), sum(num_doubtful),
       count(*) FILTER (WHERE fallback), count(DISTINCT recording),
       count(DISTINCT speaker) FILTER (WHERE speaker <> ''), sum(text_tokens), sum(hubert_runs)
FROM stats
"""

_GROUPS = {
    column: f"""
SELECT {column}, count(*), sum(num_samples), sum(num_words), sum(text_tokens), sum(hubert_runs)
FROM stats GROUP BY 1 ORDER BY 3 DESC, 1 LIMIT $limit
"""
    for column in COLUMNS
}

_DISTINCT = {column: f"SELECT count(DISTINCT {column}) FROM stats" for column in COLUMNS}

MEASURES = {
    "duration": "num_samples / 16000.0",
    "rate": "num_words * 16000.0 / num_samples",
    "score_all": "score_all",
    "score_worst": "score_worst",
    "voiced": "voiced_share",
    "speech": "speech_samples / num_samples",
}
"""Distributions over records: seconds, words per second, nats per frame, nats per frame, shares."""

_VALUES = "FROM (SELECT {measure} AS x FROM stats WHERE num_samples > 0) WHERE isfinite(x)"

_SPREAD = {
    name: f"SELECT count(*), avg(x), quantile_disc(x, [0.001, 0.999]), quantile_cont(x, $quantiles) "
    f"{_VALUES.format(measure=measure)}"
    for name, measure in MEASURES.items()
}

_BINNED = {
    name: "SELECT greatest(0, least($bins - 1, floor((x - $low) / $step)))::INT AS bin, count(*), "
    "count(*) FILTER (WHERE x < $low OR x > $low + $bins * $step) "
    f"{_VALUES.format(measure=measure)} GROUP BY 1 ORDER BY 1"
    for name, measure in MEASURES.items()
}

_PITCH = """
SELECT speaker, count(*), sum(voiced_share * num_samples) / sum(num_samples),
       quantile_cont(f0_median_hz, $quantiles) FILTER (WHERE f0_median_hz > 0)
FROM stats GROUP BY 1 HAVING max(f0_median_hz) > 0 ORDER BY sum(num_samples) DESC, 1 LIMIT $limit
"""

_WORST_ALL = "SELECT key, split FROM stats ORDER BY score_all, key LIMIT $limit"
_WORST_WORD = "SELECT key, split FROM stats ORDER BY score_worst, key LIMIT $limit"
# md5 is the same in every version of the database, so a seed means the same utterances for ever.
_RANDOM = "SELECT key, split FROM stats ORDER BY md5($seed || '/' || key), key LIMIT $limit"


class Statistics:
    """The statistics of a dataset as one table.

    Raises:
        BadDataset: on opening or at the first query, if a statistics file is missing or damaged.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._root = dataset.root
        # One thread: sums of floats, and so the report, come out the same on every machine.
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        paths = [f"{dataset.root}/shards/shard-{split:06d}.stats.parquet" for split in range(dataset.num_splits)]
        if "://" in dataset.root:
            self._connection.register_filesystem(fsspec.core.url_to_fs(dataset.root)[0])
        try:
            self._connection.read_parquet(paths).create_view("stats")
        except duckdb.Error as error:
            raise BadDataset(f"the statistics of {dataset.root} cannot be read: {error}") from error

    def _rows(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        try:
            rows: list[tuple[Any, ...]] = self._connection.execute(query, parameters).fetchall()
        except duckdb.Error as error:
            # The queries are constants, so what is wrong is a file; it may be opened only now.
            raise BadDataset(f"the statistics of {self._root} cannot be read: {error}") from error
        return rows

    def totals(self) -> Totals:
        names = (
            "utterances", "num_samples", "speech_samples", "words", "unaligned", "doubtful", "fallback",
            "recordings", "speakers", "text_tokens", "speech_tokens",
        )  # fmt: skip
        row = self._rows(_TOTALS)[0]
        return Totals(**{name: int(value or 0) for name, value in zip(names, row, strict=True)})

    def breakdown(self, column: str) -> Breakdown:
        """Return the totals by `column`, one of `COLUMNS`."""
        names = ("utterances", "num_samples", "words", "text_tokens", "speech_tokens")
        groups = tuple(
            Group(value=row[0], **dict(zip(names, map(int, row[1:]), strict=True)))
            for row in self._rows(_GROUPS[column], limit=MAX_GROUPS)
        )
        return Breakdown(column=column, groups=groups, distinct=int(self._rows(_DISTINCT[column])[0][0]))

    def histogram(self, name: str) -> Histogram:
        """Return the distribution of one of `MEASURES`, in at most `BINS` bins of a round width."""
        count, mean, ends, quantiles = self._rows(_SPREAD[name], quantiles=list(QUANTILES))[0]
        if not count:
            nan = (math.nan,) * len(QUANTILES)
            return Histogram(name=name, edges=(0.0, 1.0), counts=(0,), clamped=0, mean=math.nan, quantiles=nan)
        low, step, bins = round_bins(*ends, most=bins_for(count))
        counts, clamped = [0] * bins, 0
        for index, number, outside in self._rows(_BINNED[name], low=low, step=step, bins=bins):
            counts[index], clamped = number, clamped + outside
        edges = tuple(round(low + i * step, 9) for i in range(bins + 1))
        return Histogram(
            name=name, edges=edges, counts=tuple(counts), clamped=clamped, mean=mean, quantiles=tuple(quantiles)
        )

    def pitch(self, limit: int = 24) -> tuple[SpeakerPitch, ...]:
        """Return F0 and voicing of the speakers with the most audio."""
        return tuple(
            SpeakerPitch(speaker=speaker, utterances=count, voiced=voiced, quantiles=tuple(quantiles))
            for speaker, count, voiced, quantiles in self._rows(_PITCH, quantiles=list(QUANTILES), limit=limit)
        )

    def worst(self, limit: int) -> list[tuple[str, int, str]]:
        """Return (key, split, why) of the lowest mean scores and the lowest word scores, taken in turns."""
        by_mean = [(*row, "lowest mean score") for row in self._rows(_WORST_ALL, limit=limit)]
        by_word = [(*row, "lowest word score") for row in self._rows(_WORST_WORD, limit=limit)]
        chosen: dict[str, tuple[str, int, str]] = {}
        for pair in zip(by_mean, by_word, strict=True):
            for key, split, why in pair:
                if len(chosen) < limit:
                    chosen.setdefault(key, (key, split, why))
        return list(chosen.values())

    def random(self, limit: int, seed: int) -> list[tuple[str, int, str]]:
        """Return (key, split, why) of records chosen by the seed alone."""
        rows = self._rows(_RANDOM, seed=str(seed), limit=limit)
        return [(key, split, "chosen at random") for key, split in rows]


def bins_for(count: int) -> int:
    """Return how many bins `count` values deserve: Rice's rule, between 12 and `BINS`."""
    return min(BINS, max(12, math.ceil(2 * math.cbrt(count))))


def round_bins(low: float, high: float, *, most: int = BINS) -> tuple[float, float, int]:
    """Return (first edge, width, number) of at most `most` bins, at least 2, of a width 1, 2 or 5 times a power of ten.

    >>> round_bins(0.4, 9.7)
    (0.0, 0.5, 20)
    """
    span = max(high - low, 1e-6)
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10, 20) if power * m * (most - 1) >= span)
    first = math.floor(low / step) * step
    return first, step, max(1, math.floor((high - first) / step) + 1)


def unit_usage(commits: Iterable[Mapping[str, Any]], contracts: Mapping[str, UnitContract]) -> tuple[UnitUsage, ...]:
    """Add up the unit counts of all commit records."""
    totals = {name: [0] * contract.codebook_size for name, contract in contracts.items()}
    for commit in commits:
        for name, counts in commit["unit_counts"].items():
            if name not in totals:
                raise BadDataset(f"dataset.json does not describe the stream {name!r} of its commit records")
            if len(counts) != len(totals[name]):
                raise BadDataset(
                    f"the commit record of split {commit['split']} counts {len(counts)} ids of '{name}', "
                    f"the codebook has {len(totals[name])}"
                )
            totals[name] = [a + b for a, b in zip(totals[name], counts, strict=True)]
    return tuple(UnitUsage(contract=contracts[name], counts=tuple(counts)) for name, counts in totals.items())


def rejects_of(dataset: Dataset, commits: Iterable[Mapping[str, Any]]) -> Rejects:
    """Count the rejects by reason from the commit records, and read the first `MAX_REJECTS` of them."""
    reasons: Counter[str] = Counter()
    first: list[Mapping[str, str]] = []
    inputs = 0
    for commit in commits:
        inputs += commit["inputs"]
        reasons.update(commit["reasons"])
        if commit["rejects"] and len(first) < MAX_REJECTS:
            with fsspec.open(f"{dataset.root}/shards/rejects-{commit['split']:06d}.jsonl", "rt") as file:
                first += [json.loads(line) for line in file if line.strip()][: MAX_REJECTS - len(first)]
    ordered = tuple(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    return Rejects(inputs=inputs, count=reasons.total(), reasons=ordered, first=tuple(first))


def checks_of(info: Mapping[str, Any], totals: Totals, rejects: Rejects, units: Iterable[UnitUsage]) -> list[Check]:
    """Compare what the dataset says with what its commit records and statistics say."""
    frames = {usage.contract.stream: usage.frames for usage in units}
    pairs = [
        ("inputs are records and rejects", info["inputs"], info["records"] + info["rejects"]),
        ("commit records count every input", info["inputs"], rejects.inputs),
        ("commit records count every reject", info["rejects"], rejects.count),
        ("statistics hold every record", info["records"], totals.utterances),
        ("statistics hold all audio, in samples", info["num_samples"], totals.num_samples),
    ]
    checks = [Check(name=name, ok=a == b, detail=f"{a:,} and {b:,}") for name, a, b in pairs]
    empty = sorted(stream for stream, count in frames.items() if totals.utterances and not count)
    detail = ", ".join(f"{stream} {count:,}" for stream, count in frames.items())
    return [*checks, Check(name="every unit stream has frames", ok=not empty, detail=detail)]
