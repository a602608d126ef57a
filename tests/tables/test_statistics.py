"""Intervals against a plain loop, changes against hand arithmetic."""

from __future__ import annotations

import random
import statistics

import pytest

from llm2vec_gen.tables.statistics import gap_closed, paired_interval, per_query, relative_change
from llm2vec_gen.types import Score


def score(encoder, task, seed, values, subset="default"):
    return Score(encoder, "e", task, "retrieval", subset, "test", "m", 0.0, True, seed=seed, per_query=values)


def values(seed, n, shift):
    draw = random.Random(seed)
    return {str(i): draw.random() + shift for i in range(n)}


def plain_interval(tasks, resamples=4000):
    draw, means = random.Random(1), []
    for _ in range(resamples):
        per_task = []
        for one, other in tasks:
            keys = draw.choices(list(one), k=len(one))
            per_task.append(statistics.fmean(one[key] - other[key] for key in keys))
        means.append(statistics.fmean(per_task))
    means.sort()
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def test_the_interval_is_that_of_a_plain_paired_bootstrap():
    ours = {"a": {"s": values(1, 60, 0.1)}, "b": {"s": values(2, 40, 0.1)}}
    theirs = {"a": {"s": values(3, 60, 0.0)}, "b": {"s": values(4, 40, 0.0)}}
    expected = plain_interval([(ours[task]["s"], theirs[task]["s"]) for task in ours])
    found = paired_interval(ours, theirs, ["a", "b"])
    assert found == pytest.approx(expected, abs=0.01)
    assert paired_interval(ours, theirs, ["a", "b"]) == found, "the same scores, the same interval"
    of_subsets = [{"t": {"one": rows["a"]["s"], "two": rows["b"]["s"]}} for rows in (ours, theirs)]
    assert paired_interval(*of_subsets, ["t"]) == pytest.approx(expected, abs=0.01), "a task is the mean of its subsets"
    alone = paired_interval(ours, theirs, ["a"])
    assert paired_interval(ours, theirs, ["a", "b"], weights=[1.0, 0.0]) == alone


def test_pairing_matters():
    """Two rows that differ by the same amount in every query: unpaired noise would be wide, paired there is none."""
    theirs = values(5, 30, 0.0)
    ours = {query: value + 0.25 for query, value in theirs.items()}
    found = paired_interval({"a": {"s": ours}}, {"a": {"s": theirs}}, ["a"])
    assert found == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize(
    "theirs",
    [{}, {"a": {}}, {"a": {"s": {"q": 1.0}}}, {"a": {"s": {"p": 1.0, "r": 0.0}}}, {"a": {"t": {"p": 1.0, "q": 0.0}}}],
    ids=["task", "empty", "few", "other query", "other subset"],
)
def test_no_interval_where_there_is_nothing_to_pair(theirs):
    assert paired_interval({"a": {"s": {"p": 1.0, "q": 0.5}}}, theirs, ["a"]) is None
    assert paired_interval({}, {}, []) is None


def test_values_per_query_are_means_over_seeds():
    rows = [
        score("x", "t", 1, {"p": 0.0, "q": 1.0}),
        score("x", "t", 2, {"q": 0.5, "p": 1.0, "only here": 1.0}),
        score("x", "t", 1, {"p": 1.0}, subset="other"),
        score("x", "t", 2, {"p": 0.0}, subset="other"),
        score("x", "bare", 1, {"p": 1.0}),
        score("x", "bare", 2, {}),
        score("y", "t", 1, {"p": 9.0}),
    ]
    assert per_query(rows, "x") == {"t": {"default": {"p": 0.5, "q": 0.75}, "other": {"p": 0.5}}}


def test_changes_by_hand():
    assert relative_change(62.1, 56.8) == pytest.approx(0.0933, abs=1e-4)
    assert relative_change(26.5, 46.7) == pytest.approx(-0.4325, abs=1e-4)
    assert relative_change(0.1, -0.2) == pytest.approx(1.5)
    assert relative_change(None, 1.0) is relative_change(1.0, None) is relative_change(1.0, 0.0) is None
    assert gap_closed(2.0, 1.0, 3.0) == 0.5
    assert gap_closed(2.0, 1.0, 1.0) is gap_closed(None, 1.0, 2.0) is None
