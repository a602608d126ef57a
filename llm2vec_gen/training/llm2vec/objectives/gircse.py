"""GIRCSE's training (arXiv 2509.24291): a contrastive loss after every generated soft token."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.distributed import collectives
from llm2vec_gen.encoders.soft_tokens import check_soft_tokens, step_means
from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.in_batch import similarities
from llm2vec_gen.training.llm2vec.objectives.base import Noise, ObjectiveBatch, Tokenize, keys_of
from llm2vec_gen.training.llm2vec.objectives.contrastive import (
    ContrastiveObjective,
    gathered,
    in_batch_loss,
    observe,
    same,
)
from llm2vec_gen.training.settings import TrainingSettings

LEAST = 1e-8  # under the logarithm: a contrastive loss may be 0
POSITIVES = {"views": "texts", "completions": "pairs"}


class IterativeContrastiveRefinement(ContrastiveObjective):
    """L = 1/K sum over k of L_k + lambda 1/(K-1) sum over k < K of max(0, log L_(k+1) - log L_k).

    L_k = - 1/B sum over i of log( exp(cos(z_ik, c_ik) / t) / sum over j of exp(cos(z_ik, c_jk) / t) ) is the in-batch
    contrastive loss of z_k, the mean of the first k generated states, against the same mean of the candidates: the
    stepwise contrastive loss of the paper's objective, iterative contrastive refinement (ICR). The second term is its
    refinement penalty on steps that make the embedding worse. Defaults and the form of the penalty are those of the
    authors' code; a candidate that is the same text as a query's own is no negative here.

    positives: "views" for the self-supervised setting, a text against itself under another dropout (as SimCSE), from
    texts alone; "completions" for queries against their completions, hard negatives where the corpus has them.
    num_soft_tokens: K. refinement_weight: lambda. temperature: of the contrastive loss. soft_temperature: of the soft
    tokens. The backbone keeps its causal attention; dropout acts on the inputs of the adapter's layers alone.
    """

    causal = True
    third = "negative"
    observed = ("accuracy", "cosine_match", "cosine_other", "first_step", "last_step", "refinement")

    def __init__(
        self,
        training: TrainingSettings,
        positives: str = "views",
        num_soft_tokens: int = 5,
        refinement_weight: float = 1.0,
        temperature: float = 0.02,
        soft_temperature: float = 1.0,
        max_length: int = 512,
        lora_dropout: float = 0.1,
    ):
        super().__init__(training, temperature, max_length, lora_dropout)
        check_soft_tokens(num_soft_tokens, soft_temperature)
        if positives not in POSITIVES:
            raise InputError(f"positives={positives} of an objective: expected {' or '.join(POSITIVES)}")
        if positives == "views" and not lora_dropout:
            raise InputError(
                "lora_dropout=0 with positives=views: both views of a text would be the same; set it over 0, or "
                "positives=completions"
            )
        number = isinstance(refinement_weight, int | float) and not isinstance(refinement_weight, bool)
        if not number or not 0 <= refinement_weight < math.inf:
            raise InputError(
                f"refinement_weight={refinement_weight} of an objective: expected a finite number of at least 0"
            )
        self.positives, self.reads = positives, POSITIVES[positives]
        self.num_soft_tokens, self.soft_temperature = num_soft_tokens, soft_temperature
        self.refinement_weight = refinement_weight

    def batch(self, ids: list[str], rows: list[tuple[str, ...]], tokenize: Tokenize, noise: Noise) -> ObjectiveBatch:
        """Columns: the texts, twice; or queries, completions and, where the corpus has them, negatives."""
        columns = [tokenize(column) for column in zip(*rows, strict=True)]
        columns = columns * 2 if self.positives == "views" else columns
        return ObjectiveBatch(ids, columns, keys_of(columns))

    def loss(self, encoder: Any, batch: ObjectiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of both terms over all ranks, with one pass over all columns."""
        rows = [row for column in batch.columns for row in column]
        states = encoder.soft_token_states(rows, self.num_soft_tokens, self.soft_temperature)  # (N, K + 1, D)
        own = step_means(states, reads_text=False)  # (N, K, D)
        vectors = [gathered(column) for column in own.split(len(batch.ids))]
        keys = [gathered(column) for column in batch.keys]
        masked = same(keys[1], torch.cat(keys[1:]))
        steps = zip(vectors[0].unbind(1), torch.cat(vectors[1:]).unbind(1), strict=True)
        cosines = [similarities(anchors, candidates) for anchors, candidates in steps]  # K of (B, C)
        losses = torch.stack([in_batch_loss(step / self.temperature, masked) for step in cosines])  # (K,)
        refinement = worsening(losses)
        loss = losses.mean() + self.refinement_weight * refinement
        observed = {"first_step": losses[0], "last_step": losses[-1], "refinement": refinement}
        observed = {name: value.detach() for name, value in observed.items()} | observe(cosines[-1].detach())
        # Each rank computes all of it, with gradients through its own rows alone: the ranks' gradients add up.
        return loss + (collectives.world_size() - 1) * (loss - loss.detach()), observed


def worsening(losses: Tensor) -> Tensor:
    """Return the mean of max(0, log L_(k+1) - log L_k) over the steps of losses (K,); 0 of one step."""
    logarithms = losses.clamp_min(LEAST).log()
    return logarithms.diff().relu().sum() / max(1, len(losses) - 1)
