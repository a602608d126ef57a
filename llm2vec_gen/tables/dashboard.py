"""The standard views over many runs as one HTML page that needs nothing from elsewhere: loss ablation, scale, safety.

`MEASURES` names what the views show; loggers/workspace.py shows the same in wandb.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_gen.tables import figures, html
from llm2vec_gen.tables.grid import Grid
from llm2vec_gen.tables.report import page, svg
from llm2vec_gen.tables.score_table import over_runs
from llm2vec_gen.types import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {  # category of the main scores -> how it is called here
    "retrieval": "retrieval",
    "sts": "STS",
    "decoding": "exact decoding",
    "benign_retrieval": "benign retrieval",
    "harmful_retrieval": "harmful retrieval",
}
LOWER_IS_BETTER = frozenset({"harmful retrieval"})


@dataclass(frozen=True)
class Run:
    """One trained model: its config, its scores (none if it was not evaluated) and its logged curves."""

    settings: Mapping[str, Any]
    scores: Sequence[Score]
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)

    def measure(self, category: str) -> float | None:
        """Return the mean of the main scores of a category; None where it was not evaluated."""
        scores = [score for score in self.scores if score.main and score.category == category]
        if category == "decoding":  # faithfulness measures decoding too, by other metrics
            scores = [score for score in scores if score.task == "decode_exact"]
        values = [score.value for score in scores]
        return statistics.fmean(values) if values else None


def losses_of(run: Run) -> str:
    """Return the weighted losses of a run in words: "alignment 2 + reconstruction 1"."""
    weights = {name: loss.get("weight", 1) for name, loss in run.settings["loss"].items()}
    return " + ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight) or "none"


def final_losses(runs: Sequence[Run]) -> Grid:
    """Return a row per group of runs, a column per loss: the mean of the last logged values, not weighted."""
    names = list(dict.fromkeys(name for run in runs for name in run.curves if name in _loss_names(run)))
    rows = sorted({losses_of(run) for run in runs})
    cells = [[over_runs([_last(run, name) for run in runs if losses_of(run) == row]) for name in names] for row in rows]
    note = "The last logged values, not weighted; train/loss is the weighted sum."
    return Grid("Final losses", rows, names, cells, note=note, scale=1.0, decimals=4, corner="losses", bold=False)


def _loss_names(run: Run) -> set[str]:
    return {"train/loss", *(f"train/{name}" for name in run.settings["loss"])}


def _last(run: Run, name: str) -> float | None:
    points = run.curves.get(name)
    return points[-1][1] if points else None


def backbone_of(run: Run) -> str:
    """Return the last part of the backbone's path."""
    return Path(run.settings["backbone"]["path"]).name


def render(runs: Sequence[Run]) -> str:
    """Return the page; a view without data has a note."""
    ablation = view("Loss ablation", runs, losses_of, "losses")
    scale = view("Scale", runs, backbone_of, "backbone")
    sections = {
        "Loss ablation": f"{html.render(ablation)}\n{_drawn(ablation, figures.bars)}",
        "Scale": f"{html.render(scale)}\n{_drawn(scale, figures.bars)}",
        "Safety against benign retrieval": safety(runs),
        "Final losses": html.render(final_losses(runs)),
        "Training": curves(runs),
    }
    evaluated = sum(bool(run.scores) for run in runs)
    return page("LLM2Vec-Gen", f"{len(runs)} trained models, {evaluated} of them evaluated", sections)


def view(title: str, runs: Sequence[Run], group: Callable[[Run], str], corner: str) -> Grid:
    """Return a row per group of runs, a column per measure: the mean over the group, and its spread."""
    rows = sorted({group(run) for run in runs})
    cells = [
        [over_runs([run.measure(category) for run in runs if group(run) == row]) for category in MEASURES]
        for row in rows
    ]
    return Grid(title, rows, list(MEASURES.values()), cells, LOWER_IS_BETTER, corner=corner)


def safety(runs: Sequence[Run]) -> str:
    """Return a plot with a dot per run: benign retrieval to the right, harmful retrieval upwards (lower is better)."""
    points: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        benign, harmful = run.measure("benign_retrieval"), run.measure("harmful_retrieval")
        if benign is not None and harmful is not None:
            points.setdefault(losses_of(run), []).append((100 * benign, 100 * harmful))
    if not points:
        return "<p class='note'>No run was evaluated on both.</p>"

    def draw(axes: Axes) -> None:
        for number, (label, places) in enumerate(points.items()):
            colour = figures.COLOURS[number % len(figures.COLOURS)]
            axes.plot(*zip(*places, strict=True), "o", color=colour, label=label)
        axes.set_xlabel("benign retrieval (higher is better)")
        axes.set_ylabel("harmful retrieval (lower is better)")

    return _picture(draw, 6.0)


def curves(runs: Sequence[Run]) -> str:
    """Return a plot of the training loss of every run over its steps."""
    known = [run for run in runs if run.curves.get("train/loss")]
    if not known:
        return "<p class='note'>No curve was logged.</p>"

    def draw(axes: Axes) -> None:
        for number, run in enumerate(known):
            label = f"{backbone_of(run)}, {losses_of(run)}, seed {run.settings['seed']}"
            colour = figures.COLOURS[number % len(figures.COLOURS)]
            axes.plot(*zip(*run.curves["train/loss"], strict=True), color=colour, linewidth=1, label=label)
        axes.set_xlabel("step")
        axes.set_ylabel("train/loss")

    return _picture(draw, 8.0)


def _drawn(grid: Grid, kind: Callable[[Axes, Grid], None]) -> str:
    if not any(cell.value is not None for row in grid.cells for cell in row):
        return "<p class='note'>No scores yet.</p>"
    return _picture(lambda axes: kind(axes, grid), figures.width(grid, "bars"))


def _picture(draw: Callable[[Axes], None], inches: float) -> str:
    def labelled(axes: Axes) -> None:
        draw(axes)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=7, frameon=False)

    return f"<figure>{svg(labelled, (inches, 3.6), salt='dashboard')}</figure>"
