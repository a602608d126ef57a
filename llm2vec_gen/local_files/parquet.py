"""Rows of parquet files, a thousand at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.local_files.names import Numbered
from llm2vec_gen.local_files.text import check_pointer

ROWS_AT_A_TIME = 1000  # how many rows are Python objects at a time


def read(file: Path, columns: Sequence[str] | None) -> Numbered:
    """Yield (number, row), counted from 1; columns: those to read, inner ones by dotted names, None for all."""
    import pyarrow

    if (table := _opened(file)) is None:
        return
    wanted = None if columns is None else {*columns, *(name.split(".")[0] for name in columns)}
    kept = None if wanted is None else [name for name in table.schema_arrow.names if name in wanted]
    number = 0
    try:
        for batch in table.iter_batches(batch_size=ROWS_AT_A_TIME, columns=kept, use_threads=False):
            for record in batch.to_pylist():
                number += 1
                yield number, {name: _missing(value) for name, value in record.items()}
    except InputError:  # raised by the reader of the rows
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{file} cannot be read after row {number}: {one_line(error)}") from error
    if number != table.metadata.num_rows:
        raise InputError(f"{file} holds {number} rows, its footer names {table.metadata.num_rows}; get it again")


def columns_of(file: Path) -> list[str] | None:
    """Return the columns of the schema, inner ones by their dotted names; None where the file has no rows."""
    table = _opened(file)
    return list(_names(table.schema_arrow)) if table is not None and table.metadata.num_rows else None


def _opened(file: Path) -> Any:
    """Return the parquet file; None where it is empty (0 bytes)."""
    import pyarrow
    import pyarrow.parquet

    try:
        with file.open("rb") as stream:
            start = stream.read(64)
        check_pointer(start, str(file))
        if not start:
            return None
        table = pyarrow.parquet.ParquetFile(file, memory_map=True)
        names = table.schema_arrow.names
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} is no readable parquet file: {one_line(error)}") from error
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{file}: the column {twice[0]!r} appears twice in the schema; rename one of them")
    return table


def _names(fields: Any, before: str = "") -> Iterator[str]:
    import pyarrow

    for field in fields:
        yield before + field.name
        if pyarrow.types.is_struct(field.type):
            yield from _names(field.type.fields, f"{before}{field.name}.")


def _missing(value: Any) -> Any:
    """Return None for NaN, pandas' missing value, at any depth."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {name: _missing(inner) for name, inner in value.items()}
    return [_missing(inner) for inner in value] if isinstance(value, list) else value
