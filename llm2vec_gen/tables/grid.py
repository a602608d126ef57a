"""A table before it is drawn: a grid of cells. The formats (markdown, latex, html) draw it."""

from __future__ import annotations

from dataclasses import dataclass

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
        """Return the cell as printed: the figure with its spread over runs, interval and published figure."""
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
    """A table before it is drawn: cells[row][column], in the unit of the scores; `scale` is applied when drawing.

    unscaled   headings of columns that it is not applied to
    controls   headings of columns whose best is not marked
    """

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
    unscaled: frozenset[str] = frozenset()
    controls: frozenset[str] = frozenset()

    def scale_of(self, column: int) -> float:
        """Return the factor of a column's figures."""
        return 1.0 if self.columns[column] in self.unscaled else self.scale

    def texts(self) -> list[list[str]]:
        """Return every cell as printed."""
        return [
            [cell.text(self.scale_of(column), self.decimals) for column, cell in enumerate(row)] for row in self.cells
        ]

    def headings(self) -> list[str]:
        """Return the column names, with an arrow where less is better."""
        return [f"{name} ↓" if name in self.lower_is_better else name for name in self.columns]

    def best(self, column: int) -> set[int]:
        """Return the best rows of a column after rounding; none unless at least two rows have a figure."""
        marked = self.bold and self.columns[column] not in self.controls
        column_values = [cells[column].value if marked else None for cells in self.cells]
        values = {
            row: round(self.scale_of(column) * value, self.decimals)
            for row, value in enumerate(column_values)
            if value is not None
        }
        if len(values) < 2:
            return set()
        pick = min if self.columns[column] in self.lower_is_better else max
        return {row for row, value in values.items() if value == pick(values.values())}
