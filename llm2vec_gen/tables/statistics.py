"""How sure a difference is: paired bootstrap intervals over queries, spread over seeds, relative change."""

from __future__ import annotations

import functools
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from llm2vec_gen.types import Score

Values = Mapping[str, float]  # query -> value
PerQuery = Mapping[Any, Mapping[str, Values]]  # task -> subset -> query -> value
Spread = tuple[float, float, int]

RESAMPLES = 1000
CONFIDENCE = 0.95


def per_query(scores: Iterable[Score], encoder: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return task -> subset -> query -> value of one row: the mean over its seeds, of the queries that all have.

    A task that any seed scored without per-query values is not in it.
    """
    runs: dict[str, dict[str, dict[int | None, Values]]] = defaultdict(lambda: defaultdict(dict))
    bare = set()
    for score in scores:
        if score.encoder == encoder:
            runs[score.task][score.subset][score.seed] = score.per_query
            bare |= set() if score.per_query else {score.task}
    return {
        task: {subset: over_seeds(list(by_seed.values())) for subset, by_seed in subsets.items()}
        for task, subsets in runs.items()
        if task not in bare
    }


def over_seeds(runs: Sequence[Values]) -> dict[str, float]:
    """Return query -> mean over the runs, for the queries that all runs have, in the first one's order."""
    first, *others = runs
    shared = [query for query in first if all(query in other for other in others)]
    return {query: math.fsum(run[query] for run in runs) / len(runs) for query in shared}


def paired_interval(
    ours: PerQuery,
    theirs: PerQuery,
    tasks: Sequence[Any],
    weights: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """Return the bootstrap interval (percentiles) of the mean over tasks of mean(ours - theirs).

    The draw is paired: a query is drawn with both of its values. A task's mean is that over its subsets, queries drawn
    within each; `weights` replace the plain mean over tasks. None where a task lacks per-query values on either side,
    has other queries, or fewer than two. The same scores give the same interval.
    """
    if not tasks or any(not comparable(ours.get(task), theirs.get(task)) for task in tasks):
        return None
    total = np.zeros(resamples)
    for position, task in enumerate(tasks):
        weight = weights[position] if weights else 1 / len(tasks)
        for subset, values in ours[task].items():
            differences = tuple(value - theirs[task][subset][query] for query, value in values.items())
            total += weight / len(ours[task]) * resampled_means(differences, resamples, repr((task, subset)))
    low, high = np.quantile(total, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def comparable(one: Mapping[str, Values] | None, other: Mapping[str, Values] | None) -> bool:
    """Whether two rows have values for the same queries of the same subsets, at least two in each."""
    if not one or not other or one.keys() != other.keys():
        return False
    return all(len(one[subset]) > 1 and one[subset].keys() == other[subset].keys() for subset in one)


@functools.lru_cache(maxsize=2048)  # a task is drawn for its column and for the average, in every format of a table
def resampled_means(values: tuple[float, ...], resamples: int, seed: str) -> np.ndarray:
    """Return the means of `resamples` bootstrap samples; seeded by a name, so that rounded values are drawn alike."""
    from scipy.stats import bootstrap

    sample = np.array(values)
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    batch = max(1, 5_000_000 // len(sample))
    found = bootstrap((sample,), np.mean, n_resamples=resamples, batch=batch, method="percentile", rng=rng)
    return found.bootstrap_distribution


def seeds_interval(ours: Spread, theirs: Spread, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Return the interval of mean(ours) - mean(theirs) over seeds: Welch's, for two samples that are not paired.

    A `Spread` is (mean, standard deviation, seeds); seeds 0 is a figure that depends on none and is exact. None
    where a figure that does depend on them has only one.
    """
    from scipy.stats import t

    if ours[2] == 1 or theirs[2] == 1:
        return None
    parts = [(sd * sd / n, n - 1) for _, sd, n in (ours, theirs) if n]
    variance, difference = math.fsum(part for part, _ in parts), ours[0] - theirs[0]
    if not variance:
        return difference, difference
    freedom = variance**2 / math.fsum(part * part / n for part, n in parts)
    half = float(t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(variance)
    return difference - half, difference + half


def relative_change(ours: float | None, theirs: float | None) -> float | None:
    """Return (ours - theirs) / |theirs|; None where a value is missing or the divisor is 0."""
    if ours is None or not theirs:
        return None
    return (ours - theirs) / abs(theirs)


def gap_closed(ours: float | None, lower: float | None, upper: float | None) -> float | None:
    """Return (ours - lower) / (upper - lower), the fraction of the gap from `lower` to `upper` that ours closes."""
    if ours is None or lower is None or upper is None or upper == lower:
        return None
    return (ours - lower) / (upper - lower)
