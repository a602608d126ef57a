"""Contrastive: the embedding should be nearer to its own target than to the other targets of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError, check_flag
from llm2vec_gen.losses.base import Loss
from llm2vec_gen.losses.in_batch import check_pairs, in_batch_loss, row_keys
from llm2vec_gen.types import Batch, EncoderOutput

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


class ContrastiveLoss(Loss):
    """InfoNCE (arXiv 1807.03748) of the embeddings against the teacher's vectors of the effective batch.

    L = -1/B sum_i log( exp(cos(e_i, t_i) / tau) / sum_j exp(cos(e_i, t_j) / tau) ), j over the B targets of all ranks.

    A target that equals t_i without being it (the same completion twice) is no candidate of e_i. `symmetric` takes the
    mean of this and of the same with the roles of e and t exchanged, as CLIP does; the embeddings of all ranks are then
    the candidates, and gradients flow to each of them.

    Args:
        weight: factor of this loss in the training's sum, 0 or more.
        temperature: tau, over 0.
        symmetric: add the loss of the targets against the embeddings.
        schedule: how the weight changes, see schedule.py; None keeps it.

    Raises:
        InputError: for another temperature; in `forward`, for a batch of one.

    Example:
        >>> import torch
        >>> from llm2vec_gen.losses.contrastive import ContrastiveLoss
        >>> from llm2vec_gen.types import Batch, EncoderOutput
        >>> output = EncoderOutput(soft_prompts=torch.zeros(2, 3, 4), embedding=torch.eye(2))  # (B, E)
        >>> batch = Batch(ids=["a", "b"], queries=[], completions=[], targets=torch.eye(2))
        >>> ContrastiveLoss(temperature=1.0)(None, output, batch)  # log(1 + exp(-1))
        tensor(0.3133)
    """

    least_batch_size = 2

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 0.05,
        symmetric: bool = False,
        schedule: Mapping[str, Any] | None = None,
    ):
        super().__init__(weight, schedule)
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not temperature > 0:
            raise InputError(f"loss.contrastive.temperature={temperature}: expected a number over 0")
        check_flag("loss.contrastive.symmetric", symmetric)
        self.temperature, self.symmetric = float(temperature), symmetric

    def forward(self, model: LLM2VecGen, output: EncoderOutput, batch: Batch) -> Tensor:
        """Return the loss of this rank's queries, a scalar; the mean over ranks is that of the effective batch."""
        embeddings = normalize(output.embedding, dim=-1)  # (B, E)
        targets = normalize(batch.targets.to(output.embedding), dim=-1)
        candidates, start = collectives.gather_rows(targets)  # (C, E)
        check_pairs(len(candidates), "contrastive", output.embedding.requires_grad)
        keys, _ = collectives.gather_rows(row_keys(batch.targets))
        own = start + torch.arange(len(embeddings), device=embeddings.device)
        loss = in_batch_loss(embeddings @ candidates.T / self.temperature, own, keys)
        if not self.symmetric:
            return loss
        candidates, _ = collectives.gather_rows(embeddings)
        return (loss + in_batch_loss(targets @ candidates.T / self.temperature, own, keys)) / 2
