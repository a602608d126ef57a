"""Quality against cost of a router: what `evaluation=routing` measured at each threshold."""

from __future__ import annotations

from collections.abc import Iterable

from llm2vec_gen.tables.base import Table
from llm2vec_gen.tables.grid import Cell, Grid
from llm2vec_gen.types import Score

EVALUATION, CHOSEN = "routing", "chosen"
METRICS = ("hyde_fraction", "threshold", "forward_tokens", "quality")


class RouterCurve(Table):
    """A row per threshold: the fraction of queries that HyDE writes for, the cost of a query, and the quality.

    "at random" is what the same cost buys without any signal: the line from one pass to HyDE for all. The figure has
    the quality (times 100) over the cost.
    """

    def __init__(self, title: str) -> None:
        self.title = title

    def draws(self, score: Score) -> bool:
        """Return whether the score is of a point of the curve."""
        return score.evaluation == EVALUATION and score.metric in METRICS

    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """Return one grid: a row per point, in the order of the fractions, and the threshold that was chosen last."""
        points = points_of(filter(self.draws, scores))
        names = sorted(points, key=lambda name: (name == CHOSEN, points[name]["forward_tokens"]))
        rows = [
            [
                Cell(label=f"{100 * points[name]['hyde_fraction']:.0f}"),
                Cell(label=f"{points[name]['threshold']:.4g}"),
                Cell(label=f"{points[name]['forward_tokens']:.1f}"),
                Cell(points[name]["quality"], runs=1),
                Cell(at_random(points, points[name]["forward_tokens"])),
            ]
            for name in names
        ]
        return [
            Grid(
                title=self.title,
                rows=[name if name == CHOSEN else f"{100 * float(name):.0f}%" for name in names],
                columns=["queries to HyDE, %", "threshold", "forward tokens a query", "quality", "at random"],
                cells=rows,
                corner="validation queries to HyDE",
                note="On queries that did not choose the threshold. At random: the same cost without a signal.",
                bold=False,
            )
        ]

    def panels(self, scores: Iterable[Score]) -> list[Grid]:
        """Return one grid: the costs along x, and a line for the router, for random routing and for the choice."""
        points = points_of(filter(self.draws, scores))
        costs = {f"{values['forward_tokens']:.1f}": values for _, values in sorted(
            points.items(), key=lambda point: point[1]["forward_tokens"])}  # fmt: skip
        chosen = points.get(CHOSEN, {}).get("forward_tokens")
        lines: dict[str, list[float | None]] = {
            "router": [values["quality"] for values in costs.values()],
            "at random": [at_random(points, values["forward_tokens"]) for values in costs.values()],
            "chosen": [v["quality"] if v["forward_tokens"] == chosen else None for v in costs.values()],
        }
        cells = [[Cell(value) for value in line] for line in lines.values()]
        return [Grid(self.title, list(lines), list(costs), cells, corner="forward tokens a query")]


def points_of(scores: Iterable[Score]) -> dict[str, dict[str, float]]:
    """Return point -> metric -> value for the points that have all metrics; of several runs the last one counts."""
    found: dict[str, dict[str, float]] = {}
    for score in scores:
        found.setdefault(score.subset, {})[score.metric] = score.value
    return {name: values for name, values in found.items() if len(values) == len(METRICS)}


def at_random(points: dict[str, dict[str, float]], cost: float) -> float | None:
    """Return the quality at a cost (forward tokens) on the line from the cheapest point to the dearest one."""
    ends = sorted((values["forward_tokens"], values["quality"]) for values in points.values())
    (low, first), (high, last) = ends[0], ends[-1]
    return None if high == low else first + (last - first) * (cost - low) / (high - low)
