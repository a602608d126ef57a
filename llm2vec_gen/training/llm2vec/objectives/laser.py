"""LaSER's training (arXiv 2603.01425): soft tokens learn from the same model that reads the reasoning as text."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

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


class LatentReasoning(ContrastiveObjective):
    """L = L_latent + L_explicit + a L_output + b L_process, the training of the paper.

    With p(v) = softmax over the passages d_j of cos(v, d_j) / t, and B queries i:
    L_latent = - 1/B sum over i of log p_i(z_i), z the mean of the K soft-token steps s_1 .. s_K of the query (the
    latent view); L_explicit the same of x, the state of an end token after query and reasoning (the explicit view);
    L_output = 1/B sum over i of KL(p(x_i) || p(z_i)), the paper's output-level distillation;
    L_process = 1/(B K) sum over i and k of KL(p(x_ik) || p(s_ik)) at a temperature of its own, x_ik being K states
    spread over the reasoning: its process-level trajectory alignment.
    The explicit side of both KL has no gradient. Passages go through K steps too. Weights and temperatures are those of
    the authors' code.

    The corpus's completions are the reasoning; a third text of a row (the `passage_column` of triplets) is the passage
    that belongs to the query. Without one the completion is the passage as well, which is the self-supervised reading
    of our own: the paper has a passage apart. The paper ends a reasoning segment at each paragraph and takes K of
    them; here they are K parts of equal length.

    num_soft_tokens: K. output_weight: a. process_weight: b. temperature: of the contrastive losses and the first KL.
    process_temperature: of the second.
    """

    reads = "pairs"
    third = "passage"
    causal = True
    observed = ("accuracy", "cosine_match", "cosine_other", "latent", "explicit", "output", "process")

    def __init__(
        self,
        training: TrainingSettings,
        num_soft_tokens: int = 3,
        output_weight: float = 10.0,
        process_weight: float = 0.1,
        temperature: float = 0.02,
        process_temperature: float = 0.05,
        soft_temperature: float = 1.0,
        max_length: int = 512,
        lora_dropout: float = 0.05,
    ):
        super().__init__(training, temperature, max_length, lora_dropout)
        check_soft_tokens(num_soft_tokens, soft_temperature)
        numbers = {"output_weight": output_weight, "process_weight": process_weight}
        for name, value in (numbers | {"process_temperature": process_temperature}).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf or (name not in numbers and not value):
                least = "of at least 0" if name in numbers else "over 0"
                raise InputError(f"{name}={value} of an objective: expected a finite number {least}")
        self.num_soft_tokens, self.soft_temperature = num_soft_tokens, soft_temperature
        self.output_weight, self.process_weight = output_weight, process_weight
        self.process_temperature = process_temperature
        self._tokens: Any = None
        self._end = -1

    def prepare(self, backbone: Any) -> None:
        """Keep the tokenizer, and the end token that closes the explicit view."""
        self._tokens, self._end = backbone.tokenization, backbone.end_id

    def batch(self, ids: list[str], rows: list[tuple[str, ...]], tokenize: Tokenize, noise: Noise) -> ObjectiveBatch:
        """Columns: queries; query, reasoning and end token; passages; places of the K segments' ends and of the end
        token in the second."""
        queries, passages = tokenize([row[0] for row in rows]), tokenize([row[-1] for row in rows])
        reasoning = [part[: self.max_length] for part in self._tokens.ids([row[1] for row in rows])]
        explicit = [
            torch.tensor([*query.tolist(), *part, self._end]) for query, part in zip(queries, reasoning, strict=True)
        ]
        places = [
            segment_ends(len(query), len(part), self.num_soft_tokens)
            for query, part in zip(queries, reasoning, strict=True)
        ]
        return ObjectiveBatch(ids, [queries, explicit, passages, places], keys_of([queries, passages]))

    def loss(self, encoder: Any, batch: ObjectiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the four terms over all ranks."""
        queries, explicit, passages, places = batch.columns
        steps = encoder.soft_token_states([*queries, *passages], self.num_soft_tokens - 1, self.soft_temperature)
        latent, read = steps.split(len(batch.ids))  # (B, K, D) each
        states = gathered(encoder.states_at(explicit, places))  # (B, K + 1, D)
        thought = gathered(latent)  # (B, K, D)
        query = gathered(step_means(latent, reads_text=True)[:, -1])
        passage = gathered(step_means(read, reads_text=True)[:, -1])
        keys = [gathered(column) for column in batch.keys]
        masked = same(keys[1], keys[1])
        ours, theirs = similarities(query, passage), similarities(states[:, -1], passage)  # (B, B)
        terms = {
            "latent": in_batch_loss(ours / self.temperature, masked),
            "explicit": in_batch_loss(theirs / self.temperature, masked),
            "output": divergence(theirs / self.temperature, ours / self.temperature),
            "process": divergence(
                similarities(states[:, :-1].flatten(0, 1), passage) / self.process_temperature,
                similarities(thought.flatten(0, 1), passage) / self.process_temperature,
            ),
        }
        loss = terms["latent"] + terms["explicit"]
        loss = loss + self.output_weight * terms["output"] + self.process_weight * terms["process"]
        observed = {name: value.detach() for name, value in terms.items()} | observe(ours.detach())
        # Each rank computes all of it, with gradients through its own rows alone: the ranks' gradients add up.
        return loss + (collectives.world_size() - 1) * (loss - loss.detach()), observed


def divergence(target: Tensor, scores: Tensor) -> Tensor:
    """Return the mean over rows of KL(softmax(target) || softmax(scores)), (N, C) each; `target` has no gradient."""
    return kl_div(scores.log_softmax(-1), target.detach().log_softmax(-1), reduction="batchmean", log_target=True)


def segment_ends(start: int, length: int, count: int) -> Tensor:
    """Return the last places of `count` parts of equal length of the tokens [start, start + length), and the place
    after them: (count + 1,). Without tokens all are the place after them."""
    ends = [start + max(1, -(-part * length // count)) - 1 if length else start for part in range(1, count + 1)]
    return torch.tensor([*ends, start + length])
