"""Queries from a log on disk: jsonl, csv or parquet, one file or a folder of them, read row by row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet

from llm2vec_gen.data.base import QuerySource, Row, check_columns, row_from
from llm2vec_gen.paths import PathOrId
from llm2vec_gen.types import InputError, one_line

BLOCK_BYTES = 16 << 20  # what is held of a csv at a time; no row may be longer
ROWS_AT_A_TIME = 1000  # how many rows are Python objects at a time
PEEK_ROWS = 100  # a column counts as there if one of the first rows of a jsonl file has it
UNDECODED = re.compile("[\udc80-\udcff]")  # how "surrogateescape" marks bytes that are no text


class QueryLog(QuerySource):
    """The format is the file's suffix: .jsonl or .ndjson, .csv or .tsv, .parquet. A folder: all such files, by name.

    Without `id_column` the id is the index of the row, counted over all files before anything is dropped. With
    `answer_column`, rows without answer are dropped too. `encoding` is that of text files. Columns and files are
    checked when the source is built, rows when they are read.
    """

    def __init__(
        self,
        path: PathOrId,
        query_column: str = "query",
        answer_column: str | None = None,
        id_column: str | None = None,
        limit: int | None = None,
        encoding: str = "utf-8",
    ):
        super().__init__(limit, has_answers=answer_column is not None)
        self.path = Path(path).expanduser()
        self.encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
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
        for file in self.files:
            for number, record in FORMATS[file.suffix.lower()](file, self.encoding, self._wanted()):
                yield row_from(record, *self.columns, where=f"{file}:{number}")

    def _wanted(self) -> list[str]:
        return list(dict.fromkeys(column for column in self.columns if column))

    def _columns_there(self, file: Path) -> list[str]:
        if file.suffix.lower() == ".parquet":
            return _parquet(file).schema_arrow.names
        if file.suffix.lower() in (".csv", ".tsv"):
            return _csv(file, self.encoding, []).schema.names
        first = islice(_jsonl_records(file, self.encoding, []), PEEK_ROWS)
        return list(dict.fromkeys(name for _, record in first for name in record))

    def __str__(self) -> str:
        return f"the query log {self.path}"


def _files(path: Path) -> list[Path]:
    """The files a path stands for; InputError where there is none that we can read."""
    known = ", ".join(FORMATS)
    if not path.exists():
        raise InputError(f"data.path={path} does not exist (looked from {Path.cwd()}); give a file or folder ({known})")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in FORMATS and file.is_file())
        if not files:
            raise InputError(f"the folder data.path={path} holds no query log; expected files ending in {known}")
        return files
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"data.path={path} ends in {path.suffix or 'no suffix'}; expected one of {known}")
    return [path]


# ------------------------------------------------------------- readers: (file, encoding, columns) -> (number, record)*


def _jsonl_records(file: Path, encoding: str, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers count from 1; blank lines are skipped."""
    with _open_text(file, encoding) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if UNDECODED.search(line):
                raise InputError(
                    f"{file}:{number} is no text in data.encoding={encoding.removesuffix('-sig')}; give the file's own"
                )
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{file}:{number} is no JSON ({error}); expected one object per line") from error
            if not isinstance(record, dict):
                raise InputError(f"{file}:{number} holds a {type(record).__name__}; expected one JSON object per line")
            yield number, record


def _csv_records(file: Path, encoding: str, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows count from 1 without the header."""
    number = 0
    reader = _csv(file, encoding, columns)
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except pyarrow.ArrowInvalid as error:
            raise InputError(
                f"{file} cannot be read after row {number}: {one_line(error)}; is data.encoding right?"
            ) from error
        for start in range(0, len(batch), ROWS_AT_A_TIME):
            for record in batch.slice(start, ROWS_AT_A_TIME).to_pylist():
                number += 1
                yield number, record


def _parquet_records(file: Path, encoding: str, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows count from 1."""
    number = 0
    try:
        for batch in _parquet(file).iter_batches(batch_size=ROWS_AT_A_TIME, columns=columns, use_threads=False):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read after row {number}: {one_line(error)}") from error


FORMATS = {
    ".jsonl": _jsonl_records,
    ".ndjson": _jsonl_records,
    ".csv": _csv_records,
    ".tsv": _csv_records,
    ".parquet": _parquet_records,
}


def _open_text(file: Path, encoding: str) -> IO[str]:
    try:
        return file.open(encoding=encoding, errors="surrogateescape", newline="\n")
    except LookupError as error:
        raise InputError(f"data.encoding={encoding} is unknown; give a name Python knows, e.g. utf-8") from error


def _csv(file: Path, encoding: str, columns: list[str]) -> pyarrow.csv.CSVStreamingReader:
    """All columns as text: a query "007" stays one. Quoted values may hold line breaks."""
    convert = {column: pyarrow.string() for column in columns}
    try:
        return pyarrow.csv.open_csv(
            file,
            pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, encoding=encoding.removesuffix("-sig")),
            pyarrow.csv.ParseOptions(delimiter="\t" if file.suffix.lower() == ".tsv" else ",", newlines_in_values=True),
            pyarrow.csv.ConvertOptions(column_types=convert, include_columns=columns, strings_can_be_null=False),
        )
    except LookupError as error:
        raise InputError(f"data.encoding={encoding} is unknown; give a name Python knows, e.g. utf-8") from error
    except (pyarrow.ArrowInvalid, UnicodeError) as error:
        raise InputError(
            f"{file} is no readable csv in data.encoding={encoding.removesuffix('-sig')}: {one_line(error)}"
        ) from error


def _parquet(file: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(file, memory_map=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} is no readable parquet file: {one_line(error)}") from error
