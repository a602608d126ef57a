"""The paper's kind of table: one row per encoder, one column per category of tasks, the average over all tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import stdev
from typing import Any

from llm2vec_gen.tables.base import Cell, Grid, Table, columns_of, mean
from llm2vec_gen.types import InputError, Score

RunScores = dict[str, dict[str, float | None]]  # seed -> task -> score


class ScoreTable(Table):
    """A pivot of main scores.

    columns       categories or mappings (see `Column`)
    rows          encoder name -> label, in the order wanted; None takes every encoder in order of appearance. A row
                  that has no score at all stays, as a row of holes
    average       "tasks" (mean over all tasks of the columns, the paper's), "categories" (mean of the columns) or None
    evaluations   names of the evaluations that may be read; None reads all
    percent       print 100 times the score

    A category's figure is the mean over its tasks, a task's the mean over its subsets. A row that lacks one of the
    tasks any other row has gets a hole, not the mean over the rest. Several seeds give mean and standard
    deviation. One task under two evaluations or two data revisions is an InputError.
    """

    def __init__(
        self,
        title: str,
        columns: Sequence[str | dict],
        rows: Mapping[str, str] | Sequence[str] | None = None,
        average: str | None = None,
        evaluations: Sequence[str] | None = None,
        percent: bool = True,
        decimals: int = 1,
        note: str = "",
    ) -> None:
        if average not in (None, "tasks", "categories"):
            raise InputError(f"table average={average!r}: expected tasks, categories or null")
        self.title = title
        self.columns = columns_of(columns)
        self.rows = dict(rows) if isinstance(rows, Mapping) else {name: name for name in rows} if rows else None
        self.average = average
        self.evaluations = list(evaluations) if evaluations else None
        self.scale = 100.0 if percent else 1.0
        self.decimals = decimals
        self.note = note

    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """One grid."""
        kept = [score for score in scores if self.evaluations is None or score.evaluation in self.evaluations]
        by_column = [[score for score in kept if column.takes(score)] for column in self.columns]
        for rows in by_column:
            check_one_source(rows)
        names = self.rows or {score.encoder: score.encoder for rows in by_column for score in rows}
        tasks = [dict.fromkeys(score.task for score in rows if score.encoder in names) for rows in by_column]
        cells = [self._row([runs_of(rows, name) for rows in by_column], tasks) for name in names]
        return [
            Grid(
                title=self.title,
                rows=list(names.values()),
                columns=[column.heading for column in self.columns] + (["average"] if self.average else []),
                cells=cells,
                lower_is_better=frozenset(column.heading for column in self.columns if column.lower_is_better),
                note=self.note,
                scale=self.scale,
                decimals=self.decimals,
            )
        ]

    def _row(self, columns: list[RunScores], tasks: list[dict[str, None]]) -> list[Cell]:
        """The cells of one encoder; `tasks` are those each column must have."""
        runs = list(dict.fromkeys(run for column in columns for run in column))
        values = [  # per run: the list of task scores of each column
            [[column.get(run, {}).get(task) for task in names] for column, names in zip(columns, tasks, strict=True)]
            for run in runs
        ]
        figures = [[mean(column) for column in run] for run in values]
        if self.average == "categories":
            figures = [[*row, mean(row)] for row in figures]
        elif self.average == "tasks":
            complete = all(tasks)  # a column nobody has a score for is a hole, and so is the average over it
            figures = [
                [*row, mean([score for column in run for score in column]) if complete else None]
                for row, run in zip(figures, values, strict=True)
            ]
        width = len(self.columns) + bool(self.average)
        return [over_runs([row[column] for row in figures]) for column in range(width)]


def runs_of(rows: Sequence[Score], encoder: str) -> RunScores:
    """Per seed of one encoder: the score of each task, averaged over its subsets.

    Two runs (score artifacts) of one seed complete each other, for instance two benchmarks; where they have a score
    twice, nobody can say which one counts: an InputError.
    """
    collected: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    seen: dict[tuple[Any, ...], str] = {}
    for score in rows:
        if score.encoder != encoder:
            continue
        cell = (score.seed, score.task, score.split, score.subset, score.metric)
        if seen.setdefault(cell, score.run) != score.run:
            raise InputError(
                f"task {score.task!r} of {encoder!r}, seed {score.seed}, was scored in two runs, {seen[cell]!r} and "
                f"{score.run!r}; a table has one figure per encoder and seed: leave one run out"
            )
        collected[str(score.seed)][score.task].append(score.value)
    return {run: {task: mean(values) for task, values in tasks.items()} for run, tasks in collected.items()}


def over_runs(values: Sequence[float | None]) -> Cell:
    """Mean and standard deviation over the runs that have a figure; a hole if none has."""
    known = [value for value in values if value is not None]
    if not known:
        return Cell()
    return Cell(mean(known), stdev(known) if len(known) > 1 else 0.0, len(known))


def check_one_source(rows: Iterable[Score]) -> None:
    """InputError if one task was measured by two evaluations or on two revisions of its data."""
    for fact in ("evaluation", "data_revision"):
        seen: dict[str, str] = {}
        for score in rows:
            value = getattr(score, fact)
            if seen.setdefault(score.task, value) != value:
                raise InputError(
                    f"task {score.task!r} was scored under two {fact.replace('_', ' ')}s, {seen[score.task]!r} and "
                    f"{value!r} ({score.encoder}); one table never mixes them: evaluate again or leave one out"
                )


class TableSet(Table):
    """Several tables below each other: `tables` maps a name to a table, in order."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self.tables = dict(tables)

    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """The grids of every member."""
        rows = list(scores)
        return [grid for table in self.tables.values() for grid in table.grids(rows)]
