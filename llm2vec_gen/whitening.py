"""Whitening of vectors: the same variance in every direction (ZCA), with shrinkage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.errors import InputError

RELATIVE_TOLERANCE = 1e-10
"""Variances up to this fraction of the largest one are rounding errors."""


def check_shrinkage(key: str, value: Any) -> None:
    """InputError unless `value` is None (no whitening) or a fraction from 0 to 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1):
        raise InputError(f"{key}={value}: expected a fraction from 0 (whiten fully) to 1 (rescale only), or null")


def zca(covariance: Tensor, shrinkage: float) -> Tensor:
    """Return the symmetric matrix (D, D) that whitens centred vectors (N, D) from the right: X -> X S.

    S = C'^(-1/2) with C' = (1 - shrinkage) C + shrinkage tr(C)/D: 0 whitens fully, 1 only rescales.

    Raises InputError where a direction of C' has no variance: S would divide by 0 there.
    """
    values, directions = torch.linalg.eigh(covariance)
    values = (1 - shrinkage) * values.clamp_min(0) + shrinkage * values.mean()
    if degenerate := int((values <= RELATIVE_TOLERANCE * values.max()).sum()):
        raise InputError(
            f"{degenerate} of {len(values)} directions have no variance (fewer vectors than dimensions, or constant "
            f"ones): whitening with shrinkage {shrinkage} would divide by 0; raise it (training.whiten_targets, or "
            "`whiten` of the encoder), e.g. to 0.1, or give more vectors"
        )
    return directions * values.rsqrt() @ directions.T
