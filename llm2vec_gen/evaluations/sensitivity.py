"""How far a model's embeddings and decoded texts are from those of a reference model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import islice
from typing import Any

import torch

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.evaluations.base import Evaluation, data_revision
from llm2vec_gen.evaluations.decoding import can_decode
from llm2vec_gen.evaluations.ranking import vectors
from llm2vec_gen.types import Encoder, Instruction, QuerySource, Score


class Sensitivity(Evaluation):
    """Compare an encoder with `reference`, query by query.

    reference        builds an encoder of the same embedding size, trained towards the same teacher: a checkpoint
    queries          a query source; the first `limit` queries are compared (null: all)
    max_new_tokens   of the decoded texts
    category         whose instruction stands before the queries, for both encoders; null: none

    Tasks, each the mean over queries of a value from 0 to 1: `embedding_cosine`, cos(e, e_ref), which may be negative;
    `decoded_words`, the fraction of words that both decoded texts have of those that either has (Jaccard; 1 for two
    blank ones), and beside it `decoded_same`, whether they are the same text. An encoder that cannot decode has the
    first alone.
    """

    name = "sensitivity"

    def __init__(
        self,
        instruction: Instruction,
        reference: Callable[[], Encoder],
        queries: QuerySource,
        limit: int | None = 200,
        max_new_tokens: int = 64,
        category: str | None = None,
    ) -> None:
        super().__init__(instruction)
        check_integer("evaluation.sensitivity.limit", limit, null=True)
        check_integer("evaluation.sensitivity.max_new_tokens", max_new_tokens)
        self._open, self.source, self.limit = reference, queries, limit
        self.max_new_tokens, self.category = max_new_tokens, category

    @cached_property
    def reference(self) -> Any:
        """The reference, opened once."""
        return self._open()

    def tasks(self) -> list[str]:
        """Return the two tasks."""
        return ["embedding_cosine", "decoded_words"]

    def category_of(self, task: str) -> str | None:
        """Return the category that was given."""
        return self.category

    def evaluate(self, encoder: Encoder, task: str) -> list[Score]:
        """Return the rows of a task, with the value of each query."""
        self.check_task(task)
        queries = list(islice(self.source.queries(), self.limit))
        texts = [query.text for query in queries]
        instruction = None if self.category is None else self.instruction.query(task, self.category)
        if task == "embedding_cosine":
            found = {task: self._cosines(encoder, texts, instruction)}
        elif can_decode(encoder) and can_decode(self.reference):
            found = self._texts(encoder, texts, instruction)
        else:
            return []
        revision = data_revision([[query.id, query.text] for query in queries])
        return [
            self.row(encoder, task, {query.id: value for query, value in zip(queries, values, strict=True)},
                     metric=metric, main=metric == task, category=task, data_revision=revision)
            for metric, values in found.items()
        ]  # fmt: skip

    def _cosines(self, encoder: Encoder, texts: list[str], instruction: str | None) -> list[float]:
        if encoder.embedding_dim != self.reference.embedding_dim:
            raise InputError(
                f"evaluation.sensitivity.reference gives {self.reference.embedding_dim} dimensions, the encoder "
                f"{encoder.embedding_dim}; expected two models that were trained towards one teacher"
            )
        own, other = (vectors(model, texts, instruction) for model in (encoder, self.reference))
        return torch.cosine_similarity(own, other, dim=1).tolist()

    def _texts(self, encoder: Any, texts: list[str], instruction: str | None) -> dict[str, list[float]]:
        models: list[Any] = [encoder, self.reference]
        decoded = [
            [text.strip() for text in model.decode(model.soft_prompts(texts, instruction), self.max_new_tokens)]
            for model in models
        ]
        pairs = list(zip(*decoded, strict=True))
        return {
            "decoded_words": [overlap(first, second) for first, second in pairs],
            "decoded_same": [float(first == second) for first, second in pairs],
        }


def overlap(first: str, second: str) -> float:
    """Return the number of different words that both texts have, over that of those that either has; 1 for none."""
    one, other = set(first.casefold().split()), set(second.casefold().split())
    return len(one & other) / len(one | other) if one | other else 1.0
