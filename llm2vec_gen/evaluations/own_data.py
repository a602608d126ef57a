"""Your own file as an evaluation: rows with the columns that the config names, a part of them scored."""

from __future__ import annotations

import logging
import random
import statistics
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

from llm2vec_gen.errors import InputError, check_integer, closest
from llm2vec_gen.evaluations.base import Evaluation, data_revision
from llm2vec_gen.evaluations.records import located_records
from llm2vec_gen.local_files import Record, column_names, value_of
from llm2vec_gen.paths import PathOrId, on_disk
from llm2vec_gen.types import Encoder, Instruction, Score

log = logging.getLogger(__name__)

Values = Mapping[str, Mapping[str, float]]  # metric -> id -> value
NO_NUMBER = float("nan")


class Row(NamedTuple):
    """A row, its number among all rows (its id in scores) and its place for messages, file:line."""

    id: str
    place: str
    values: Record


class OwnData(Evaluation):
    """One task over rows of a csv, tsv, jsonl or parquet file (also .gz), run by mteb's task class of its kind.

    path            a file, a folder with one file per part (<split>.csv), or a hub id
    split           the part that is scored
    split_column    the column that names each row's part
    test_fraction   without split_column, for a single file: the fraction of rows that is scored, drawn by split_seed;
                    null scores all rows
    task            the name in score rows and instructions
    category        whose instruction is used, where the task has none of its own

    How to add a kind: a subclass with `name` and `kind`, the `columns` it reads, `_read` (rows to plain data, checked),
    `_describe` (its statistics) and `_score`. The data is read and checked before any model is loaded.
    """

    kind: str = ""  # whose metrics are kept: a category of mteb's

    def __init__(
        self,
        instruction: Instruction,
        path: PathOrId,
        task: str,
        category: str,
        split: str = "test",
        split_column: str | None = None,
        test_fraction: float | None = None,
        split_seed: int = 42,
    ) -> None:
        super().__init__(instruction)
        self.path, self.task, self.category = path, task, category
        self.split, self.split_column = split, split_column
        self.test_fraction, self.split_seed = test_fraction, split_seed
        check_integer(f"{self.key}.split_seed", split_seed, least=0)
        if test_fraction is not None and not (
            isinstance(test_fraction, int | float) and not isinstance(test_fraction, bool) and 0 < test_fraction < 1
        ):
            raise InputError(f"{self.key}.test_fraction={test_fraction}: expected a number between 0 and 1, or null")

    @property
    def key(self) -> str:
        """The key of its settings in a config."""
        return f"evaluation.{self.name}"

    def tasks(self) -> list[str]:
        """Return the one task."""
        return [self.task]

    def category_of(self, task: str) -> str:
        """Return the category that was given."""
        return self.category

    def check_data(self) -> None:
        """Read the file and raise InputError where it cannot be scored."""
        _ = self._data

    def evaluate(self, encoder: Encoder, task: str) -> list[Score]:
        """Return mteb's scores of the file, with the value of each item; print what the file holds."""
        self.check_task(task)
        from llm2vec_gen.evaluations.mteb_run import side_effects_undone

        log.info("%s: %s: %s", self.task, self.path, self._describe(self._data))
        with side_effects_undone():
            return self._score(encoder, self._data)

    # ---- what a kind of task has of its own

    @property
    @abstractmethod
    def columns(self) -> dict[str, str]:
        """Setting -> the name of the column, for the columns that it reads."""

    @abstractmethod
    def _read(self) -> Any:
        """Return the plain data of the task; raise InputError where it cannot be scored."""

    @abstractmethod
    def _describe(self, data: Any) -> str:
        """Return the statistics of the data in one line."""

    @abstractmethod
    def _score(self, encoder: Encoder, data: Any) -> list[Score]:
        """Return the score rows."""

    # ---- what they share

    @cached_property
    def _data(self) -> Any:
        return self._read()

    @cached_property
    def _revision(self) -> str:
        return data_revision(self._data)

    def _run(self, encoder: Encoder, built: Any, n: int) -> tuple[list[Score], Any]:
        """Run mteb's task; return its rows and what it predicted."""
        from llm2vec_gen.evaluations.mteb_run import KEPT_METRICS, run_task, score_rows

        run = run_task(built, encoder, self.instruction, self.category, predictions=True)
        rows = score_rows(run, built, encoder, self.name, self.category, n, self._revision, KEPT_METRICS[self.kind])
        return [replace(row, split=self.split) for row in rows], run.predictions[0]

    def rows_of(self, split: str) -> list[Row]:
        """Return the rows of one part; all rows where the file has no parts. InputError where there are none."""
        local = on_disk(self.path)
        by_file = self.split_column is None and not local.is_file()
        found = located_records(self.key + ".path", self.path, {}, None, split if by_file else None)
        rows = [Row(str(number), place, row) for number, (place, row) in enumerate(found, 1)]
        if self.split_column is not None:
            self._check_column("split_column", self.split_column, rows[0])
            return self._of_part(rows, split)
        return rows

    def scored_rows(self) -> list[Row]:
        """Return the rows that are scored: those of the split, or a seeded fraction of a single file."""
        rows = self.rows_of(self.split)
        if self.split_column is not None or self.test_fraction is None:
            return rows
        self.check_single_file()
        count = round(self.test_fraction * len(rows))
        if not count:
            raise InputError(
                f"{self.key}.test_fraction={self.test_fraction} of the {len(rows)} rows of {self.path} is no row; "
                "raise it, or set it to null"
            )
        return sorted(random.Random(self.split_seed).sample(rows, count), key=lambda row: int(row.id))

    def check_single_file(self) -> None:
        """Raise InputError where a fraction is asked of something that has parts already."""
        if not on_disk(self.path).is_file():
            raise InputError(
                f"{self.key}.test_fraction={self.test_fraction}: only a single file is split by a seed; the parts of "
                f"{self.path} are its files; set it to null"
            )

    def _of_part(self, rows: Sequence[Row], split: str) -> list[Row]:
        column = str(self.split_column)
        found = [row for row in rows if str(value_of(row.values, column)) == split]
        if not found:
            parts = Counter(str(value_of(row.values, column)) for row in rows)
            raise InputError(
                f"{self.key}: no row of {self.path} has {split!r} in its column {column!r}; expected one of "
                f"{closest(split, list(parts))}"
            )
        return found

    def _check_column(self, setting: str, column: str, row: Row) -> None:
        if column not in (names := column_names(row.values)):
            raise InputError(
                f"{self.key}.{setting}={column}: {self.path} has no such column; expected one of {', '.join(names)}"
            )

    def checked(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows, which have the columns and nothing missing in them."""
        for setting, column in self.columns.items():
            self._check_column(setting, column, rows[0])
        for row in rows:
            for column in self.columns.values():
                value = value_of(row.values, column)
                if value is None or (isinstance(value, str) and not value.strip()):
                    raise InputError(f"{row.place} has nothing in the column {column!r}; fill it or remove the row")
        return list(rows)

    def text(self, row: Row, column: str) -> str:
        """Return the text in a column; raise InputError for another type."""
        value = value_of(row.values, column)
        if not isinstance(value, str):
            raise InputError(
                f"{row.place}: the column {column!r} holds {str(value)[:60]!r}, a {type(value).__name__}; expected text"
            )
        return value

    def label(self, row: Row, column: str) -> str:
        """Return the label in a column as text: 1, 1.0 and "1" are one label, as are true and "true"."""
        value = value_of(row.values, column)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, str | int | float):
            raise InputError(
                f"{row.place}: the column {column!r} holds {str(value)[:60]!r}, a "
                f"{type(value).__name__}; expected a label, text or a number"
            )
        return str(value).strip()

    def number(self, row: Row, column: str) -> float:
        """Return the number in a column; InputError for text, and for what is not finite."""
        value = value_of(row.values, column)
        try:
            found = NO_NUMBER if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            found = NO_NUMBER
        if not abs(found) < float("inf"):  # False for nan
            raise InputError(f"{row.place}: the column {column!r} holds {str(value)[:60]!r}; expected a number")
        return found

    def check_classes(self, labels: Sequence[str], column: str) -> None:
        """Raise InputError where labels are not two or more classes with several rows."""
        counts = Counter(labels)
        where = f"{self.key}.label={column}: {self.path}"
        if len(counts) < 2:
            raise InputError(f"{where} has one class, {labels[0]!r}; expected two or more")
        if len(counts) == len(labels):
            raise InputError(
                f"{where} has {len(labels)} classes in {len(labels)} rows, no more rows than classes; expected several "
                "rows of a class: is this the column of the labels?"
            )


def with_values(rows: Iterable[Score], values: Values) -> list[Score]:
    """Return the rows with the values of their items, metric by metric."""
    return [replace(row, per_query=dict(values.get(row.metric, row.per_query))) for row in rows]


def lengths(texts: Sequence[str]) -> str:
    """Return the lengths of texts and the number of repeated ones, in words."""
    characters = sorted(len(text) for text in texts)
    repeated = len(texts) - len(set(texts))
    return (
        f"characters median {statistics.median(characters):g}, mean {statistics.fmean(characters):.0f}, longest "
        f"{characters[-1]}; {repeated} duplicates"
    )


def class_sizes(labels: Sequence[str]) -> str:
    """Return the number of classes and the rows of the smallest and the largest, in words."""
    counts = Counter(labels).values()
    return f"{len(counts)} classes of {min(counts)} to {max(counts)} rows"
