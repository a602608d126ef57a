"""An own loss: the embedding points where the target points, whatever their lengths."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from llm2vec_gen.losses.base import Loss
from llm2vec_gen.types import Batch, EncoderOutput


class CosineLoss(Loss):
    """One minus the cosine of embedding e (B, E) and target t (B, E), mean over the batch; between 0 and 2."""

    def forward(self, model: Any, output: EncoderOutput, batch: Batch) -> Tensor:
        """Return the scalar; gradients flow through `output.embedding`."""
        targets = batch.targets.to(output.embedding)  # (B, E)
        return 1 - F.cosine_similarity(output.embedding, targets, dim=1).mean()
