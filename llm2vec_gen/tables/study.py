"""A study: rows beside a main row, each with a verdict on what its seeds, or its texts, show and what they do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.base import Table
from llm2vec_gen.tables.grid import MISSING, Cell, Grid
from llm2vec_gen.tables.score_table import ScoreTable, row_name
from llm2vec_gen.tables.statistics import CONFIDENCE, seeds_interval
from llm2vec_gen.types import Score

NOTE = (
    "{spread}The verdict names the columns ({compared}) whose difference to {main} has a {confidence:.0%} interval "
    "over {over} without 0; of {count} such comparisons about {chance:.0f} would be named by chance."
)
OVER = {"seeds": "seeds (Welch)", "texts": "texts (paired bootstrap)"}


class StudyTable(Table):
    """A `ScoreTable` with a column of verdicts, and below it the differences to the main row with their intervals.

    columns, rows, experiment, evaluations, note   as `ScoreTable` has them
    main       the row that all others are compared with
    compared   the names of the columns that verdicts are about; None: all
    over       what intervals are over, "seeds" or "texts"

    Over seeds an interval covers what another training would change. A row whose scores have no seed (a teacher) counts
    as exact; one with a single seed gets no verdict. Over texts, for studies with one seed, it
    covers the choice of texts, not that of the seed.
    """

    def __init__(
        self,
        title: str,
        columns: Sequence[str | dict],
        rows: Mapping[str, str],
        main: str,
        compared: Sequence[str] | None = None,
        experiment: str | None = None,
        evaluations: Sequence[str] | None = None,
        note: str = "",
        over: str = "seeds",
    ) -> None:
        if over not in OVER:
            raise InputError(f"table over={over}: expected {' or '.join(OVER)}")
        self.over, baseline = over, main if over == "texts" else None
        self.table = ScoreTable(
            title, columns, rows, evaluations=evaluations, note=note, experiment=experiment, baseline=baseline
        )
        self.main, self.rows = row_name(main, experiment), self.table.rows or {}
        names = [column.name for column in self.table.columns]
        if self.main not in self.rows:
            raise InputError(f"table main={main}: expected one of the rows {', '.join(self.rows)}")
        if unknown := sorted(set(compared or []) - set(names)):
            raise InputError(f"table compared={unknown}: expected some of the columns {', '.join(names)}")
        self.compared = [number for number, name in enumerate(names) if compared is None or name in compared]

    def wanted(self) -> list[str]:
        """Return the table's rows."""
        return self.table.wanted()

    def draws(self, score: Score) -> bool:
        """Return whether the table draws the score."""
        return self.table.draws(score)

    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """Return the figures with their verdicts, and the differences to the main row."""
        found = list(scores)
        grid, *beside = self.table.grids(found)
        seeded = {score.encoder for score in found if score.seed is not None}
        rows = dict(zip(self.rows, grid.cells, strict=True))
        others = [name for name in rows if name != self.main]
        if beside:
            differences = dict(zip(others, beside[0].cells, strict=True))
        else:
            differences = {name: self._row(name, rows, seeded) for name in others}
        verdicts = [
            [*cells, Cell(label="(main)" if name == self.main else self._verdict(grid, differences[name]))]
            for name, cells in rows.items()
        ]
        note = " ".join(filter(None, [grid.note, self._note(grid, differences)]))
        title, labels = f"{grid.title}: difference to {self.rows[self.main]}", [self.rows[name] for name in others]
        below = beside or [
            replace(grid, title=title, rows=labels, cells=[*differences.values()],
                    note="[95% interval] over seeds, Welch's.", bold=False)
        ]  # fmt: skip
        return [replace(grid, columns=[*grid.columns, "verdict"], cells=verdicts, note=note), *below]

    def panels(self, scores: Iterable[Score]) -> list[Grid]:
        """Return the figures without their verdicts."""
        return self.table.grids(scores)[:1]

    def _row(self, name: str, rows: Mapping[str, list[Cell]], seeded: set[str]) -> list[Cell]:
        pairs = zip(rows[name], rows[self.main], strict=True)
        return [_difference(ours, theirs, name in seeded, self.main in seeded) for ours, theirs in pairs]

    def _verdict(self, grid: Grid, differences: list[Cell]) -> str:
        better: list[str] = []
        worse: list[str] = []
        known = [number for number in self.compared if differences[number].interval is not None]
        for number in known:
            low, high = differences[number].interval  # type: ignore[misc]
            if low <= 0 <= high:
                continue
            heading = grid.columns[number]
            (better if (low > 0) != (heading in grid.lower_is_better) else worse).append(heading)
        if not known:
            return MISSING
        named = [f"{word}: {', '.join(names)}" for word, names in (("better", better), ("worse", worse)) if names]
        seeds = max(differences[number].runs for number in known)
        shown_by = f"{seeds} seeds" if self.over == "seeds" else "these texts"
        return "; ".join(named) or f"no difference that {shown_by} show"

    def _note(self, grid: Grid, differences: Mapping[str, list[Cell]]) -> str:
        count = sum(cells[number].interval is not None for cells in differences.values() for number in self.compared)
        facts: dict[str, Any] = {
            "compared": ", ".join(grid.columns[number] for number in self.compared),
            "main": self.rows[self.main], "confidence": CONFIDENCE, "count": count, "chance": (1 - CONFIDENCE) * count,
            "over": OVER[self.over], "spread": "" if self.over == "texts" else "Mean ± standard deviation over seeds. ",
        }  # fmt: skip
        return NOTE.format(**facts)


def _difference(ours: Cell, theirs: Cell, ours_seeded: bool, theirs_seeded: bool) -> Cell:
    """Return the cell of a difference, with its interval over seeds; a missing cell if either figure is one."""
    if ours.value is None or theirs.value is None:
        return Cell()
    interval = seeds_interval(
        (ours.value, ours.spread, ours.runs if ours_seeded else 0),
        (theirs.value, theirs.spread, theirs.runs if theirs_seeded else 0),
    )
    return Cell(ours.value - theirs.value, runs=max(ours.runs, theirs.runs), signed=True, interval=interval)
