"""Contrastive: the embedding should be nearer to its own completion than to the other completions of the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError, check_flag
from llm2vec_gen.losses.base import DOCUMENTS, NEGATIVES, Loss, choice, documents_of, negatives_of
from llm2vec_gen.losses.in_batch import SIMILARITIES, check_pairs, in_batch_loss, same_targets, similarities, wide
from llm2vec_gen.types import Batch, EncoderOutput

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

CANDIDATES = ("targets", DOCUMENTS)


class ContrastiveLoss(Loss):
    """InfoNCE (arXiv 1807.03748) of the embeddings e against candidates c of the effective batch.

    L = -1/B sum_i log( exp(s(e_i, c_i) / tau) / sum_j exp(s(e_i, c_j) / tau) ), j over the candidates of all ranks.

    | candidates  | c_1 .. c_B                                                     | with hard_negatives, also       |
    |-------------|----------------------------------------------------------------|---------------------------------|
    | "targets"   | the teacher's vectors of the completions                       | those of negative completions   |
    | "documents" | the model's own embeddings of the completions, behind their    | those of negative completions   |
    |             | own instruction (training.document_instruction)                |                                 |

    s is the cosine or the dot product. With hardness alpha, the exponential of the query's own hard negative n_i is
    multiplied by exp(alpha s(e_i, n_i)), s without gradient and not divided by tau. Gradients flow to the candidates of
    all ranks, where they have some.

    A candidate whose target is t_i again (the same completion twice, `same_targets`) is no candidate of e_i.
    `symmetric` takes the mean of this and of the same with the roles of e and c exchanged, as CLIP does, without hard
    negatives in that direction; the embeddings of all ranks are then the candidates, with gradients to each of them.

    The appendix of arXiv 2603.10913 on supervised training has "documents", hard negatives and a scale 1 / tau of 20.

    Args:
        weight: factor of this loss in the training's sum, 0 or more.
        temperature: tau, over 0; 1 / scale.
        symmetric: add the loss of the candidates against the embeddings.
        schedule: how the weight changes, see schedule.py; None keeps it.
        candidates: see the table.
        similarity: "cosine" or "dot".
        hard_negatives: whether the negatives' completions are candidates too.
        hardness: alpha, 0 or more; needs hard_negatives.

    Raises:
        InputError: for another value; in `forward`, for a batch of one.

    Example:
        >>> import torch
        >>> from llm2vec_gen.losses.contrastive import ContrastiveLoss
        >>> from llm2vec_gen.types import Batch, EncoderOutput
        >>> output = EncoderOutput(soft_prompts=torch.zeros(2, 3, 4), embedding=torch.eye(2))  # (B, E)
        >>> batch = Batch(ids=["a", "b"], queries=[], completions=[], targets=torch.eye(2))
        >>> ContrastiveLoss(temperature=1.0)(None, output, batch)  # log(1 + exp(-1))
        tensor(0.3133)
    """

    digest_defaults = {**Loss.digest_defaults, "candidates": "targets", "similarity": "cosine",
                       "hard_negatives": False, "hardness": 0.0}  # fmt: skip

    least_batch_size = 2

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 0.05,
        symmetric: bool = False,
        schedule: Mapping[str, Any] | None = None,
        candidates: str = "targets",
        similarity: str = "cosine",
        hard_negatives: bool = False,
        hardness: float = 0.0,
    ):
        super().__init__(weight, schedule)
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise InputError(f"ContrastiveLoss: temperature={temperature}: expected a finite number over 0")
        check_flag("ContrastiveLoss: symmetric", symmetric)
        check_flag("ContrastiveLoss: hard_negatives", hard_negatives)
        if isinstance(hardness, bool) or not isinstance(hardness, int | float) or not 0 <= hardness < math.inf:
            raise InputError(f"ContrastiveLoss: hardness={hardness}: expected a number of 0 or more")
        if hardness and not hard_negatives:
            raise InputError(
                f"ContrastiveLoss: hardness={hardness} weighs hard negatives, which are left out; set "
                "hard_negatives=true or hardness=0"
            )
        self.temperature, self.symmetric, self.hardness = float(temperature), symmetric, float(hardness)
        self.candidates = choice("ContrastiveLoss: candidates", candidates, CANDIDATES)
        self.similarity = choice("ContrastiveLoss: similarity", similarity, SIMILARITIES)
        self.hard_negatives = hard_negatives
        self.needs = frozenset({candidates} - {"targets"} | ({NEGATIVES} if hard_negatives else set()))

    def forward(self, model: LLM2VecGen, output: EncoderOutput, batch: Batch) -> Tensor:
        """Return the loss of this rank's queries, a scalar; the mean over ranks is that of the effective batch."""
        embeddings = output.embedding  # (B, E)
        own = self._candidates(output, batch)
        candidates, start = collectives.gather_rows(own)  # (C, E)
        check_pairs(len(candidates), "contrastive", embeddings.requires_grad)
        targets, _ = collectives.gather_rows(batch.targets)  # (C, E), of the candidates
        places = start + torch.arange(len(embeddings), device=embeddings.device)
        if self.hard_negatives:
            loss = self._with_negatives(output, batch, candidates, targets, places)
        else:
            scores = similarities(embeddings, candidates, self.similarity) / self.temperature
            loss = in_batch_loss(scores, places, same_targets(batch.targets, targets))
        if not self.symmetric:
            return loss
        others, _ = collectives.gather_rows(embeddings)
        scores = similarities(own, others, self.similarity) / self.temperature
        return (loss + in_batch_loss(scores, places, same_targets(batch.targets, targets))) / 2

    def _candidates(self, output: EncoderOutput, batch: Batch) -> Tensor:
        """Return the candidate of each query (B, E)."""
        if self.candidates == DOCUMENTS:
            return documents_of(output, batch)[0][: len(output.embedding)]
        return batch.targets.to(wide(output.embedding))

    def _with_negatives(
        self, output: EncoderOutput, batch: Batch, candidates: Tensor, targets: Tensor, places: Tensor
    ) -> Tensor:
        """Return the loss against C candidates (C, E) and the C hard negatives of all ranks."""
        negatives, _ = collectives.gather_rows(self._candidates(*negatives_of(output, batch)))
        of_negatives, _ = collectives.gather_rows(negatives_of(output, batch)[1].targets)
        found = similarities(output.embedding, torch.cat([candidates, negatives]), self.similarity)  # (B, 2 C)
        scores, hardest = found / self.temperature, places + len(candidates)
        if self.hardness:
            rows = torch.arange(len(places), device=places.device)
            scores = scores.index_put((rows, hardest), self.hardness * found[rows, hardest].detach(), accumulate=True)
        return in_batch_loss(scores, places, same_targets(batch.targets, torch.cat([targets, of_negatives])))
