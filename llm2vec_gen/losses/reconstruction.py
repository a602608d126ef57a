"""Reconstruction: the same frozen language model should retell the completion from the soft prompts alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from llm2vec_gen.losses.base import Loss
from llm2vec_gen.types import Batch, EncoderOutput


class ReconstructionLoss(Loss):
    """Cross entropy of the completion's tokens given p_1..p_K, mean over all completion tokens of the batch.

    | soft prompts | completion        | predicted        |
    |--------------|-------------------|------------------|
    | p_1 .. p_K   | r_1 .. r_T-1      | r_1 .. r_T (end) |

    Not the mean of per-sample means. The pass runs in micro-batches of the backbone's token budget, and is exact.
    """

    def forward(self, model: Any, output: EncoderOutput, batch: Batch) -> Tensor:
        """Scalar; gradients flow through `output.soft_prompts`."""
        total, tokens = model.backbone.reconstruction_loss(output.soft_prompts, batch.completions)
        return total / max(tokens, 1)

    def terms(self, batch: Batch) -> int:
        """Over how many terms this mean is taken (ranks with more tokens weigh more)."""
        return sum(len(completion) for completion in batch.completions)
