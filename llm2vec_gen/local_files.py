"""Rows of local data files, the same whichever component asks: csv, tsv, JSON lines, JSON arrays, parquet; also .gz.

Values stay the text that stands there: "NA", "null" and "007" are texts. A missing value is None (JSON's null and NaN,
parquet's null). Rows are read one by one; a file of any size takes the memory of a few thousand rows, but for a JSON
array, which is read whole.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from llm2vec_gen.types import InputError, one_line

Record = dict[str, Any]
Numbered = Iterator[tuple[int, Record]]

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
ROWS_AT_A_TIME = 1000  # how many rows of a parquet file are Python objects at a time
LFS_POINTER = b"version https://git-lfs.github.com/spec"
UNDECODED = re.compile("[\udc80-\udcff]")  # how "surrogateescape" marks bytes that are no text
csv.field_size_limit(1 << 30)  # Python's own limit is 131,072 characters of a cell


def format_of(file: Path) -> str | None:
    """Return the format's ending (".csv", also of a .csv.gz), None where it is none of FORMATS."""
    name = file.name.lower().removesuffix(".gz")
    found = next((ending for ending in FORMATS if name.endswith(ending)), None)
    return None if found == ".parquet" and file.suffix.lower() == ".gz" else found


def stem_of(file: Path) -> str:
    """Return the file's name without its ending: "test" of test.jsonl.gz."""
    ending = format_of(file) or ""
    name = file.name[: -len(".gz")] if file.name.lower().endswith(".gz") else file.name
    return name[: len(name) - len(ending)]


def data_files(folder: Path, recursive: bool = False) -> list[Path]:
    """Return the data files of a folder by name; hidden files and folders (.cache, __MACOSX) are no data."""
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        file for file in found if format_of(file) and not _hidden(file.relative_to(folder)) and file.is_file()
    )


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def read_rows(file: Path, encoding: str = "utf-8", delimiter: str | None = None,
              columns: Sequence[str] | None = None) -> Numbered:  # fmt: skip
    """Yield (number, row): the line a row begins on in text files, counted from 1, the row's number elsewhere.

    delimiter: of .csv and .tsv files; None is a comma and a tab. `.csv` quotes as RFC 4180 does, `.tsv` has no quotes.
    columns: those of a parquet file to read; None is all. Raises InputError with file and number for what is no row:
    broken JSON, an unbalanced quote, a row of another width, bytes that are no text, a Git LFS pointer.
    """
    ending = format_of(file)
    if ending is None:
        raise InputError(f"{file} ends in {file.suffix or 'no suffix'}; expected one of {', '.join(FORMATS)}")
    _check_pointer(file)
    if ending == ".parquet":
        return _parquet(file, columns)
    if ending in (".csv", ".tsv"):
        return _csv(file, encoding, delimiter or ("\t" if ending == ".tsv" else ","), quoted=ending == ".csv")
    return _json(file, encoding)


def value_of(row: Record, column: str | None) -> Any:
    """Return a row's value, None where it is missing; "request.text" is the text inside of the column request."""
    if column is None or column in row:
        return row.get(column) if column is not None else None
    found: Any = row
    for part in column.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def column_names(row: Record) -> list[str]:
    """Return the columns of a row, those inside of nested ones by their dotted names."""
    names = []
    for name, value in row.items():
        names.append(str(name))
        if isinstance(value, dict):
            names += [f"{name}.{inner}" for inner in column_names(value)]
    return names


def _check_pointer(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(f"{file} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")


def _open(file: Path, encoding: str, newline: str) -> IO[str]:
    encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    try:
        if file.suffix.lower() == ".gz":
            return gzip.open(file, "rt", encoding=encoding, errors="surrogateescape", newline=newline)
        return file.open(encoding=encoding, errors="surrogateescape", newline=newline)
    except LookupError as error:
        raise InputError(f"data.encoding={encoding} is unknown; give a name Python knows, e.g. utf-8") from error


def _check_text(text: str, file: Path, number: int, encoding: str) -> None:
    if UNDECODED.search(text):
        raise InputError(f"{file}:{number} is not {encoding} text; convert the file, or give its own data.encoding")


def _csv(file: Path, encoding: str, delimiter: str, quoted: bool) -> Numbered:
    if len(delimiter) != 1:
        raise InputError(f"delimiter {delimiter!r} of {file}: expected one character")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    with _open(file, encoding, "") as stream:
        reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
        header: list[str] | None = None
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, EOFError, OSError) as error:
                hint = "; a quote that is not closed, or not doubled inside of a cell?" if quoted else ""
                raise InputError(f"{file}:{number} is no row of a csv file: {one_line(error)}{hint}") from error
            if not cells:
                continue
            _check_text(delimiter.join(cells), file, number, encoding)
            if header is None:
                header = _header(cells, file)
                continue
            if len(cells) != len(header):
                hint = f"quote cells that hold a {delimiter!r}" if quoted else "tsv has no quotes: save it as csv"
                raise InputError(
                    f"{file}:{number} has {len(cells)} cells, the header {len(header)}; {hint}, or give the file's own "
                    "delimiter"
                )
            yield number, dict(zip(header, cells, strict=True))


def _header(cells: list[str], file: Path) -> list[str]:
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if twice:
        raise InputError(f"{file}: the column {twice[0]!r} stands twice in the header; rename one of them")
    return cells


def _json(file: Path, encoding: str) -> Numbered:
    with _open(file, encoding, "\n") as lines:
        if format_of(file) == ".json" and (array := _array(file, lines)) is not None:
            yield from ((number, _row(record, file, number)) for number, record in enumerate(array, 1))
            return
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    _check_text(line, file, number, encoding)
                    yield number, _row(_parsed(line, file, number), file, number)
        except (EOFError, gzip.BadGzipFile) as error:
            raise InputError(f"{file} is no whole gzip file: {one_line(error)}") from error


def _array(file: Path, lines: IO[str]) -> list[Any] | None:
    """The rows of a .json file that holds one array; None where it holds JSON lines (read from the start again)."""
    first = next((character for line in lines for character in line.strip()[:1]), "")
    lines.seek(0)
    if first != "[":
        return None
    return _parsed(lines.read(), file, 1)


def _parsed(text: str, file: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}:{number} is no JSON ({one_line(error)}); expected one object per line") from error


def _row(record: Any, file: Path, number: int) -> Record:
    if not isinstance(record, dict):
        raise InputError(f"{file}:{number} holds a {type(record).__name__}; expected one JSON object per line")
    return {name: _missing(value) for name, value in record.items()}


def _parquet(file: Path, columns: Sequence[str] | None) -> Numbered:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file, memory_map=True)
        kept = None if columns is None else [name for name in table.schema_arrow.names if name in _outer(columns)]
        for batch in table.iter_batches(batch_size=ROWS_AT_A_TIME, columns=kept, use_threads=False):
            for record in batch.to_pylist():
                number += 1
                yield number, {name: _missing(value) for name, value in record.items()}
    except (pyarrow.ArrowException, OSError) as error:
        where = f"cannot be read after row {number}" if number else "is no readable parquet file"
        raise InputError(f"{file} {where}: {one_line(error)}") from error


def _outer(columns: Sequence[str]) -> set[str]:
    """Columns to read so that dotted names can be looked up."""
    return {*columns, *(name.split(".")[0] for name in columns)}


def _missing(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
