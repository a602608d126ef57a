"""Reconstruction: the frozen language model should predict the completion from the soft prompts alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llm2vec_gen.losses.base import NEGATIVES, Loss, choice, negatives_of
from llm2vec_gen.types import Batch, EncoderOutput

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


class ReconstructionLoss(Loss):
    """Cross entropy of the completion's tokens given p_1..p_K, mean over all completion tokens of the batch.

    | soft prompts | completion        | predicted        |
    |--------------|-------------------|------------------|
    | p_1 .. p_K   | r_1 .. r_T-1      | r_1 .. r_T (end) |

    L = -1/N sum_i sum_t log P(r_it | p_i1 .. p_iK, r_i1 .. r_i(t-1)), with N the completion tokens of the batch, so it
    is not the mean of per-sample means. The pass runs in micro-batches of the backbone's token budget, and is exact.

    Args:
        weight: factor of this loss in the training's sum, 0 or more.
        schedule: how the weight changes, see schedule.py; None keeps it.
        of: the soft prompts and completions of "queries", or of their hard "negatives".

    Example (`model` is any LLM2VecGen):
        >>> import torch
        >>> from llm2vec_gen.losses.reconstruction import ReconstructionLoss
        >>> from llm2vec_gen.types import Batch
        >>> queries = [torch.tensor([5, 6, 7]), torch.tensor([8])]  # B rows of ids
        >>> completions = [torch.tensor([9, 10]), torch.tensor([11, 12, 13])]
        >>> batch = Batch(["a", "b"], queries, completions, targets=torch.zeros(2, model.embedding_dim))
        >>> loss = ReconstructionLoss()
        >>> value = loss(model, model(batch), batch)
        >>> value.shape, value.requires_grad, loss.terms(batch)
        (torch.Size([]), True, 5)
    """

    needs_soft_prompts = True

    digest_defaults = {**Loss.digest_defaults, "of": "queries"}

    def __init__(self, weight: float = 1.0, schedule: Mapping[str, Any] | None = None, of: str = "queries"):
        super().__init__(weight, schedule)
        self.of = choice("ReconstructionLoss: of", of, ("queries", NEGATIVES))
        self.needs = frozenset({of} - {"queries"})

    def forward(self, model: LLM2VecGen, output: EncoderOutput, batch: Batch) -> Tensor:
        """Return the loss, a scalar; gradients flow through the soft prompts."""
        if self.of == NEGATIVES:
            output, batch = negatives_of(output, batch)
        total, tokens = model.backbone.reconstruction_loss(output.soft_prompts, batch.completions)
        return total / max(tokens, 1)

    def terms(self, batch: Batch) -> int:
        """Return the number of terms of the mean, N: ranks with more tokens weigh more."""
        side = batch.negatives if self.of == NEGATIVES and batch.negatives is not None else batch
        return sum(len(completion) for completion in side.completions)
