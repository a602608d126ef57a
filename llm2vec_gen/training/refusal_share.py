"""Which rows are trained on, where refusals are to be a given fraction of them."""

from __future__ import annotations

import math

import numpy as np

from llm2vec_gen.errors import InputError


def rows_at_share(refuses: np.ndarray, hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Return the rows to keep, in their order, so that refusals are `fraction` of them; as many rows as that allows.

    Refusals are left out where there are more of them, other rows where there are fewer; those with the largest hashes
    first, so that which ones does not depend on the order of the rows.

    Args:
        refuses: whether the completion of each row refuses, bool (N,).
        hashes: of each row's query, uint64 (N,).
        fraction: 0 to 1; counts are rounded down, so the fraction is exact to one row.

    Raises InputError where the rows have none of the kind that the fraction needs.
    """
    refusals, others = np.flatnonzero(refuses), np.flatnonzero(~refuses)
    for rows, least, kind in ((refusals, fraction, "a refusal"), (others, 1 - fraction, "anything but a refusal")):
        if least > 0 and not len(rows):
            raise InputError(
                f"training.refusal_share={fraction}: no completion is {kind}; check training.refusal_patterns, or "
                "leave the fraction out"
            )
    if len(refusals) * (1 - fraction) > len(others) * fraction:
        refusals = _smallest(refusals, hashes, len(others) * fraction / (1 - fraction))
    else:
        others = _smallest(others, hashes, len(refusals) * (1 - fraction) / fraction if fraction else len(others))
    return np.sort(np.concatenate([refusals, others]))


def _smallest(rows: np.ndarray, hashes: np.ndarray, count: float) -> np.ndarray:
    kept = min(len(rows), math.floor(count + 1e-9))
    return rows[np.argsort(hashes[rows], kind="stable")[:kept]]
