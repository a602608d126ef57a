"""What a query costs: the tokens that go forward through language models until it has its embedding."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from llm2vec_gen import targets
from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import Evaluation, data_revision, encoder_name, instruction_for
from llm2vec_gen.types import Encoder, Instruction, Query, Score

log = logging.getLogger(__name__)


class Cost(Evaluation):
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

    def __init__(
        self, instruction: Instruction, evaluations: Mapping[str, Any], tasks: Sequence[str] | None = None
    ) -> None:
        super().__init__(instruction)
        self.evaluations = {
            name: targets.build(node, f"evaluation.cost.evaluations.{name}", instruction=instruction)
            for name, node in evaluations.items()
            if node
        }
        self.wanted = tasks
        self._check_wanted()

    def _check_wanted(self) -> None:
        """Raise InputError where a wanted task is in no evaluation, or an evaluation has no wanted task."""
        of_each = {name: evaluation.tasks() for name, evaluation in self.evaluations.items()}
        known, wanted = [task for tasks in of_each.values() for task in tasks], self.wanted
        if not known:
            raise InputError("evaluation.cost.evaluations names none; expected one at least, or leave `cost` out")
        if wanted is None:
            return
        if unknown := sorted(set(wanted) - set(known)):
            raise InputError(
                f"evaluation.cost.tasks={unknown}: expected some of the tasks {', '.join(known)} of "
                "evaluation.cost.evaluations, or null for all"
            )
        if uncounted := [name for name, tasks in of_each.items() if not set(tasks) & set(wanted)]:
            raise InputError(
                f"evaluation.cost.evaluations.{uncounted[0]}: evaluation.cost.tasks={list(wanted)} names none of its "
                f"tasks {', '.join(of_each[uncounted[0]])}; add one, or set evaluation.cost.evaluations."
                f"{uncounted[0]}=null"
            )

    def tasks(self) -> list[str]:
        """Return the one task."""
        return ["query_cost"]

    def check_data(self) -> None:
        """Raise InputError where the data of one of the evaluations is missing."""
        for evaluation in self.evaluations.values():
            evaluation.check_data()

    def check(self, encoder: Encoder | None = None) -> None:
        """Raise InputError where a task has no instruction."""
        for evaluation in self.evaluations.values():
            evaluation.check(encoder)

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
