"""The base of the contrastive objectives: each anchor's own positive against everything else in the effective batch."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.in_batch import similarities
from llm2vec_gen.training.llm2vec.objectives.base import Objective, ObjectiveBatch
from llm2vec_gen.training.settings import TrainingSettings


class ContrastiveObjective(Objective):
    """Batches of two or three columns: anchors, positives, and hard negatives where there are any.

    The loss is `in_batch_loss` over the effective batch: the columns of all ranks are brought together.
    """

    observed: tuple[str, ...] = ("accuracy", "cosine_match", "cosine_other")

    def __init__(
        self,
        training: TrainingSettings,
        temperature: float = 0.05,
        max_length: int = 512,
        lora_dropout: float = 0.05,
        attention_dropout: float = 0.0,
    ):
        super().__init__(training, max_length, lora_dropout, attention_dropout)
        self.temperature = temperature
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise InputError(f"temperature={temperature} of an objective: expected a finite number over 0")
        if training.batch_size < 2:
            raise InputError(f"batch_size={training.batch_size} of a contrastive objective: expected 2 or more")

    def loss(self, encoder: Any, batch: ObjectiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """`in_batch_loss` over all ranks, with one pass over all columns."""
        size = len(batch.ids)
        own = encoder.pooled([row for column in batch.columns for row in column])
        vectors = [gathered(column) for column in own.split(size)]
        keys = [gathered(column) for column in batch.keys]
        cosines = similarities(vectors[0], torch.cat(vectors[1:]))
        loss = in_batch_loss(cosines / self.temperature, same(keys[1], torch.cat(keys[1:])))
        # Each rank computes all of it, with gradients through its own rows alone: the ranks' gradients add up.
        return loss + (collectives.world_size() - 1) * (loss - loss.detach()), observe(cosines.detach())


def in_batch_loss(scores: Tensor, masked: Tensor | None = None) -> Tensor:
    """Mean over anchors of -log softmax(scores)[own]: scores (B, C), anchor i's own candidate is i.

    `masked` (B, C): candidates that are no negatives of an anchor, because they are the same text as its own.
    """
    if masked is not None:
        scores = scores.masked_fill(masked, float("-inf"))
    return cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def same(own: Tensor, candidates: Tensor) -> Tensor:
    """(B, C): candidate j is the same text as candidate i, which is anchor i's own, without being it."""
    equal = own[:, None] == candidates[None, :]
    return equal & ~torch.eye(*equal.shape, dtype=torch.bool, device=equal.device)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all ranks, in their order; gradients flow through this rank's own."""
    if collectives.world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(collectives.world_size())]
    dist.all_gather(parts, rows.detach().contiguous())
    parts[collectives.rank()] = rows
    return torch.cat(parts)


def observe(cosines: Tensor) -> dict[str, Tensor]:
    """How often the own candidate is the nearest, its cosine, and the mean cosine of the others; (B, C) cosines."""
    rows, columns = cosines.shape
    match = cosines.diagonal()
    nearest = cosines.argmax(dim=1) == torch.arange(rows, device=cosines.device)
    return {
        "accuracy": nearest.float().mean(),
        "cosine_match": match.mean(),
        "cosine_other": (cosines.sum() - match.sum()) / (rows * (columns - 1)),
    }
