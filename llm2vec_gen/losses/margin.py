"""Margin: embeddings of different queries should keep a distance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError, check_flag
from llm2vec_gen.losses.base import NEGATIVES, Loss, negatives_of
from llm2vec_gen.losses.in_batch import check_pairs
from llm2vec_gen.types import Batch, EncoderOutput

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


class MarginLoss(Loss):
    """Hinge on the squared distance to every other embedding of the effective batch (supervised appendix of arXiv
    2603.10913).

    L = 1/(B (C - 1)) sum_i sum_j relu(m^2 - ||e_i - c_j||^2), c_j over the C embeddings of queries and of hard
    negatives of all ranks, without e_i itself. C is 2 B, or B without hard negatives. Gradients flow to both sides.

    Args:
        weight: factor of this loss in the training's sum, 0 or more.
        margin: m, over 0, in units of the embedding; Table 10 has 10.
        hard_negatives: whether the embeddings of the negative queries are candidates too.
        schedule: how the weight changes, see schedule.py; None keeps it.

    Raises:
        InputError: for another value; in `forward`, where a batch has no other embedding.

    Example:
        >>> import torch
        >>> from llm2vec_gen.losses.margin import MarginLoss
        >>> from llm2vec_gen.types import Batch, EncoderOutput
        >>> output = EncoderOutput(torch.zeros(2, 3, 4), embedding=torch.tensor([[0.0, 0.0], [3.0, 4.0]]))  # (B, E)
        >>> batch = Batch(ids=["a", "b"], queries=[], completions=[], targets=torch.zeros(2, 2))
        >>> MarginLoss(margin=10.0, hard_negatives=False)(None, output, batch)  # 10^2 - 5^2, twice
        tensor(75.)
    """

    def __init__(
        self,
        weight: float = 1.0,
        margin: float = 10.0,
        hard_negatives: bool = True,
        schedule: Mapping[str, Any] | None = None,
    ):
        super().__init__(weight, schedule)
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < math.inf:
            raise InputError(f"loss.margin.margin={margin}: expected a finite number over 0")
        check_flag("loss.margin.hard_negatives", hard_negatives)
        self.margin, self.hard_negatives = float(margin), hard_negatives
        self.needs = frozenset({NEGATIVES} if hard_negatives else ())
        self.least_batch_size = 1 if hard_negatives else 2

    def forward(self, model: LLM2VecGen, output: EncoderOutput, batch: Batch) -> Tensor:
        """Return the loss of this rank's queries, a scalar; the mean over ranks is that of the effective batch."""
        embeddings = output.embedding  # (B, E)
        candidates, start = collectives.gather_rows(embeddings)
        if self.hard_negatives:
            negatives, _ = collectives.gather_rows(negatives_of(output, batch)[0].embedding)
            candidates = torch.cat([candidates, negatives])  # (C, E)
        check_pairs(len(candidates), "margin", embeddings.requires_grad)
        # Not by dot products: their difference would lose what small distances between long vectors have.
        distances = torch.cdist(embeddings, candidates, compute_mode="donot_use_mm_for_euclid_dist").square()  # (B, C)
        own = start + torch.arange(len(embeddings), device=embeddings.device)
        values = (self.margin**2 - distances).relu().scatter(1, own[:, None], 0.0)
        return values.sum() / (len(embeddings) * max(1, len(candidates) - 1))
