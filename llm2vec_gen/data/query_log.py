"""Queries from a log on disk: jsonl, json, csv, tsv or parquet, one file or a folder of them, read row by row."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from llm2vec_gen import local_files
from llm2vec_gen.data.base import QuerySource, Row, check_columns, row_from
from llm2vec_gen.local_files import FORMATS
from llm2vec_gen.paths import PathOrId, on_disk
from llm2vec_gen.types import InputError

PEEK_ROWS = 100  # a column counts as there if one of the first rows of a file has it


class QueryLog(QuerySource):
    """The format is the file's suffix: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, or .gz of a text file (see
    local_files.py). A folder: all such files in it, by name.

    A column may be nested ("request.text") and may hold a list of messages ({"role", "content"}): the first turn of the
    user is the query, the first of the assistant the answer. Without `id_column` the id is the index of the row,
    counted over all files before anything is dropped. With `answer_column`, rows without answer are dropped too.
    `encoding` is that of text files, `delimiter` that of csv and tsv files. Columns and files are checked when the
    source is built, rows when they are read.
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
    ):
        super().__init__(limit, has_answers=answer_column is not None)
        self.path = on_disk(path)
        self.encoding, self.delimiter = encoding, delimiter
        self.columns = (query_column, answer_column, id_column)
        self.files = _files(self.path)
        wanted = dict(zip(("data.query_column", "data.answer_column", "data.id_column"), self.columns, strict=True))
        filled = [file for file in self.files if file.stat().st_size]
        for file in filled:
            check_columns(self._columns_there(file), wanted, str(file))
        if not filled:
            raise InputError(f"data.path={path} is empty; expected at least one query")
        self.files = filled

    def rows(self) -> Iterator[Row]:
        """The rows of all files, one after another."""
        wanted = [column for column in self.columns if column]
        for file in self.files:
            for number, record in local_files.read_rows(file, self.encoding, self.delimiter, wanted):
                yield row_from(record, *self.columns, where=f"{file}:{number}")

    def _columns_there(self, file: Path) -> list[str]:
        first = islice(local_files.read_rows(file, self.encoding, self.delimiter), PEEK_ROWS)
        return list(dict.fromkeys(name for _, record in first for name in local_files.column_names(record)))

    def __str__(self) -> str:
        return f"the query log {self.path}"


def _files(path: Path) -> list[Path]:
    """The files a path stands for; InputError where there is none that we can read."""
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
