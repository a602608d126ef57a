"""What a query costs: the tokens that go forward through language models until it has its embedding."""

from __future__ import annotations

import logging
from typing import Any

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import Evaluation, OverEvaluations, data_revision, encoder_name, instruction_for
from llm2vec_gen.types import Query, Score

log = logging.getLogger(__name__)


class Cost(OverEvaluations):
    """Count the forward tokens of each query of other evaluations; nothing is timed.

    evaluations  name -> evaluation whose queries are counted, as nodes of a config: each is built with this one's
                 instruction
    tasks        their tasks; null: all that have queries

    The encoder's `forward_tokens(texts, instruction)` counts, in its own tokens: instruction, query and
    suffix, once for each hop; prompts, answers and texts embedded where HyDE writes. A token counts 1 wherever it
    stands and however large the model is, so compare encoders of one backbone. An encoder that does not count gets no
    rows, with one line in the log.

    Rows: `forward_tokens` (main) for each task of `evaluations`, a subset, with the count of each query; its unit is
    tokens.
    """

    name = "cost"

    def tasks(self) -> list[str]:
        """Return the one task."""
        return ["query_cost"]

    def evaluate(self, encoder: Any, task: str) -> list[Score]:
        """Return a row for each task with queries; none for an encoder that does not count."""
        self.check_task(task)
        if not hasattr(encoder, "forward_tokens"):
            log.info("cost: skipped, %s does not count its forward tokens", encoder_name(encoder))
            return []
        counted = [(evaluation, name, queries) for evaluation in self.evaluations.values()
                   for name in evaluation.tasks() if (queries := self._queries(evaluation, name))]  # fmt: skip
        revision = data_revision([[query.id, query.text] for _, _, queries in counted for query in queries])
        return [self._counted(encoder, *one, revision) for one in counted]

    def _queries(self, evaluation: Evaluation, task: str) -> list[Query]:
        wanted = self.wanted is not None and task in self.wanted
        queries = evaluation.queries(task) if wanted or self.wanted is None else []
        if wanted and not queries:
            raise InputError(f"evaluation.cost.tasks: {evaluation.name}'s {task} has no queries of its own")
        return queries

    def _counted(self, encoder: Any, evaluation: Evaluation, task: str, queries: list[Query], revision: str) -> Score:
        category = evaluation.category_of(task)
        instruction = None if category is None else instruction_for(encoder, self.instruction).query(task, category)
        counts = encoder.forward_tokens([query.text for query in queries], instruction)
        values = {query.id: float(count) for query, count in zip(queries, counts, strict=True)}
        return self.row(encoder, "query_cost", values, metric="forward_tokens", main=True, category="cost",
                        subset=task, data_revision=revision)  # fmt: skip
