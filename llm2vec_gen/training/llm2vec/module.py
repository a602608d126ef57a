"""An objective as a Lightning module, and its corpus as a data module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.base import ResumableModule
from llm2vec_gen.training.datamodule import ResumableDataModule
from llm2vec_gen.training.llm2vec.corpus import CorpusRows
from llm2vec_gen.training.llm2vec.objectives.base import Objective, ObjectiveBatch
from llm2vec_gen.training.loader import Counts


class ObjectiveModule(ResumableModule):
    """Trains an encoder's adapter on an objective's loss.

    All randomness of a step is a function of (seed, step, rank), so a resumed run repeats it exactly.
    """

    def __init__(self, encoder: Any, objective: Objective, name: str, seed: int):
        super().__init__(encoder, objective.training, {name: objective}, ["loss", *objective.observed, "gradient_norm"])
        self.objective, self.name, self.seed = objective, name, seed

    def training_step(self, batch: ObjectiveBatch, batch_idx: int) -> Tensor:
        """Return the objective's loss over the effective batch."""
        torch.manual_seed(seed_of(self.seed, self.global_step, collectives.rank()))
        loss, observed = self.objective.loss(self.model, batch)
        tokens = sum(len(row) for column in batch.columns for row in column)
        self.record({"loss": loss.detach(), self.name: loss.detach(), **observed}, tokens)
        return loss


class ObjectiveData(ResumableDataModule):
    """Batches of `batch_size` rows of the corpus, tokenised as they are needed and cut at the objective's
    `max_length`."""

    def __init__(self, objective: Objective, corpus: CorpusRows, backbone: Any, seed: int):
        super().__init__(len(corpus), objective.training, seed)
        self.objective, self.corpus, self.backbone = objective, corpus, backbone

    def batch(self, step: int, rows: np.ndarray) -> tuple[ObjectiveBatch, Counts]:
        """Counts: samples, tokens, how many texts were cut."""
        counts = {"samples": len(rows), "tokens": 0, "texts_cut": 0}

        def tokenize(texts: Sequence[str]) -> list[Tensor]:
            tokens, length = self.backbone.tokenization, self.objective.max_length
            ids = tokens.ids(texts)
            counts["texts_cut"] += sum(len(tokens.wrap(row)) > length for row in ids)
            cut = [torch.tensor(tokens.wrap(row, length) or [self.backbone.end_id]) for row in ids]
            counts["tokens"] += sum(map(len, cut))
            return cut

        batch = self.objective.batch(
            [self.corpus.id(row) for row in rows],
            [self.corpus[row] for row in rows],
            tokenize,
            lambda place: np.random.default_rng([self.seed, step, int(rows[place])]),
        )
        for name, count in batch.counts.items():
            counts[name] += count
        return batch, counts


def check_size(name: str, objective: Objective, corpus: CorpusRows) -> None:
    """InputError where the corpus does not fill one batch."""
    size = objective.training.batch_size
    if len(corpus) < size:
        raise InputError(
            f"the corpus has {len(corpus)} {objective.reads}, fewer than one batch of "
            f"teacher_training.objectives.{name}.training.batch_size={size}; give a larger corpus or lower the batch "
            f"size"
        )


def seed_of(*numbers: int) -> int:
    """A seed for torch that differs wherever one of the numbers does."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
