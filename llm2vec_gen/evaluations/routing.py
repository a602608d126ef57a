"""When to let HyDE write: the threshold of a router, chosen on some queries, and its quality and cost on the others."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol, cast

from torch import Tensor

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import Evaluation, OverEvaluations, encoder_name
from llm2vec_gen.types import LOWER_IS_BETTER, Encoder, Instruction, Score

log = logging.getLogger(__name__)

FRACTIONS = [tenth / 10 for tenth in range(11)]
"""Of the validation queries: how many of them HyDE writes for at each point of the curve."""


class Routes(Protocol):
    """An encoder that takes one of two ways for each query, such as `encoders.router.Router`."""

    signal_name: str
    embedding_dim: int

    def at(self, threshold: float) -> Routes: ...

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor: ...

    def signals(self, texts: Sequence[str], instruction: str | None = None) -> Tensor: ...

    def costs(self, texts: Sequence[str], instruction: str) -> tuple[list[int], list[int]]: ...


@dataclass(frozen=True, slots=True)
class RoutedQuery:
    """A query's signal, its score and its cost (forward tokens) on either way: one pass, or HyDE."""

    id: str
    signal: float
    one_pass: float
    hyde: float
    one_pass_tokens: int
    hyde_tokens: int


class Routing(OverEvaluations):
    """Choose the threshold of `encoder=router` on a part of the queries, and measure the router on the others.

    evaluations  name -> evaluation whose queries are scored one by one (retrieval; higher must be better), as nodes of
                 a config: each is built with this one's instruction
    tasks        their tasks; null: all that have scores per query, except harmful retrieval
    validation   the part of the queries, by a hash of their ids, on which the threshold is chosen, between 0 and 1
    tolerance    the threshold chosen is the cheapest whose validation quality is within this of the best one

    Each query's rank does not depend on the others, so two evaluations of each task (all by one pass, all by HyDE) give
    the quality at every threshold. All queries of all tasks count the same. An encoder that does not route gets no
    rows.

    Rows: `quality` (main) on the test queries at the threshold that was chosen; `quality`, `forward_tokens` (a query's
    mean cost), `hyde_fraction` and `threshold` at each point of the curve, whose subset is the fraction of validation
    queries that HyDE writes for ("0.3") or "chosen"; and `chosen_threshold`, which
    `baseline.router.threshold=<folder>` reads.
    """

    name = "routing"

    def __init__(
        self,
        instruction: Instruction,
        evaluations: Mapping[str, Any],
        tasks: Sequence[str] | None = None,
        validation: float = 0.5,
        tolerance: float = 0.0,
    ) -> None:
        super().__init__(instruction, evaluations, tasks)
        for key, value in (("validation", validation), ("tolerance", tolerance)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < 1 or (key == "validation" and not value):
                least = "over 0" if key == "validation" else "of 0 or more"
                raise InputError(f"evaluation.routing.{key}={value}: expected a number {least} and under 1")
        self.validation, self.tolerance = validation, tolerance

    def tasks(self) -> list[str]:
        """Return the one task."""
        return ["routing"]

    def evaluate(self, encoder: Encoder, task: str) -> list[Score]:
        """Return the rows that the class names."""
        self.check_task(task)
        if not hasattr(encoder, "costs"):
            log.info("routing: skipped, %s does not route (encoder=router does)", encoder_name(encoder))
            return []
        router = cast(Routes, encoder)
        found = [row for evaluation in self.evaluations.values() for name in self._chosen(evaluation)
                 for row in self._routed(router, evaluation, name)]  # fmt: skip
        validated = [row for row in found if _fraction(row.id) < self.validation]
        tested = [row for row in found if _fraction(row.id) >= self.validation]
        if not validated or not tested:
            raise InputError(
                f"evaluation.routing.validation={self.validation}: of {len(found)} queries {len(validated)} would "
                f"choose the threshold and {len(tested)} would be scored; both need some"
            )
        chosen = choose(validated, self.tolerance)
        points = {str(fraction): threshold_of(validated, fraction) for fraction in FRACTIONS} | {"chosen": chosen}
        rows = [row for subset, threshold in points.items() for row in self._point(encoder, tested, subset, threshold)]
        saved = Score(encoder_name(encoder), self.name, task, "routing", router.signal_name, "validation",
                      "chosen_threshold", chosen, n=len(validated))  # fmt: skip
        return [*rows, saved]

    def _chosen(self, evaluation: Evaluation) -> list[str]:
        names = [name for name in evaluation.tasks() if self.wanted is None or name in self.wanted]
        lower = [name for name in names if evaluation.category_of(name) in LOWER_IS_BETTER]
        if lower and self.wanted is not None:
            raise InputError(
                f"evaluation.routing.tasks: lower is better in {evaluation.name}'s {lower[0]}, so it cannot be "
                "averaged with the others; leave it out"
            )
        return [name for name in names if name not in lower]

    def _routed(self, encoder: Routes, evaluation: Evaluation, task: str) -> list[RoutedQuery]:
        """The queries of a task, scored both ways; none where a task that was not requested has no scores by query."""
        texts = {query.id: query.text for query in evaluation.queries(task)}
        if not texts and self.wanted is None:
            return []
        ways = [_per_query(evaluation.evaluate(encoder.at(threshold), task)) for threshold in (math.inf, 0.0)]
        ids = [id_ for id_ in texts if all(id_ in way for way in ways)]
        if not ids:
            raise InputError(
                f"evaluation.routing.tasks: {evaluation.name}'s {task} has no score for each of its queries"
            )
        category = evaluation.category_of(task)
        instruction = None if category is None else self.instruction.query(task, category)
        if not instruction:
            raise InputError(f"evaluation.routing.tasks: {task} has no instruction, so its queries are not routed")
        asked = [texts[id_] for id_ in ids]
        # inf, so that the deciding pass counts whatever threshold the config has
        signals, costs = encoder.signals(asked, instruction).tolist(), encoder.at(math.inf).costs(asked, instruction)
        return [
            RoutedQuery(f"{task}/{id_}", signal, ways[0][id_], ways[1][id_], *cost)
            for id_, signal, *cost in zip(ids, signals, *costs, strict=True)
        ]

    def _point(self, encoder: Encoder, tested: list[RoutedQuery], subset: str, threshold: float) -> list[Score]:
        quality = {row.id: row.hyde if row.signal >= threshold else row.one_pass for row in tested}
        tokens = {row.id: float(row.hyde_tokens if row.signal >= threshold else row.one_pass_tokens) for row in tested}
        facts: dict[str, Any] = {"category": "routing", "subset": subset}
        return [
            self.row(encoder, "routing", quality, metric="quality", main=subset == "chosen", **facts),
            self.row(encoder, "routing", tokens, metric="forward_tokens", **facts),
            self.row(encoder, "routing", {row.id: float(row.signal >= threshold) for row in tested},
                     metric="hyde_fraction", **facts),
            Score(encoder_name(encoder), self.name, "routing", "routing", subset, "test", "threshold", threshold),
        ]  # fmt: skip


def threshold_of(rows: Sequence[RoutedQuery], fraction: float) -> float:
    """Return the threshold at which HyDE writes for `fraction` of the queries (0 to 1), those with the highest signals.

    Queries with the same signal go the same way, so it may be more. Finite always: for no query at all it is the next
    number after the highest signal.
    """
    signals = sorted(row.signal for row in rows)
    count = round(fraction * len(signals))
    return signals[len(signals) - count] if count else math.nextafter(signals[-1], math.inf)


def choose(rows: Sequence[RoutedQuery], tolerance: float) -> float:
    """Return the threshold of the lowest cost among those whose quality is within `tolerance` of the best one.

    Every threshold that routes the queries in another way is tried.
    """
    ordered = sorted(rows, key=lambda row: row.signal)
    signals = [row.signal for row in ordered]
    thresholds = [*dict.fromkeys(signals), math.nextafter(signals[-1], math.inf)]
    cuts = [bisect_left(signals, threshold) for threshold in thresholds]  # how many take one pass
    quality = [_sum(ordered, cut, "one_pass", "hyde") / len(rows) for cut in cuts]
    cost = [_sum(ordered, cut, "one_pass_tokens", "hyde_tokens") for cut in cuts]
    good = [place for place, value in enumerate(quality) if value >= max(quality) - tolerance - 1e-12]
    return thresholds[min(good, key=lambda place: (cost[place], -quality[place]))]


def _sum(ordered: Sequence[RoutedQuery], cut: int, easy: str, hard: str) -> float:
    return math.fsum([*(getattr(row, easy) for row in ordered[:cut]), *(getattr(row, hard) for row in ordered[cut:])])


def _per_query(scores: Sequence[Score]) -> dict[str, float]:
    return next((score.per_query for score in scores if score.main), {})


def _fraction(name: str) -> float:
    """Return a number from 0 to 1 that depends on the name alone."""
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=7).digest()) / 2**56
