"""What losses over the pairs of a batch have in common: candidates of all ranks, and which of them are the same."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from llm2vec_gen.errors import InputError

SIMILARITIES = ("cosine", "dot")
_ODD = -7046029254386353131  # as an unsigned number 2^64 / 1.618: its multiples spread over all bits


def row_keys(rows: Tensor) -> Tensor:
    """Return a number (N,) for each row of vectors (N, E) or ids: equal rows have equal numbers, others almost never.

    Integer arithmetic, so that it depends on no order of summation; nothing waits for the device.
    """
    bits = rows.detach().float().contiguous().view(torch.int32).long()  # (N, E)
    factors = torch.arange(1, bits.shape[1] + 1, device=bits.device) * _ODD | 1
    return (bits * factors).sum(dim=1)


def similarities(rows: Tensor, candidates: Tensor, similarity: str = "cosine") -> Tensor:
    """Return cosines or dot products (B, C) of rows (B, E) and candidates (C, E)."""
    if similarity == "cosine":
        rows, candidates = normalize(rows, dim=-1), normalize(candidates, dim=-1)
    return rows @ candidates.T


def in_batch_loss(scores: Tensor, own: Tensor, keys: Tensor) -> Tensor:
    """Return -log softmax of each row's own candidate, mean over rows, a scalar.

    Args:
        scores: (B, C) logits.
        own: (B,) place of each row's own candidate among the C.
        keys: (C,) `row_keys` of the candidates; one equal to the own candidate without being it is no negative.
    """
    others = torch.arange(scores.shape[1], device=scores.device)[None, :] != own[:, None]  # (B, C)
    same = (keys[own][:, None] == keys[None, :]) & others
    return cross_entropy(scores.masked_fill(same, float("-inf")), own)


def check_pairs(candidates: int, name: str, trained: bool) -> None:
    """InputError for a batch of one that is trained on: it has no other candidate."""
    if candidates < 2 and trained:
        raise InputError(
            f"loss.{name} compares each query with the others of its batch, which has one; expected "
            "training.batch_size=2 or more"
        )
