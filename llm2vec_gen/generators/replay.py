"""Completions that the data already has: published ones, or human answers."""

from __future__ import annotations

from collections.abc import Sequence

from llm2vec_gen.errors import InputError
from llm2vec_gen.generators.base import Generator
from llm2vec_gen.types import Completion, Query


class Replay(Generator):
    """Takes each query's own answer as its completion; finish reason "replay", token counts 0."""

    def complete(self, queries: Sequence[Query]) -> list[Completion]:
        """Return one completion per query; raise InputError for a query that has no answer."""
        completions = [self._replay(query) for query in queries]
        self.count(completions)
        return completions

    @staticmethod
    def _replay(query: Query) -> Completion:
        if query.answer is None:
            raise InputError(
                f"the query {query.id!r} has no answer to replay; name the column with data.answer_column "
                "(data.answers=true for the pocket; data.negative_answer_column for hard negatives), or choose a "
                "generator that writes answers"
            )
        return Completion(query.id, query.text, query.answer.strip(), "replay")
