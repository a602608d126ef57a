"""The paper's kind of table: one row per encoder, one column per category of tasks, the average over all tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import stdev
from typing import Any

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.base import Table, columns_of, mean
from llm2vec_gen.tables.grid import Cell, Grid
from llm2vec_gen.tables.published import published as published_figures
from llm2vec_gen.tables.statistics import PerQuery, paired_interval, per_query, relative_change
from llm2vec_gen.types import Reading, Score

RunScores = dict[str, dict[str, float | None]]  # seed -> task -> score


class ScoreTable(Table):
    """A pivot of main scores.

    columns       categories or mappings (see `Column`)
    rows          encoder name -> label, in the order wanted; None takes every encoder in order of appearance. A row
                  that has no score at all stays, as an empty row
    average       "tasks" (mean over all tasks of the columns, the paper's), "categories" (mean of the columns) or None
    evaluations   names of the evaluations that may be read; None reads all
    percent       print 100 times the score
    experiment    the experiment whose encoders the rows are; a row may name another one, as "experiment:encoder", or
                  one below it, as "/name:encoder"
    published     {version, table}: the paper's figures that stand beside ours, see published.py
    baseline      the row that a second grid compares all others with: difference, paired bootstrap interval over
                  queries where the metric has values per query, relative change

    A category's figure is the mean over its tasks, a task's the mean over its subsets. A row that lacks one of the
    tasks any other row has gets a missing cell, not the mean over the rest. Several seeds give mean and standard
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
        experiment: str | None = None,
        published: Mapping[str, str] | None = None,
        baseline: str | None = None,
    ) -> None:
        if average not in (None, "tasks", "categories"):
            raise InputError(f"table average={average!r}: expected tasks, categories or null")
        self.title = title
        self.columns = columns_of(columns)
        labels = dict(rows) if isinstance(rows, Mapping) else {name: name for name in rows} if rows else None
        self.rows = {row_name(name, experiment): label for name, label in labels.items()} if labels else None
        self.average = average
        self.evaluations = list(evaluations) if evaluations else None
        self.scale = 100.0 if percent else 1.0
        self.decimals = decimals
        self.note = note
        self.published = published_figures(**published) if published else None
        self.baseline = row_name(baseline, experiment) if baseline else None

    def draws(self, score: Score) -> bool:
        """Whether it is of a row, an evaluation and a column of this table."""
        right_row = self.rows is None or score.encoder in self.rows or score.encoder == self.baseline
        return right_row and self._reads(score) and any(column.takes(score) for column in self.columns)

    def _reads(self, score: Score) -> bool:
        return self.evaluations is None or score.evaluation in self.evaluations

    def wanted(self) -> list[str]:
        """Return the rows that name an experiment, and the baseline."""
        names = [*(self.rows or {}), *([self.baseline] if self.baseline else [])]
        return [name for name in dict.fromkeys(names) if ":" in name]

    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """Return one grid, and with a `baseline` a second one of differences to it."""
        kept = [score for score in scores if self._reads(score)]
        by_column = [[score for score in kept if column.takes(score)] for column in self.columns]
        for rows in by_column:
            check_one_source(rows)
        names = self.rows or {score.encoder: score.encoder for rows in by_column for score in rows}
        among = {*names, self.baseline}
        tasks = [dict.fromkeys(score.task for score in rows if score.encoder in among) for rows in by_column]
        cells = {
            name: self._row([runs_of(rows, name) for rows in by_column], tasks)
            for name in dict.fromkeys([*names, *([self.baseline] if self.baseline else [])])
        }
        shown = self._beside([cells[name] for name in names], list(names), by_column)
        grids = [self._grid(self.title, list(names.values()), shown, self._note(by_column))]
        if self.baseline:
            grids.append(self._differences(names, cells, by_column, tasks))
        return grids

    def _grid(self, title: str, rows: list[str], cells: list[list[Cell]], note: str) -> Grid:
        return Grid(
            title=title,
            rows=rows,
            columns=[column.heading for column in self.columns] + (["average"] if self.average else []),
            cells=cells,
            lower_is_better=frozenset(column.heading for column in self.columns if column.lower_is_better),
            note=note,
            scale=self.scale,
            decimals=self.decimals,
            unscaled=frozenset(column.heading for column in self.columns if not column.percent),
            controls=frozenset(column.heading for column in self.columns if column.control),
        )

    def _row(self, columns: list[RunScores], tasks: list[dict[str, None]]) -> list[Cell]:
        """Return the cells of one encoder; `tasks` are those each column must have."""
        runs = list(dict.fromkeys(run for column in columns for run in column))
        values = [  # per run: the list of task scores of each column
            [[column.get(run, {}).get(task) for task in names] for column, names in zip(columns, tasks, strict=True)]
            for run in runs
        ]
        figures = [[mean(column) for column in run] for run in values]
        if self.average == "categories":
            figures = [[*row, mean(row)] for row in figures]
        elif self.average == "tasks":
            complete = all(tasks)  # a column without any score is empty, and so is the average over it
            figures = [
                [*row, mean([score for column in run for score in column]) if complete else None]
                for row, run in zip(figures, values, strict=True)
            ]
        width = len(self.columns) + bool(self.average)
        return [over_runs([row[column] for row in figures]) for column in range(width)]

    # ---- the published figures

    def _comparable(self, by_column: list[list[Score]]) -> bool:
        """Whether every score here is of a suite that the published figures are of."""
        found = {score.evaluation for rows in by_column for score in rows}
        return self.published is not None and found <= set(self.published.evaluations)

    def _beside(self, cells: list[list[Cell]], names: list[str], by_column: list[list[Score]]) -> list[list[Cell]]:
        if self.published is None or not self._comparable(by_column):
            return cells
        columns = [column.name for column in self.columns] + (["average"] if self.average else [])
        return [
            [replace(cell, published=self.published.figure(name, key)) for cell, key in zip(row, columns, strict=True)]
            for row, name in zip(cells, names, strict=True)
        ]

    def _note(self, by_column: list[list[Score]]) -> str:
        if self.published is None:
            return self.note
        source = f"{self.published.source}, {self.published.number}"
        if self._comparable(by_column):
            note = f"Cells with a published figure: ours / published / difference ({source})."
        else:
            found = sorted({score.evaluation for rows in by_column for score in rows})
            wanted = ", ".join(self.published.evaluations)
            note = f"These are scores of {', '.join(found)}; the published figures are of {wanted} and not shown."
        return " ".join(text for text in (self.note, note, self.published.note) if text)

    # ---- the differences

    def _differences(
        self, names: Mapping[str, str], cells: dict[str, list[Cell]], by_column: list[list[Score]], tasks: list[Any]
    ) -> Grid:
        assert self.baseline is not None
        theirs = cells[self.baseline]
        label = names.get(self.baseline, self.baseline)
        others = [name for name in names if name != self.baseline]
        values = {name: [per_query(rows, name) for rows in by_column] for name in [*others, self.baseline]}
        body = []
        for name in others:
            intervals = self._intervals(values[name], values[self.baseline], tasks)
            body.append([difference(*pair) for pair in zip(cells[name], theirs, intervals, strict=True)])
        note = (
            "Difference of the means over seeds; [95% interval] by paired bootstrap over queries, where the metric has "
            "values per query; (relative change)."
        )
        return self._grid(f"{self.title}: difference to {label}", [names[name] for name in others], body, note)

    def _intervals(
        self, ours: Sequence[PerQuery], theirs: Sequence[PerQuery], tasks: list[Any]
    ) -> list[tuple[float, float] | None]:
        """Return an interval per column; for the average where every task in it has values per query."""
        one, other = by_position(ours), by_position(theirs)
        columns = [[(position, task) for task in column] for position, column in enumerate(tasks)]
        found = [paired_interval(one, other, column) for column in columns]
        if not self.average:
            return found
        every = [key for column in columns for key in column]
        weights = [1 / (len(columns) * len(column)) for column in columns for _ in column]
        complete = all(interval is not None for interval in found)
        by_tasks = self.average == "tasks"
        return [*found, paired_interval(one, other, every, None if by_tasks else weights) if complete else None]


def by_position(columns: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], Any]:
    """Return the tasks of all columns in one mapping, those of two columns apart."""
    return {(position, task): value for position, column in enumerate(columns) for task, value in column.items()}


def row_name(name: str, experiment: str | None) -> str:
    """Return "experiment:encoder", or the encoder alone where no experiment is named.

    "/echo:echo" is a row of an experiment below: "<experiment>/echo:echo".
    """
    if experiment and name.startswith("/"):
        return f"{experiment}{name}"
    return f"{experiment}:{name}" if experiment and ":" not in name else name


def difference(ours: Cell, theirs: Cell, interval: tuple[float, float] | None) -> Cell:
    """Return the cell of a difference; a missing cell if either figure is one."""
    if ours.value is None or theirs.value is None:
        return Cell()
    change = relative_change(ours.value, theirs.value)
    return Cell(ours.value - theirs.value, runs=ours.runs, signed=True, interval=interval, relative=change)


def runs_of(rows: Sequence[Score], encoder: str) -> RunScores:
    """Return the score of each task, averaged over its subsets, per seed of one encoder.

    Two runs (score artifacts) of one seed complete each other, for instance two benchmarks; where they have a score
    twice, the choice is ambiguous: an InputError.
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
    """Return mean and standard deviation over the runs that have a figure; a missing cell if none has."""
    known = [value for value in values if value is not None]
    if not known:
        return Cell()
    return Cell(mean(known), stdev(known) if len(known) > 1 else 0.0, len(known))


def check_one_source(rows: Iterable[Score]) -> None:
    """Raise InputError if one task was measured by two evaluations or on two revisions of its data."""
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

    def wanted(self) -> list[str]:
        """Return the rows of every member."""
        return list(dict.fromkeys(name for table in self.tables.values() for name in table.wanted()))

    def with_readings(self, readings: Sequence[Reading]) -> TableSet:
        """Return every member with the readings."""
        return TableSet({name: table.with_readings(readings) for name, table in self.tables.items()})

    def draws(self, score: Score) -> bool:
        """Return whether any member draws the score."""
        return any(table.draws(score) for table in self.tables.values())

    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """Return the grids of every member."""
        rows = list(scores)
        return [grid for table in self.tables.values() for grid in table.grids(rows)]

    def pictures(self, scores: Iterable[Score]) -> dict[str, bytes]:
        """Return the pictures of the members, with the member's name in their names."""
        rows = list(scores)
        found = {name: table.pictures(rows) for name, table in self.tables.items()}
        return {f"{name}.{ending}": content for name, files in found.items() for ending, content in files.items()}
