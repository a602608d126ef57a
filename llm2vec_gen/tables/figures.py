"""The paper's Figures 3 to 7, drawn by matplotlib from the same grids that the tables print; score files are enough."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.base import Table
from llm2vec_gen.tables.grid import MISSING, Cell, Grid
from llm2vec_gen.types import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#888888"
COLOURS = ("#3f7fd0", "#e0883a", "#4f9d5b", "#a05fb4", "#c44f4f", "#6b7280", "#8c6d31", "#2aa5a0")


class Figure(Table):
    """A table and its picture: the table's own texts, and a panel per grid as SVG and PNG.

    kind   "bars" (a group per row, a bar per column), "lines" (columns along x, a line per row; x to scale where the
           columns are numbers), "heat" (a coloured cell per figure). A published figure is drawn as an open mark, a
           missing cell is left empty, several seeds get an error bar.
    """

    def __init__(self, table: Table, kind: str) -> None:
        if kind not in KINDS:
            raise InputError(f"figure kind={kind}; expected one of {', '.join(KINDS)}")
        self.table, self.kind = table, kind

    def wanted(self) -> list[str]:
        """Return the table's rows."""
        return self.table.wanted()

    def draws(self, score: Score) -> bool:
        """Return whether the table draws the score."""
        return self.table.draws(score)

    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """Return the table's grids."""
        return self.table.grids(scores)

    def files(self, scores: Iterable[Score]) -> dict[str, str]:
        """Return the table's texts and the picture as svg."""
        rows = list(scores)
        return {**super().files(rows), "svg": self._drawn(rows, "svg").decode()}

    def pictures(self, scores: Iterable[Score]) -> dict[str, bytes]:
        """Return the picture as png."""
        return {"png": self._drawn(list(scores), "png")}

    def _drawn(self, scores: list[Score], ending: str) -> bytes:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas

        grids = self.table.panels(scores)
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "figure", "font.size": 9}):
            widths = [width(grid, self.kind) for grid in grids]
            canvas = Canvas(figsize=(sum(widths), 3.6), layout="constrained")
            FigureCanvasAgg(canvas)
            panels = canvas.subplots(1, len(grids), squeeze=False, width_ratios=widths)[0]
            for axes, grid, inches in zip(panels, grids, widths, strict=True):
                axes.set_title(textwrap.fill(grid.title, round(9 * (inches - margin(grid, self.kind)))), fontsize=10)
                KINDS[self.kind](axes, grid)
            stream = io.BytesIO()
            metadata = {"Date": None, "Creator": None} if ending == "svg" else {"Software": None}
            canvas.savefig(stream, format=ending, dpi=200, metadata=metadata)
        return stream.getvalue()


def width(grid: Grid, kind: str) -> float:
    """Return the width of a panel in inches."""
    count = len(grid.rows) * max(1, len(grid.columns)) if kind == "bars" else len(grid.columns)
    return max(4.5, (0.3 if kind == "bars" else 1.0) * count) + margin(grid, kind)


def margin(grid: Grid, kind: str) -> float:
    """Return the inches at the left of a panel that the names of rows take."""
    return 0.065 * max(map(len, grid.rows), default=0) if kind == "heat" else 0.0


def bars(axes: Axes, grid: Grid) -> None:
    """Draw a group of bars per row."""
    thickness = 0.8 / len(grid.columns)
    for column, label in enumerate(grid.columns):
        cells = [row[column] for row in grid.cells]
        places = [row + (column - (len(grid.columns) - 1) / 2) * thickness for row in range(len(cells))]
        _bars_of(axes, places, cells, grid.scale_of(column), thickness, COLOURS[column % len(COLOURS)], label)
        _published(axes, places, cells, grid.scale_of(column))
    axes.set_xticks(range(len(grid.rows)), grid.rows, rotation=30, ha="right")
    axes.set_xlim(-0.6, len(grid.rows) - 0.4)
    _furnish(axes, grid)


def _bars_of(
    axes: Axes, places: list[float], cells: list[Cell], scale: float, thickness: float, colour: str, label: str
) -> None:
    heights = [float("nan") if cell.value is None else scale * cell.value for cell in cells]
    spreads = [scale * cell.spread for cell in cells]
    errors = spreads if any(spreads) else None
    axes.bar(places, heights, 0.92 * thickness, yerr=errors, color=colour, label=label)


def lines(axes: Axes, grid: Grid) -> None:
    """Draw a line per row along the columns; a missing cell interrupts it."""
    numbers = all(name.replace(".", "", 1).isdigit() for name in grid.columns)
    places = [float(name) for name in grid.columns] if numbers else [float(i) for i in range(len(grid.columns))]
    scales = [grid.scale_of(column) for column in range(len(grid.columns))]
    for row, label in enumerate(grid.rows):
        cells = list(zip(scales, grid.cells[row], strict=True))
        values = [float("nan") if cell.value is None else scale * cell.value for scale, cell in cells]
        errors = [scale * cell.spread for scale, cell in cells]
        colour = COLOURS[row % len(COLOURS)]
        axes.errorbar(places, values, yerr=errors if any(errors) else None, marker="o", color=colour, label=label)
        _published(axes, places, grid.cells[row], grid.scale)
    if places and numbers and min(places) > 0 and max(places) > 20 * min(places):
        axes.set_xscale("log")
    axes.set_xticks(places, grid.columns)
    axes.set_xlabel(grid.corner)
    _furnish(axes, grid)


def heat(axes: Axes, grid: Grid) -> None:
    """Draw a coloured cell per figure, darker is better, with the figure in it and the published one below."""
    values = [
        [float("nan") if cell.value is None else grid.scale_of(column) * cell.value for column, cell in enumerate(row)]
        for row in grid.cells
    ]
    colours = "Blues_r" if grid.lower_is_better else "Blues"
    known = [value for row in values for value in row if value == value]
    if known:
        axes.imshow(values, cmap=colours, alpha=0.6, aspect="auto")
    else:
        axes.set_xlim(-0.5, len(grid.columns) - 0.5)
        axes.set_ylim(len(grid.rows) - 0.5, -0.5)
    for row, cells in enumerate(grid.cells):
        for column, cell in enumerate(cells):
            text = MISSING if cell.value is None else f"{values[row][column]:.{grid.decimals}f}"
            if cell.published is not None:
                text += f"\n({grid.scale * cell.published:.{grid.decimals}f})"
            axes.text(column, row, text, ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(grid.columns)), grid.columns)
    axes.set_yticks(range(len(grid.rows)), grid.rows)
    axes.set_xlabel(grid.corner)


def _published(axes: Axes, places: list[float], cells: list[Cell], scale: float) -> None:
    known = [(p, scale * cell.published) for p, cell in zip(places, cells, strict=True) if cell.published is not None]
    if known:
        labelled = "published" in axes.get_legend_handles_labels()[1]
        label = None if labelled else "published"
        axes.plot(*zip(*known, strict=True), "o", color="black", fillstyle="none", markersize=4, label=label)


def _furnish(axes: Axes, grid: Grid) -> None:
    axes.grid(axis="y", color=GREY, alpha=0.25)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.margins(y=0.18)  # the legend stands above what is drawn
        axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=2, borderaxespad=0.2)
    if grid.lower_is_better:
        axes.set_ylabel("lower is better")


KINDS: dict[str, Callable[[Axes, Grid], None]] = {"bars": bars, "lines": lines, "heat": heat}
