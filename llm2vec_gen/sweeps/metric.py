"""The metric that a search optimises: the last loss, a validation metric or a main score of a finished job, by name."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llm2vec_gen.artifacts.steps import runs
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import LOWER_IS_BETTER, MODEL, Score

if TYPE_CHECKING:
    from llm2vec_gen.config import Plan

CURVE, VALIDATION = "train/", "val/"
HIGHER_IS_BETTER = ("cosine_match", "retrieval", "retrieval_mrr")
"""What a validation measures beside the losses."""


def check(plan: Plan, name: str, step: str) -> None:
    """Raise InputError unless a job of this plan and step will have the metric; the message lists those it will
    have."""
    known = [f"{CURVE}{loss}" for loss in ("loss", *plan.settings["loss"])] if runs(step, "train") else []
    known += _validated(plan) if known else []
    if name in known:
        return
    if runs(step, "evaluate"):
        known += _of_scores(plan)
    if name not in known:
        has = ", ".join(known) or "no metric"
        raise InputError(f"hydra.sweeper.metric={name} is unknown; experiments/{step}.py with this config has {has}")


def read(plan: Plan, name: str) -> float:
    """Return the metric of the trained model from the artifacts of a finished job."""
    if name.startswith((CURVE, VALIDATION)):
        curve = plan.artifact("train").curves().get(name)
        if not curve:  # data.validation=auto holds out nothing where 2% of the queries are less than a batch
            raise InputError(f"hydra.sweeper.metric={name}: the training has no {name}; set data.validation=<a number>")
        return curve[-1][1]
    evaluation, _, task = name.partition("/")
    scores = [score for score in plan.artifact("evaluate").scores() or () if score.main]
    tasks = {task} if task else set(_averaged(plan, evaluation))
    return statistics.fmean(score.value for score in scores if score.task in tasks)


def results(plan: Plan, step: str) -> dict[str, float]:
    """Return the final losses and mean main scores of a job, "train/<loss>" and "<evaluation>/<category>".

    Only what complete artifacts have, in plain values: a job that failed after its training has its losses.
    """
    if not (runs(step, "train") or runs(step, "evaluate")):
        return {}
    encoder: str = plan.settings["encoder"] if runs(step, "evaluate") else MODEL
    found: dict[str, float | None] = {}
    counts = plan.artifact("train").counts() if encoder == MODEL else None
    if counts is not None:
        found = {f"{CURVE}{loss}": counts.get(loss) for loss in ("loss", *plan.settings["loss"])}
        found |= {name: counts.get(name) for name in _validated(plan)}
    scores = plan.artifact("evaluate", encoder).scores()
    if scores is not None:
        found |= _by_category(scores)
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def _by_category(scores: Iterable[Score]) -> dict[str, float | None]:
    """Return the mean over the tasks of a category, a task's over its subsets; None where one of them is missing."""
    tasks: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        if score.main:
            tasks[f"{score.evaluation}/{score.category}"][score.task].append(score.value)
    return {name: _mean([_mean(values) for values in found.values()]) for name, found in tasks.items()}


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else statistics.fmean(values)  # type: ignore[arg-type]


def direction_of(plan: Plan, name: str) -> str:
    """Return the direction in which a metric is optimised."""
    part, _, metric = name.partition("/")
    if f"{part}/" in (CURVE, VALIDATION):
        return "maximize" if metric in HIGHER_IS_BETTER else "minimize"
    lower = [is_lower for task, is_lower in _is_lower(plan, part).items() if metric in ("", task)]
    return "minimize" if lower and all(lower) else "maximize"


def _is_lower(plan: Plan, evaluation: str) -> dict[str, bool]:
    """Return task -> whether lower is better in it."""
    built = plan.build(f"evaluation.{evaluation}", instruction=plan.build("instruction"))
    return {task: (built.category_of(task) or evaluation) in LOWER_IS_BETTER for task in built.tasks()}


def _averaged(plan: Plan, evaluation: str) -> list[str]:
    """Return the tasks whose mean is an evaluation's metric: without those of the other direction, if it has both."""
    lower = _is_lower(plan, evaluation)
    return [task for task, is_lower in lower.items() if not is_lower] or list(lower)


def _validated(plan: Plan) -> list[str]:
    """Return the metrics of the validation, none where no query is held out."""
    held_out = plan.settings["data.validation"] != 0
    return [f"{VALIDATION}{name}" for name in ("loss", *plan.settings["loss"], *HIGHER_IS_BETTER)] if held_out else []


def _of_scores(plan: Plan) -> list[str]:
    names = list(plan.settings.get("evaluation") or {})
    return [*names, *(f"{name}/{task}" for name in names for task in _tasks(plan, name))]


def _tasks(plan: Plan, evaluation: str) -> Iterable[str]:
    return plan.build(f"evaluation.{evaluation}", instruction=plan.build("instruction")).tasks()
