"""What a table is: a pivot of score rows into a grid of cells, and the contract of everything that draws grids."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm2vec_gen.tables import html, latex, markdown
from llm2vec_gen.tables.grid import Grid
from llm2vec_gen.types import Reading, Score


class Table(ABC):
    """Score rows -> grids -> text. A subclass selects the grids; the formats are the files beside this one."""

    def wanted(self) -> list[str]:
        """Return the rows whose scores are gathered for this table, as "experiment:encoder"."""
        return []

    def with_readings(self, readings: Sequence[Reading]) -> Table:
        """Return the table with the readings of a run; most tables ignore them."""
        return self

    def draws(self, score: Score) -> bool:
        """Return whether a score row can end in a cell: a score file for this table needs these rows alone."""
        return True

    @abstractmethod
    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """Return the grids to draw, one below the other."""

    def panels(self, scores: Iterable[Score]) -> list[Grid]:
        """Return the grids that a figure draws, one beside the other: those of the table, where they are no others."""
        return self.grids(scores)

    def render(self, scores: Iterable[Score]) -> str:
        """Return the table as Markdown."""
        return self.files(scores)["md"]

    def files(self, scores: Iterable[Score]) -> dict[str, str]:
        """Return the same grids as md, tex and html: file ending -> content."""
        grids = self.grids(scores)
        formats = {"md": markdown.render, "tex": latex.render, "html": html.render}
        return {ending: "\n".join(render(grid) for grid in grids) for ending, render in formats.items()}

    def pictures(self, scores: Iterable[Score]) -> dict[str, bytes]:
        """Return binary files (png): file ending -> content; most tables have none."""
        return {}


@dataclass(slots=True)
class Column:
    """One column: the mean over the tasks of a category (default: the category named like the column), or one task.

    category several are one column too: the mean over the tasks of all
    metric   another metric than the main score
    label    the heading, `name` if not given
    percent  false: not printed times 100, whatever the table does
    control  a figure to read the others by, such as that of shuffled texts: its best is not marked
    """

    name: str
    category: str | Sequence[str] | None = None
    task: str | None = None
    metric: str | None = None
    label: str | None = None
    lower_is_better: bool = False
    percent: bool = True
    control: bool = False

    def takes(self, score: Score) -> bool:
        """Whether a score row belongs to this column."""
        right_metric = score.metric == self.metric if self.metric else score.main
        if self.task:
            return right_metric and score.task == self.task
        wanted = self.category or self.name
        return right_metric and (score.category == wanted if isinstance(wanted, str) else score.category in wanted)

    @property
    def heading(self) -> str:
        return self.label or self.name.replace("_", " ")


def columns_of(columns: Sequence[str | dict]) -> list[Column]:
    """Return the columns of a yaml: each is a category's name, or a mapping with the fields of `Column`."""
    return [Column(column) if isinstance(column, str) else Column(**column) for column in columns]


def mean(values: Sequence[float | None]) -> float | None:
    """Return the plain mean; a missing cell if there is nothing, or if a value is a missing cell or not a number."""
    if not values or any(value is None or not math.isfinite(value) for value in values):
        return None
    return math.fsum(values) / len(values)  # type: ignore[arg-type]
