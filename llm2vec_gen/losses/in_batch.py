"""What losses over the pairs of a batch have in common: candidates of all ranks, and which of them are the same."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from llm2vec_gen.errors import InputError

SIMILARITIES = ("cosine", "dot")
_SAME = 0.01


def same_targets(own: Tensor, targets: Tensor) -> Tensor:
    """Return whether targets (C, E) are those of the same text as own targets (B, E), as a mask (B, C).

    They are where their distance is below 1% of what is usual (the root of the mean square, over all pairs of
    `targets`): an encoder gives one text slightly different vectors beside texts of other lengths.
    """
    own, targets = wide(own.detach()), wide(targets.detach())
    usual = 2 * (targets - targets.mean(dim=0)).square().sum(dim=1).mean()
    distances = torch.cdist(own, targets, compute_mode="donot_use_mm_for_euclid_dist")
    return distances <= _SAME * usual.sqrt()


def similarities(rows: Tensor, candidates: Tensor, similarity: str = "cosine") -> Tensor:
    """Return cosines or dot products (B, C) of rows (B, E) and candidates (C, E), in float32 under autocast too:
    divided by a temperature of 0.05, rounding to bfloat16 would move them by 0.1."""
    rows, candidates = wide(rows), wide(candidates)
    if similarity == "cosine":
        rows, candidates = normalize(rows, dim=-1), normalize(candidates, dim=-1)
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ candidates.T


def wide(rows: Tensor) -> Tensor:
    """Return the rows in float32, or as they are in float64."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def in_batch_loss(scores: Tensor, own: Tensor, same: Tensor) -> Tensor:
    """Return -log softmax of each row's own candidate, mean over rows, a scalar.

    Args:
        scores: (B, C) logits.
        own: (B,) place of each row's own candidate among the C.
        same: (B, C) `same_targets`: a candidate of the same text as the own one, without being it, is no negative.
    """
    others = torch.arange(scores.shape[1], device=scores.device)[None, :] != own[:, None]  # (B, C)
    return cross_entropy(scores.masked_fill(same & others, float("-inf")), own)


def check_pairs(candidates: int, name: str, trained: bool) -> None:
    """InputError for a batch of one that is trained on: it has no other candidate."""
    if candidates < 2 and trained:
        raise InputError(
            f"loss.{name} compares each query with the others of its batch, which has one; expected "
            "training.batch_size=2 or more"
        )
