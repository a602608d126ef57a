"""What each text or pair contributes to a score that is no mean: values whose mean is the score.

A table's paired interval resamples values per item. Where a score is a mean (accuracy) these are its terms. For a rank
correlation or an average precision they are the jackknife's, s + (n - 1) * (mean of s_without - s_without_i), where
s_without_i is the score of all items but the i-th (Efron and Tibshirani 1993, chapter 11). Values may leave the range
of the score: an item that hurts more than an average one helps has a negative value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray


def jackknife(score: float, without: Array) -> Array:
    """Return values (N,) with the mean `score`, from the scores without each item, (N,)."""
    return score + (len(without) - 1) * (without.mean() - without)


def pearson(first: Array, second: Array) -> float:
    """Return the linear correlation of two columns (N,); nan where one is constant."""
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / scale) if scale > 0 else float("nan")


def spearman_values(first: Sequence[float], second: Sequence[float]) -> Array:
    """Return values (N,) of Spearman's correlation, N >= 3. Takes O(N^2) time, O(N) memory."""
    from scipy.stats import rankdata

    columns = [np.asarray(column, dtype=np.float64) for column in (first, second)]
    ranks = [rankdata(column) for column in columns]
    without = np.empty(len(columns[0]))
    for item in range(len(without)):
        # ranks among the others: one less above the removed value, half of one less beside it
        rest = [
            np.delete(rank - (column > column[item]) - 0.5 * (column == column[item]), item)
            for rank, column in zip(ranks, columns, strict=True)
        ]
        without[item] = pearson(*rest)
    return jackknife(pearson(*ranks), without)


def average_precision_values(labels: Sequence[int], scores: Sequence[float]) -> Array:
    """Return values (N,) of average precision, for labels 0 and 1 with two or more of 1; ties are taken together.

    AP is the sum over thresholds k of hits_k * true_k / above_k over all hits. Without an item of threshold g, every
    k from g on has one less above, and one hit less where the item is a hit: prefix and suffix sums give all N scores.
    """
    truth = np.asarray(labels, dtype=np.float64)
    _, group = np.unique(-np.asarray(scores, dtype=np.float64), return_inverse=True)
    hits = np.bincount(group, weights=truth)  # (thresholds,)
    true, above, total = np.cumsum(hits), np.cumsum(np.bincount(group)), truth.sum()
    before = np.concatenate([[0.0], np.cumsum(hits * true / above)])
    fewer = np.maximum(above - 1, 1)  # above is 1 only at the first threshold, where the terms below are 0
    hit_term, miss_term = hits * np.maximum(true - 1, 0) / fewer, hits * np.where(above > 1, true, 0) / fewer
    hit_after, miss_after = (np.cumsum(term[::-1])[::-1] for term in (hit_term, miss_term))
    without_hit = (before[group] + hit_after[group] - np.maximum(true - 1, 0)[group] / fewer[group]) / (total - 1)
    without_miss = (before[group] + miss_after[group]) / total
    return jackknife(float(before[-1] / total), np.where(truth > 0, without_hit, without_miss))


def v_measure_values(labels: Sequence[Any], clusters: Array, drawn: Array) -> Array:
    """Return values (N,) of the V-measure of one clustering of `drawn` texts (indices into the N labels, may repeat).

    V = 2 I / (H_labels + H_clusters). Each drawn text changes it by its derivative with the clustering held fixed,
    whose mean over the drawn texts is zero; a text that was drawn m times has m of them, one that was not has none.
    """
    _, names = np.unique(np.asarray([str(label) for label in labels]), return_inverse=True)
    truth, (_, found) = names[drawn], np.unique(clusters, return_inverse=True)
    joint = np.zeros((names.max() + 1, found.max() + 1))
    np.add.at(joint, (truth, found), 1 / len(drawn))
    rows, columns = joint.sum(1)[truth], joint.sum(0)[found]  # (drawn,)
    h_labels, h_clusters = -np.log(rows), -np.log(columns)
    information = np.log(joint[truth, found]) + h_labels + h_clusters
    entropy = h_labels.mean() + h_clusters.mean()
    score = 2 * information.mean() / entropy
    change = 2 * (information - information.mean()) / entropy
    change -= score * (h_labels + h_clusters - entropy) / entropy
    weight = len(names) / len(drawn)
    return score + weight * np.bincount(drawn, weights=change, minlength=len(names))
