"""Supervised contrastive learning: queries against their completions, hard negatives where the corpus has them."""

from __future__ import annotations

from llm2vec_gen.training.llm2vec.objectives.base import Noise, ObjectiveBatch, Tokenize, keys_of
from llm2vec_gen.training.llm2vec.objectives.contrastive import ContrastiveObjective


class SupervisedContrastive(ContrastiveObjective):
    """Candidates of each query: the completions and the hard negatives of the whole effective batch. A candidate that
    is the same text as the query's own completion is no negative."""

    reads = "pairs"
    third = "negative"

    def batch(self, ids: list[str], rows: list[tuple[str, ...]], tokenize: Tokenize, noise: Noise) -> ObjectiveBatch:
        """Columns: queries, completions and, where the corpus has them, negatives."""
        columns = [tokenize(column) for column in zip(*rows, strict=True)]
        return ObjectiveBatch(ids, columns, keys_of(columns))
