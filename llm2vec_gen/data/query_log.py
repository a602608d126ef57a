"""Queries from a log on disk: jsonl, json, csv, tsv or parquet, one file or a folder of them, read row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llm2vec_gen import local_files
from llm2vec_gen.data.base import COLUMN_KEYS, LocalRows, QuerySource, Row, row_from
from llm2vec_gen.data.quality import QualityFilter
from llm2vec_gen.errors import InputError
from llm2vec_gen.local_files import FORMATS
from llm2vec_gen.paths import PathOrId, on_disk


class QueryLog(QuerySource):
    """The format is the file's suffix: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, or .gz of a text file (see
    local_files). A folder: all such files in it and its subfolders, by name; files without rows are skipped.

    A column may be nested ("request.text") and may hold a list of messages ({"role", "content"}): the first turn of the
    user is the query, the first reply to it the answer. `input_column` holds what a query is about (Alpaca's `input`
    beside its `instruction`): where it is not blank, it follows the query behind an empty line. Without `id_column` the
    id is the index of the row, counted over all files before anything is dropped. With `answer_column`, rows without
    answer are dropped too.
    `negative_query_column` holds each query's hard negative and `negative_answer_column` the answer to that (for
    replay); rows without one are dropped.
    `encoding` is that of text files, `delimiter` that of csv and tsv files. Columns and files are checked when the
    source is built, rows when they are read. `skip` leaves out the first so many clean queries, before `limit` counts.
    """

    def __init__(
        self,
        path: PathOrId,
        query_column: str = "query",
        answer_column: str | None = None,
        id_column: str | None = None,
        limit: int | None = None,
        encoding: str = "utf-8",
        delimiter: str | None = None,
        skip: int = 0,
        input_column: str | None = None,
        quality: QualityFilter | None = None,
        negative_query_column: str | None = None,
        negative_answer_column: str | None = None,
    ):
        super().__init__(
            limit,
            has_answers=answer_column is not None,
            skip=skip,
            quality=quality,
            has_negatives=negative_query_column is not None,
            has_negative_answers=negative_answer_column is not None,
        )
        self.path = on_disk(path)
        negatives = (negative_query_column, negative_answer_column)
        self.columns = (query_column, answer_column, id_column, input_column, *negatives)
        wanted = dict(zip(COLUMN_KEYS, self.columns, strict=True))
        self._rows = LocalRows(_files(self.path), wanted, encoding, delimiter)
        if not self._rows.files:
            raise InputError(f"data.path={path} is empty; expected at least one query")

    def rows(self) -> Iterator[Row]:
        """Yield the rows of all files, one after another."""
        for where, record in self._rows:
            yield row_from(record, *self.columns[:3], where, *self.columns[3:])

    def __str__(self) -> str:
        return f"the query log {self.path}"


def _files(path: Path) -> list[Path]:
    """Return the files of a path; raise InputError if there is none that can be read."""
    known = ", ".join(FORMATS)
    if not path.exists():
        raise InputError(f"data.path={path} does not exist (looked from {Path.cwd()}); give a file or folder ({known})")
    if path.is_dir():
        files = local_files.data_files(path)
        if not files:
            raise InputError(f"the folder data.path={path} holds no query log; expected files ending in {known}")
        return files
    if local_files.format_of(path) is None:
        raise InputError(f"data.path={path} ends in {path.suffix or 'no suffix'}; expected one of {known}")
    return [path]
