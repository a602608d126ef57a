"""Rows of local data files, the same whichever component asks: csv, tsv, JSON lines, JSON arrays, parquet; also .gz.

Values stay text: "NA", "null" and "007" are texts. A missing value is None (JSON's null and NaN,
parquet's null). Rows are read one by one; a file of any size takes the memory of a few thousand rows. A file that
cannot be read in full is an InputError, never fewer rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from llm2vec_gen.errors import InputError
from llm2vec_gen.local_files import json_rows, parquet, tables
from llm2vec_gen.local_files.names import FORMATS, Broken, Numbered, Record, data_files, format_of, stem_of
from llm2vec_gen.local_files.text import read_lines

__all__ = [
    "FORMATS", "Broken", "Numbered", "Record", "column_names", "columns_of", "data_files", "format_of", "read_lines",
    "read_rows", "stem_of", "value_of",
]  # fmt: skip

PEEK_ROWS = 100  # a column counts as there if one of the first rows of a file has it


def read_rows(file: Path, encoding: str = "utf-8", delimiter: str | None = None,
              columns: Sequence[str] | None = None, broken: Broken | None = None) -> Numbered:  # fmt: skip
    """Yield (number, row): the line a row begins on in csv, tsv and JSON lines, counted from 1; else the row's number.

    delimiter: of .csv and .tsv files; None is a comma and a tab. `.csv` quotes as RFC 4180 does, `.tsv` has no quotes.
    A blank line is the empty text where a table has one column, and no row otherwise. An empty file has no rows.
    columns: those of a parquet file to read; None is all. Raises InputError with file and number for what is no row:
    broken JSON, a duplicate key, an unbalanced quote, a row of another width, bytes that are no text; and for
    a file that is not what its name promises: a Git LFS pointer, an archive that is cut or damaged.
    broken: takes the error of a broken line of csv, tsv or JSON lines, and the rest is read; None raises it.
    """
    ending = format_of(file)
    if ending is None:
        raise InputError(f"{file} ends in {file.suffix or 'no suffix'}; expected one of {', '.join(FORMATS)}")
    if ending == ".parquet":
        return parquet.read(file, columns)
    if ending in (".csv", ".tsv"):
        return tables.read(file, encoding, delimiter, broken)
    return json_rows.read(file, encoding, broken)


def columns_of(file: Path, encoding: str = "utf-8", delimiter: str | None = None) -> list[str] | None:
    """Return the columns of a file, inner ones by their dotted names; None where it has no rows.

    Those of JSON are the columns that one of the first rows has.
    """
    if format_of(file) == ".parquet":
        return parquet.columns_of(file)
    first = [row for _, row in islice(read_rows(file, encoding, delimiter), PEEK_ROWS)]
    return list(dict.fromkeys(name for row in first for name in column_names(row))) if first else None


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
