"""Targets scaled, centred or whitened before they are trained on.

Large common components of a teacher hide its differences. And Adam moves every weight by about the learning rate,
whatever the targets' scale: towards vectors of length 1 the first steps overshoot by many times their spread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm2vec_gen.errors import InputError
from llm2vec_gen.types import TargetMoments
from llm2vec_gen.whitening import RELATIVE_TOLERANCE, zca

MOMENT_ROWS = 100_000  # targets whose mean and variance stand for all: 1.6 GB read at 4,096 dimensions
ROWS_AT_A_TIME = 1024
LARGEST_STEP = 10  # times the targets' spread: LLM2Vec's targets under SmolLM2 have 1.3, MiniLM's 34

log = logging.getLogger(__name__)


class TargetTransform:
    """t -> f (t - m) S of targets (B, E).

    m (E,) is their mean with `centre` or `whiten`, else 0. S (E, E) is whitening.zca with `whiten`, else the identity.
    f is 1 / sqrt(their variance, averaged over E) with `scale`, else 1. Mean and variance are those of at most
    MOMENT_ROWS targets, spread evenly over all; `moments` are those of the transformed targets.

    Raises InputError for `scale` where all targets are equal.
    """

    def __init__(self, targets: Any, *, whiten: float | None, centre: bool, scale: bool):
        moments = target_moments(targets)
        mean, variances = moments.mean, moments.variances
        if scale and not float(variances.mean()) > RELATIVE_TOLERANCE * float(mean.square().mean()):
            raise InputError("training.scale_targets: all targets are equal, so that they have no spread to scale")
        self.factor = float(variances.mean()) ** -0.5 if scale else 1.0
        self.subtracted = mean if centre or whiten is not None else None
        self.scaling: Tensor | None = None
        if whiten is not None:  # the covariance of wide targets takes minutes, so only here
            _, covariance = _mean_and_covariance(targets)
            scaling = zca(covariance, whiten)
            self.scaling, variances = scaling.float(), (scaling @ covariance @ scaling).diagonal()
        mean_after = self.factor * mean if self.subtracted is None else torch.zeros_like(mean)
        self.moments = TargetMoments(mean_after, self.factor**2 * variances.clamp_min(0))

    def __call__(self, targets: Tensor) -> Tensor:
        """Return the transformed targets (B, E)."""
        centred = targets if self.subtracted is None else targets - self.subtracted
        return self.factor * (centred if self.scaling is None else centred @ self.scaling)


def warn_of_small_targets(
    model: nn.Module, losses: Mapping[str, Any], moments: TargetMoments, learning_rate: float | None
) -> None:
    """Log a warning where Adam's first steps move embeddings far beyond the targets' spread, sqrt(V / E).

    A step changes each weight of the alignment projection by about the learning rate, and so each dimension of the
    embedding by as much times the inputs, whose size is about 1. Losses of directions alone are not concerned.
    """
    layer = getattr(model, "alignment_projection", None)
    distances = {getattr(loss, "distance", "cosine") for loss in losses.values()} - {"cosine"}
    if not distances or not isinstance(layer, nn.Linear) or learning_rate is None:
        return
    spread, step = (moments.variance / len(moments.variances)) ** 0.5, learning_rate * layer.in_features
    if step > LARGEST_STEP * spread:
        log.warning(
            "the targets' spread is %.2g per dimension, but a step at learning rate %.2g can move a dimension of the "
            "embedding by up to %.2g, so that the first steps may overshoot; set training.scale_targets=true",
            spread, learning_rate, step,
        )  # fmt: skip


def target_moments(targets: Any) -> TargetMoments:
    """Return mean and variances of at most MOMENT_ROWS targets, spread evenly over all; read row by row."""
    total, squares, count = np.zeros(()), np.zeros(()), 0
    for row in _spread(targets):
        total, squares, count = total + row, squares + row * row, count + 1
    mean = np.asarray(total) / count
    variances = np.maximum(np.asarray(squares) / count - mean * mean, 0.0)
    return TargetMoments(torch.from_numpy(mean).float(), torch.from_numpy(variances))


def _mean_and_covariance(targets: Any) -> tuple[Tensor, Tensor]:
    """Mean (E,) and covariance (E, E) in float64, around the first target, so that a large mean costs no digits."""
    origin = np.asarray(targets[0], dtype=np.float64)
    total, products, count = np.zeros_like(origin), np.zeros((len(origin), len(origin))), 0
    pending: list[np.ndarray] = []
    for row in _spread(targets):
        pending.append(row - origin)
        if len(pending) == ROWS_AT_A_TIME:
            total, products, count = _added(pending, total, products, count)
            pending = []
    if pending:
        total, products, count = _added(pending, total, products, count)
    offset = total / count
    covariance = products / count - np.outer(offset, offset)
    return torch.from_numpy(origin + offset), torch.from_numpy(covariance)


def _added(
    rows: list[np.ndarray], total: np.ndarray, products: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, int]:
    block = np.stack(rows)
    return total + block.sum(0), products + block.T @ block, count + len(rows)


def _spread(targets: Any) -> Iterator[np.ndarray]:
    count = min(len(targets), MOMENT_ROWS)
    return (np.asarray(targets[len(targets) * place // count], dtype=np.float64) for place in range(count))
