"""Queries from a data set of the Hugging Face hub, or from a local folder in one of its layouts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from llm2vec_gen.data.base import COLUMN_KEYS, LocalRows, QuerySource, Row, check_columns, row_from
from llm2vec_gen.data.quality import QualityFilter
from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.local_files import Record, column_names, data_files, stem_of
from llm2vec_gen.paths import PathOrId, on_disk

OTHER_SPLITS = frozenset({"test", "validation", "valid", "val", "dev", "eval"})


class HubDataset(QuerySource):
    """One split of a data set, streamed: only that split's files are opened, and nothing is copied to a cache.

    split: its name; null derives it from `split_of`, the name of the language model that wrote the answers, the way
    the published completions of arXiv 2603.10913 are named (one split per generator). Columns are checked against the
    first row when the source is built. `encoding` and `delimiter` are those of local text files. `input_column` stands
    behind the query after a blank line; a column may hold messages (see `row_from`). `negative_query_column` holds each
    query's hard negative and `negative_answer_column` the answer to that; rows without one are dropped.
    """

    def __init__(
        self,
        path: PathOrId,
        name: str | None = None,
        split: str | None = "train",
        query_column: str = "query",
        answer_column: str | None = None,
        id_column: str | None = None,
        revision: str = "main",
        limit: int | None = None,
        split_of: str | None = None,
        encoding: str = "utf-8",
        delimiter: str | None = None,
        input_column: str | None = None,
        quality: QualityFilter | None = None,
        negative_query_column: str | None = None,
        negative_answer_column: str | None = None,
    ):
        super().__init__(
            limit,
            has_answers=answer_column is not None,
            quality=quality,
            has_negatives=negative_query_column is not None,
            has_negative_answers=negative_answer_column is not None,
        )
        if split is None and split_of is None:
            raise InputError("data.split is null; give the name of a split, or a model's name as data.split_of")
        self.path, self.name, self.revision = path, name, revision
        self.split: str = split or split_name(split_of or "")
        negatives = (negative_query_column, negative_answer_column)
        self.columns = (query_column, answer_column, id_column, input_column, *negatives)
        place, wanted = on_disk(path), dict(zip(COLUMN_KEYS, self.columns, strict=True))
        self._rows: Iterable[tuple[str, Record]]
        if place.exists():
            self._rows = LocalRows(self._local_files(place), wanted, encoding, delimiter)
        else:
            self._rows = _HubRows(self)
        first = next(iter(self._rows), None)
        if first is None:
            raise InputError(f"{self} is empty; expected at least one query")
        if not place.exists():
            check_columns(column_names(first[1]), wanted, str(self))

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the split, in its order."""
        for where, record in self._rows:
            yield row_from(record, *self.columns[:3], where, *self.columns[3:])

    def _local_files(self, place: Path) -> list[Path]:
        """Return the split's files: those with its name, or in a folder of its name; for "train" all, if none is."""
        if place.is_file():
            return [place]
        folder = place / self.name if self.name and (place / self.name).is_dir() else place
        files = data_files(folder)
        named = [
            file
            for file in files
            if stem_of(file) == self.split
            or stem_of(file).startswith(f"{self.split}-")
            or self.split in file.relative_to(folder).parts[:-1]
        ]
        if not named and self.split != "train":
            there = ", ".join(sorted({stem_of(file) for file in files})) or "none"
            raise InputError(
                f"{self} cannot be read: no file is named {self.split}.jsonl (or .csv, ...); there: {there}"
            )
        if not files:
            raise InputError(f"{self} cannot be read: the folder holds no csv, jsonl, json, tsv or parquet file")
        if named:
            return named
        others = [file for file in files if _other_split(file.relative_to(folder))]
        if others:
            raise InputError(
                f"{self} cannot be read: no file is named train.jsonl (.csv, ...), and {others[0].name} is of another "
                "split; name the training file after its split, or choose data.split="
            )
        return files

    def __str__(self) -> str:
        return f"the split {self.split} of the data set {self.path}" + (f" ({self.name})" if self.name else "")


def _other_split(file: Path) -> bool:
    """Return whether a file or a folder around it is named after a split that is not for training."""
    names = [*file.parts[:-1], stem_of(file).split("-")[0]]
    return any(name.lower() in OTHER_SPLITS for name in names)


class _HubRows:
    """Rows of a data set of the hub as (set:number, row), from the start each time."""

    def __init__(self, data: HubDataset):
        import datasets

        self.name = str(data)
        expected = "expected the id of a data set on the hub, or a local folder of csv, jsonl or parquet files"
        try:
            self.rows = datasets.load_dataset(
                data.path, data.name, split=data.split, revision=data.revision, streaming=True
            )
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise InputError(f"{data} cannot be read: {one_line(error)} ({expected})") from error

    def __iter__(self) -> Iterator[tuple[str, Record]]:
        for number, record in enumerate(self.rows, 1):
            yield f"{self.name}:{number}", record


def split_name(model: str) -> str:
    """Return the split with a model's completions.

    It is the last part of the model's name, dots dropped, `_` for every other character that is no letter or digit:
    "Qwen/Qwen2.5-0.5B-Instruct" -> "Qwen25_05B_Instruct".
    """
    last = model.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9]", "_", last.replace(".", ""))
