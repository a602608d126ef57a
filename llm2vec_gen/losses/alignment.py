"""Alignment: the embedding of the query should be the teacher's vector of the completion."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from llm2vec_gen.losses.base import Loss
from llm2vec_gen.types import Batch, EncoderOutput, InputError

REDUCTIONS = ("mean", "sum")


class AlignmentLoss(Loss):
    """Squared distance of embedding (B, E) and target (B, E), mean over the batch, neither side normalised.

    | reduction | over dimensions | where it comes from                    |
    |-----------|-----------------|----------------------------------------|
    | "mean"    | mean            | the reference's code (default)         |
    | "sum"     | sum             | the squared norm that the paper prints |
    """

    def __init__(self, weight: float = 1.0, reduction: str = "mean"):
        super().__init__(weight)
        if reduction not in REDUCTIONS:
            raise InputError(f"loss.alignment.reduction is {reduction!r}; expected {' or '.join(REDUCTIONS)}")
        self.reduction = reduction

    def forward(self, model: Any, output: EncoderOutput, batch: Batch) -> Tensor:
        """Scalar; gradients flow through `output.embedding`."""
        targets = batch.targets.to(output.embedding)
        if targets.shape != output.embedding.shape:
            raise InputError(
                f"targets have shape {tuple(targets.shape)}, the embeddings {tuple(output.embedding.shape)}; "
                "train with embedding_dim equal to the teacher's"
            )
        squares = (output.embedding - targets).square()
        return squares.mean() if self.reduction == "mean" else squares.sum(dim=1).mean()
