"""Tables whose every cell is a run of its own: models against roles, generators against teachers, a row of settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.base import Table
from llm2vec_gen.tables.grid import Cell, Grid
from llm2vec_gen.tables.score_table import ScoreTable
from llm2vec_gen.types import Score


class Matrix(Table):
    """One figure per row and column of the matrix: an average over tasks, or one column of scores.

    rows        label -> "experiment:encoder" with {} where the column's name goes
    columns     label -> what takes the place of {}; an "experiment:encoder" with {} in it is filled with the row's
                value instead, when the row's has no colon
    scores      the columns of scores that the figure is made of (see `Column`); with one of them the figure is that
                one's, with several the average over their tasks
    published   {version, table}: figures that stand beside ours
    """

    def __init__(
        self,
        title: str,
        rows: Mapping[str, str],
        columns: Mapping[str, str],
        scores: Sequence[str | dict],
        evaluations: Sequence[str] | None = None,
        published: Mapping[str, str] | None = None,
        corner: str = "",
        note: str = "",
        percent: bool = True,
        decimals: int = 1,
    ) -> None:
        self.title, self.corner, self.note = title, corner, note
        self.labels, self.columns = list(rows), list(columns)
        self.names = [[cell_name(row, column) for column in columns.values()] for row in rows.values()]
        self._figures = ScoreTable(
            title,
            scores,
            rows=list(dict.fromkeys(name for row in self.names for name in row)),
            average="tasks" if len(scores) > 1 else None,
            evaluations=evaluations,
            percent=percent,
            decimals=decimals,
            published=published,
            note=note,
        )

    def wanted(self) -> list[str]:
        """Return the rows of all cells."""
        return self._figures.wanted()

    def draws(self, score: Score) -> bool:
        """Return whether a cell is computed from the score."""
        return self._figures.draws(score)

    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """Return one grid: the matrix."""
        figures = self._figures.grids(scores)[0]
        found: dict[str, Cell] = {name: cells[-1] for name, cells in zip(figures.rows, figures.cells, strict=True)}
        lower = figures.columns[-1] in figures.lower_is_better
        return [
            Grid(
                title=self.title,
                rows=self.labels,
                columns=self.columns,
                cells=[[found[name] for name in row] for row in self.names],
                lower_is_better=frozenset(self.columns if lower else ()),
                note=figures.note,
                scale=figures.scale,
                decimals=figures.decimals,
                corner=self.corner,
            )
        ]


def cell_name(row: str, column: str) -> str:
    """Return the run of a cell: the row's pattern filled with the column, or the column's with the row."""
    pattern, value = (row, column) if ":" in row else (column, row)
    if ":" not in pattern or ("{}" not in pattern and value):
        raise InputError(
            f"matrix row {row!r} and column {column!r}: expected one of them as 'experiment:encoder' with {{}} in the "
            "place of the other"
        )
    return pattern.replace("{}", value)
