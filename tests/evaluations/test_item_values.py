"""Values per item against scores that scikit-learn and scipy give without each item."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, v_measure_score

from llm2vec_gen.evaluations.item_values import average_precision_values, jackknife, spearman_values, v_measure_values


def without_each(score, *columns):
    return np.array([score(*(np.delete(column, item) for column in columns)) for item in range(len(columns[0]))])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_and_rank_correlation_without_each_item(seed, ties):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 30))
    scores = rng.integers(0, 5, n) / 3 if ties else rng.normal(size=n)
    labels = np.concatenate([[1, 1], rng.integers(0, 2, n - 2)])
    expected = jackknife(average_precision_score(labels, scores), without_each(average_precision_score, labels, scores))
    np.testing.assert_allclose(average_precision_values(labels, scores), expected, atol=1e-10)
    grades = rng.permutation(n) // 2
    expected = jackknife(
        spearmanr(grades, scores)[0], without_each(lambda *columns: spearmanr(*columns)[0], grades, scores)
    )
    values = spearman_values(grades, scores)
    np.testing.assert_allclose(values, expected, atol=1e-9)
    assert values.mean() == pytest.approx(spearmanr(grades, scores)[0])


def test_v_measure_by_its_derivative():
    rng = np.random.default_rng(0)
    labels, drawn = [f"topic {n % 3}" for n in range(40)], rng.integers(0, 40, 3000)
    truth = np.array(labels)[drawn]
    clusters = (drawn % 3 + (rng.random(3000) < 0.3)) % 3
    values = v_measure_values(labels, clusters, drawn)
    assert values.mean() == pytest.approx(v_measure_score(truth, clusters))
    for item in (0, 7, 31):  # V after one draw more of this text, in each cluster that it was put in
        copies = np.flatnonzero(drawn == item)
        changes = [
            v_measure_score(np.append(truth, truth[copy]), np.append(clusters, clusters[copy])) for copy in copies
        ]
        moved = sum(change - values.mean() for change in changes) * 3001 * 40 / 3000
        assert values[item] - values.mean() == pytest.approx(moved, rel=0.02, abs=2e-3)
