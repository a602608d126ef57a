"""How sure a difference is: paired bootstrap intervals over queries, spread over seeds, relative change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from llm2vec_gen.types import Score

Values = Mapping[str, float]  # query -> value

RESAMPLES = 1000
CONFIDENCE = 0.95


def per_query(scores: Iterable[Score], encoder: str) -> dict[str, dict[str, float]]:
    """Task -> query -> value of one row, the mean over its seeds; queries that a seed lacks are left out.

    A task that any seed scored without per-query values is not in it.
    """
    runs: dict[str, dict[int | None, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    bare = set()
    for score in scores:
        if score.encoder == encoder:
            values = {f"{score.subset}/{query}": value for query, value in score.per_query.items()}
            runs[score.task][score.seed] |= values
            bare |= set() if values else {score.task}
    return {
        task: {query: float(np.mean([run[query] for run in by_seed.values()])) for query in shared(by_seed.values())}
        for task, by_seed in runs.items()
        if task not in bare
    }


def shared(runs: Iterable[Values]) -> list[str]:
    """The queries that all runs have, in the first one's order."""
    first, *others = list(runs)
    return [query for query in first if all(query in other for other in others)]


def paired_interval(
    ours: Mapping[str, Values],
    theirs: Mapping[str, Values],
    tasks: Sequence[str],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of the mean over tasks of mean(ours - theirs), queries drawn within each task.

    The draw is paired: a query is drawn with both of its values. None where a task lacks per-query values on either
    side, has other queries, or fewer than two. The generator is seeded: the same scores give the same interval.
    """
    from scipy.stats import bootstrap

    distributions = []
    for position, task in enumerate(tasks):
        one, other = ours.get(task), theirs.get(task)
        if not one or not other or one.keys() != other.keys() or len(one) < 2:
            return None
        differences = np.array([one[query] - other[query] for query in one])
        found = bootstrap(
            (differences,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, 5_000_000 // len(differences)),
            method="percentile",
            rng=np.random.default_rng(position),
        )
        distributions.append(found.bootstrap_distribution)
    if not distributions:
        return None
    low, high = np.quantile(np.mean(distributions, axis=0), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def relative_change(ours: float | None, theirs: float | None) -> float | None:
    """(ours - theirs) / |theirs|; None where there is nothing to compare, or nothing to divide by."""
    if ours is None or not theirs:
        return None
    return (ours - theirs) / abs(theirs)


def gap_closed(ours: float | None, lower: float | None, upper: float | None) -> float | None:
    """(ours - lower) / (upper - lower): the share of the way from `lower` to `upper` that ours has gone."""
    if ours is None or lower is None or upper is None or upper == lower:
        return None
    return (ours - lower) / (upper - lower)
