"""What a table is: a pivot of score rows into a grid of cells, and the contract of everything that draws grids."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm2vec_gen.types import Reading, Score

MISSING = "–"
"""How a missing cell is written, in every format."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The mean over `runs` runs (seeds) of one row and column, and their standard deviation; None is a missing cell.

    published   the published figure, in the unit of the score; printed as "ours / published / difference"
    signed      the figure is itself a difference: printed with its sign
    interval    a confidence interval of the figure
    relative    the difference as a fraction of the baseline
    label       words instead of a figure
    """

    value: float | None = None
    spread: float = 0.0
    runs: int = 0
    published: float | None = None
    signed: bool = False
    interval: tuple[float, float] | None = None
    relative: float | None = None
    label: str | None = None

    def text(self, scale: float = 1.0, decimals: int = 1) -> str:
        """As printed: the sign of a missing cell, the figure, the figure with its spread over runs, and what stands
        beside it."""
        if self.label is not None:
            return self.label
        sign = "+" if self.signed else ""
        ours = MISSING if self.value is None else f"{scale * self.value:{sign}.{decimals}f}"
        if self.value is not None and self.runs > 1 and not self.signed:
            ours += f" ± {scale * self.spread:.{decimals}f}"
        if self.interval is not None:
            ours += f" [{scale * self.interval[0]:+.{decimals}f}, {scale * self.interval[1]:+.{decimals}f}]"
        if self.relative is not None:
            ours += f" ({self.relative:+.1%})"
        if self.published is None:
            return ours
        difference = MISSING if self.value is None else f"{scale * (self.value - self.published):+.{decimals}f}"
        return f"{ours} / {scale * self.published:.{decimals}f} / {difference}"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table before it is drawn: cells[row][column], in the unit of the scores; `scale` is applied when drawing."""

    title: str
    rows: list[str]
    columns: list[str]
    cells: list[list[Cell]]
    lower_is_better: frozenset[str] = frozenset()
    note: str = ""
    scale: float = 100.0
    decimals: int = 1
    corner: str = "method"
    bold: bool = True  # mark the best of each column

    def texts(self) -> list[list[str]]:
        """Every cell as printed."""
        return [[cell.text(self.scale, self.decimals) for cell in row] for row in self.cells]

    def headings(self) -> list[str]:
        """Column names, with an arrow where less is better."""
        return [f"{name} ↓" if name in self.lower_is_better else name for name in self.columns]

    def best(self, column: int) -> set[int]:
        """The rows that win a column, as printed; none unless at least two rows have a figure."""
        column_values = [cells[column].value if self.bold else None for cells in self.cells]
        values = {
            row: round(self.scale * value, self.decimals)
            for row, value in enumerate(column_values)
            if value is not None
        }
        if len(values) < 2:
            return set()
        pick = min if self.columns[column] in self.lower_is_better else max
        return {row for row, value in values.items() if value == pick(values.values())}


class Table(ABC):
    """Score rows -> grids -> text. A subclass selects the grids; the formats are the files beside this one."""

    def wanted(self) -> list[str]:
        """The rows this table has by name, as "experiment:encoder": whose scores are gathered for it."""
        return []

    def with_readings(self, readings: Sequence[Reading]) -> Table:
        """Return the table with the readings of a run; most tables ignore them."""
        return self

    def draws(self, score: Score) -> bool:
        """Whether a score row can end in a cell: what a score file needs for this table, and no more."""
        return True

    @abstractmethod
    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """The grids to draw, one below the other."""

    def render(self, scores: Iterable[Score]) -> str:
        """Markdown, as a terminal shows it."""
        return self.files(scores)["md"]

    def files(self, scores: Iterable[Score]) -> dict[str, str]:
        """File ending -> content: md, tex and html of the same grids."""
        from llm2vec_gen.tables import html, latex, markdown

        grids = self.grids(scores)
        formats = {"md": markdown.render, "tex": latex.render, "html": html.render}
        return {ending: "\n".join(render(grid) for grid in grids) for ending, render in formats.items()}

    def pictures(self, scores: Iterable[Score]) -> dict[str, bytes]:
        """File ending -> content, of those that are no text (png); most tables have none."""
        return {}


@dataclass(slots=True)
class Column:
    """One column: the mean over the tasks of a category (default: the category named like the column), or one task.

    metric   another metric than the main score
    label    the heading, `name` if not given
    """

    name: str
    category: str | None = None
    task: str | None = None
    metric: str | None = None
    label: str | None = None
    lower_is_better: bool = False

    def takes(self, score: Score) -> bool:
        """Whether a score row belongs to this column."""
        right_metric = score.metric == self.metric if self.metric else score.main
        right_task = score.task == self.task if self.task else score.category == (self.category or self.name)
        return right_metric and right_task

    @property
    def heading(self) -> str:
        return self.label or self.name.replace("_", " ")


def columns_of(columns: Sequence[str | dict]) -> list[Column]:
    """A yaml's columns: a category's name, or a mapping with the fields of `Column`."""
    return [Column(column) if isinstance(column, str) else Column(**column) for column in columns]


def mean(values: Sequence[float | None]) -> float | None:
    """The plain mean; a missing cell if there is nothing, or if a value is a missing cell or not a number."""
    if not values or any(value is None or not math.isfinite(value) for value in values):
        return None
    return math.fsum(values) / len(values)  # type: ignore[arg-type]
