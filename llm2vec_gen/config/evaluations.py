"""The evaluations of a config: their tasks, and the queries of theirs that `interpret` reads."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.evaluations.base import by_task
from llm2vec_gen.targets import locate

if TYPE_CHECKING:
    from llm2vec_gen.config.plan import Plan
    from llm2vec_gen.evaluations.base import Evaluation
    from llm2vec_gen.types import Query, QuerySource

MAX_SCORED_QUERIES = 1000  # of each task that interpret.evaluations names

Readable = tuple[dict[str, Any], list["Query"]]  # source, task and instruction of readings, and their queries


def tasks_of(plan: Plan) -> dict[str, Evaluation]:
    """Return task -> its evaluation; InputError where a task is unknown, or local data is missing or cannot be
    scored."""
    evaluations = plan.build_all("evaluation", instruction=plan.build("instruction")).values()
    for evaluation in evaluations:
        evaluation.check_data()
    return by_task(evaluations)


def interpreted(plan: Plan) -> list[str]:
    """Return the keys of interpret.evaluations; InputError where this config has no such evaluation.

    Also where an interpreter reads compression tokens, and the model's readout has none.
    """
    readout = plan.build("model.readout") if plan.settings["model"].get("readout") else None
    for name, node in (plan.settings.get("interpreter") or {}).items():
        if readout is None or readout.reads_suffix:
            break
        if getattr(locate(node["_target_"]), "needs_soft_prompts", False):
            raise InputError(
                f"interpreter.{name} reads compression tokens, and readout={readout.name} has none; leave it out "
                f"('~interpreter.{name}', or interpreter=[])"
            )
    there = list(plan.settings.get("evaluation") or {})
    names: list[str] = plan.settings["interpret"]["evaluations"]
    for name in names:
        if name not in there:
            raise InputError(
                f"interpret.evaluations has {name!r}, but the evaluations of this config are "
                f"{', '.join(there) or '(none)'}; take it out, or add evaluation={name}"
            )
    return names


def readable_queries(plan: Plan) -> list[Readable]:
    """Return the queries to read: those of interpret.queries, then those of each task of interpret.evaluations."""
    limit = plan.settings["interpret"]["limit"]
    check_integer("interpret.limit", limit, least=0)
    return [({}, _evenly_spaced(plan.build("interpret.queries"), limit)), *scored_queries(plan)]


def scored_queries(plan: Plan) -> list[Readable]:
    """Return the queries of what interpret.evaluations names, each task with the instruction it was scored with."""
    found: list[Readable] = []
    for name in interpreted(plan):
        evaluation = plan.build(f"evaluation.{name}", instruction=plan.build("instruction"))
        tasks = {task: queries for task in evaluation.tasks() if (queries := evaluation.queries(task))}
        if not tasks:
            raise InputError(
                f"interpret.evaluations has {name!r}, which scores no query by itself; take it out: interpret reads "
                "the queries of retrieval tasks and of evaluation=decoding"
            )
        for task, queries in tasks.items():
            category = evaluation.category_of(task)
            instruction = None if category is None else evaluation.instruction.query(task, category)
            origin = {"source": evaluation.name, "task": task, "instruction": instruction}
            found.append((origin, queries[:MAX_SCORED_QUERIES]))
    return found


def _evenly_spaced(source: QuerySource, limit: int) -> list[Query]:
    """`limit` queries spread evenly over the first 1,000, so that every kind of query can occur."""
    queries = list(islice(source.queries(), 1000))
    limit = min(limit, len(queries))
    return [queries[len(queries) * index // limit] for index in range(limit)]
