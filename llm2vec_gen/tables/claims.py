"""Headline claims: one number that a few cells of other tables make, ours beside the published one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llm2vec_gen.tables.base import Column, Table, columns_of
from llm2vec_gen.tables.grid import Cell, Grid
from llm2vec_gen.tables.published import published as published_figures
from llm2vec_gen.tables.score_table import ScoreTable
from llm2vec_gen.tables.statistics import gap_closed, relative_change
from llm2vec_gen.types import Score


@dataclass(slots=True)
class Claim:
    """What is claimed, in percent.

    name     the key of the published figure
    row      whom it is about, "experiment:encoder"
    baseline whom it is compared with
    upper    given: the fraction of the gap from `baseline` to `upper` that is closed; else the relative change
    columns  the scores it is made of (see `Column`); the average over the tasks of several
    """

    name: str
    label: str
    row: str
    baseline: str
    columns: list[Column]
    evaluations: list[str]
    upper: str | None = None

    def rows(self) -> list[str]:
        return [name for name in (self.row, self.baseline, self.upper) if name]

    def combine(self, figures: Mapping[str, float | None]) -> float | None:
        """Return the claim's number from the figures of its rows."""
        ours, theirs = figures.get(self.row), figures.get(self.baseline)
        if self.upper is None:
            return relative_change(ours, theirs)
        return gap_closed(ours, theirs, figures.get(self.upper))


class Claims(Table):
    """One row per claim: from our scores, as published, and what the published cells of another version give.

    claims     mappings with the fields of `Claim`
    published  {version, table}: the claims as they were made; None where ours are of another world
    cells      name of a claim -> {version, table, column}: the published cells it can be recomputed from
    """

    def __init__(
        self,
        title: str,
        claims: Sequence[Mapping],
        published: Mapping[str, str] | None = None,
        cells: Mapping[str, Mapping[str, str]] | None = None,
        note: str = "",
    ) -> None:
        self.title, self.note = title, note
        self.claims = [Claim(**{**claim, "columns": columns_of(claim["columns"])}) for claim in claims]
        self.published = published_figures(**published) if published else None
        self.cells = dict(cells or {})

    def wanted(self) -> list[str]:
        """Return the rows of all claims."""
        return list(dict.fromkeys(name for claim in self.claims for name in claim.rows()))

    def draws(self, score: Score) -> bool:
        """Return whether a claim is computed from the score."""
        return any(self._table(claim).draws(score) for claim in self.claims)

    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """Return one grid: a row per claim."""
        rows = list(scores)
        versions = list(dict.fromkeys(cells["version"] for cells in self.cells.values()))
        claimed = [f"as claimed ({self.published.version})"] if self.published else []
        columns = ["ours", *claimed, *(f"from the cells of {v}" for v in versions)]
        body = [
            [
                Cell(self._ours(claim, rows), signed=True),
                *([Cell(self.published.figure(claim.name, "claim"), signed=True)] if self.published else []),
                *(Cell(self._recomputed(claim, version), signed=True) for version in versions),
            ]
            for claim in self.claims
        ]
        labels = [claim.label for claim in self.claims]
        return [Grid(self.title, labels, columns, body, note=self.note, corner="claim", bold=False)]

    def _ours(self, claim: Claim, scores: list[Score]) -> float | None:
        grid = self._table(claim).grids(scores)[0]
        return claim.combine({name: cells[-1].value for name, cells in zip(grid.rows, grid.cells, strict=True)})

    @staticmethod
    def _table(claim: Claim) -> ScoreTable:
        average = "tasks" if len(claim.columns) > 1 else None
        columns = [{"name": c.name, "category": c.category, "task": c.task, "metric": c.metric} for c in claim.columns]
        return ScoreTable("", columns, rows=claim.rows(), average=average, evaluations=claim.evaluations)

    def _recomputed(self, claim: Claim, version: str) -> float | None:
        cells = self.cells.get(claim.name)
        if cells is None or cells["version"] != version:
            return None
        figures = published_figures(version, cells["table"])
        return claim.combine({name: figures.figure(name, cells["column"]) for name in claim.rows()})
