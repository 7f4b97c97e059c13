"""One pass over what an audit needs, from cheap to dear: description, commit records, statistics, records."""

from pipeline.audit.aggregate import COLUMNS, MEASURES, Statistics, checks_of, rejects_of, unit_usage
from pipeline.audit.draws import Draw, length_bounds, recipe_draw
from pipeline.audit.examples import documents, load, measure
from pipeline.audit.summary import AuditSummary
from pipeline.backends import qc_config
from pipeline.dataset import Dataset


def collect(root: str, *, seed: int, examples: int, max_draws: int, draw: Draw | None) -> AuditSummary:
    """Return everything that `audit` reports; see there."""
    dataset = Dataset.open(root)
    recipe = dataset.recipe
    qc = qc_config(recipe)
    interleave = draw if draw is not None else recipe_draw(dataset, seed=seed)
    commits = [dataset.commit(split) for split in range(dataset.num_splits)]
    rejects = rejects_of(dataset, commits)
    units = unit_usage(commits, dataset.contracts)
    statistics = Statistics(dataset)
    totals = statistics.totals()
    sampled = documents(dataset, seed=seed, max_records=max_draws, join=recipe.sequence.join_recordings)
    return AuditSummary(
        info=dataset.info,
        contracts=dataset.contracts,
        thresholds={"min_score_all": qc.min_score_all, "doubtful_score": qc.doubtful_score},
        seed=seed,
        checks=tuple(checks_of(dataset.info, totals, rejects, units)),
        totals=totals,
        breakdowns=tuple(statistics.breakdown(column) for column in COLUMNS),
        histograms={name: statistics.histogram(name) for name in MEASURES},
        pitch=statistics.pitch(),
        units=units,
        rejects=rejects,
        draws=measure(sampled, interleave, length_bounds(recipe.sequence.policy)),
        worst=load(dataset, statistics.worst(examples), interleave),
        random=load(dataset, statistics.random(examples, seed), interleave),
    )
