"""Results of a command, written in pieces: npy, jsonl or parquet by the file's ending; complete or absent."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llm2vec_gen.atomic_files import replacing
from llm2vec_gen.cli.arguments import check_output
from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    import numpy as np

STDOUT = Path("-")


class Writer(Protocol):
    """Takes rows of named values (texts, numbers, lists, arrays of one shape) and is closed at the end."""

    def write(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


def check_results(file: Path | None, endings: Sequence[str]) -> None:
    """Raise InputError where a file's ending names no format, or it cannot be written; before any work."""
    if file is None or file == STDOUT:
        return
    if file.suffix not in endings:
        raise InputError(f"--output {file}: expected a name that ends in {' or '.join(endings)}, or - for jsonl")
    check_output(file)
    if file.suffix == ".parquet":
        import pyarrow  # noqa: F401 - a missing package is reported before the work


@contextlib.contextmanager
def results(file: Path | None, printed: Callable[[dict[str, Any]], str] | None = None) -> Iterator[Writer]:
    """Yield the writer of a file, which appears under its name at the end.

    - is JSON lines on standard output, None the text that `printed` makes of each row.
    """
    if file is None or file == STDOUT:
        yield Printed(printed if file is None and printed else _json)
        return
    with replacing(file) as temporary:
        writer: Writer
        if file.suffix == ".parquet":
            writer = Parquet(temporary)
        elif file.suffix == ".jsonl":
            writer = JsonLines(temporary)
        else:
            writer = Npy(temporary)
        with contextlib.closing(writer):
            yield writer


class Printed:
    """Every row as text on standard output, at once."""

    def __init__(self, text: Callable[[dict[str, Any]], str]):
        self._text = text

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Print rows."""
        print("\n".join(map(self._text, rows)), flush=True)

    def close(self) -> None:
        """Do nothing: standard output stays open."""


class JsonLines:
    """One object per row."""

    def __init__(self, path: Path):
        self._stream = path.open("w", encoding="utf-8")

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows."""
        self._stream.writelines(f"{_json(row)}\n" for row in rows)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _json(row: dict[str, Any]) -> str:
    """Return a row as JSON; numbers of vectors in the shortest form that is the same float32."""
    return json.dumps(row, ensure_ascii=False, default=_floats)


def _floats(vector: np.ndarray) -> list[Any]:
    import numpy as np

    if vector.ndim > 1:
        return [_floats(row) for row in vector]
    return [float(text) for text in vector.astype(np.float32).astype("U32")]


MAX_WAITING = 100_000  # rows


class Parquet:
    """One row group per piece; vectors are lists of fixed size.

    The first rows wait until each column has a value, which gives it its type; a column without one in MAX_WAITING rows
    is of text.
    """

    def __init__(self, path: Path):
        self._path = path
        self._writer: Any = None
        self._waiting: list[dict[str, Any]] = []
        self._untyped: set[str] | None = None  # columns without a value so far

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows."""
        self._waiting += rows
        untyped = set(rows[0]) if self._untyped is None else self._untyped
        self._untyped = {name for name in untyped if all(row[name] is None for row in rows)}
        if not self._untyped or self._writer is not None or len(self._waiting) >= MAX_WAITING:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = self._waiting[0] if self._waiting else ()
        table = pa.table({name: _column([row[name] for row in self._waiting]) for name in names})
        if self._writer is None:
            typed = [one.with_type(pa.string()) if pa.types.is_null(one.type) else one for one in table.schema]
            self._writer = pq.ParquetWriter(self._path, pa.schema(typed))
        self._writer.write_table(table.cast(self._writer.schema))
        self._waiting = []

    def close(self) -> None:
        """Write what waits, and the footer; a file without rows where there were none."""
        if self._waiting or self._writer is None:
            self._flush()
        self._writer.close()


def _column(values: list[Any]) -> Any:
    import numpy as np
    import pyarrow as pa

    if not isinstance(values[0], np.ndarray):
        return pa.array(values)
    stacked = np.stack(values)
    flat = pa.array(stacked.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(stacked.shape[1:])))


class Npy:
    """The one array column of the rows as a float32 array; its header is written again once the length is known."""

    def __init__(self, path: Path):
        self._stream = path.open("w+b")
        self._rows, self._shape = 0, ()

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append the vectors of rows."""
        import numpy as np

        vectors = np.stack([next(value for value in row.values() if isinstance(value, np.ndarray)) for row in rows])
        if not self._rows:
            self._shape = vectors.shape[1:]
            self._header()
        self._rows += len(vectors)
        self._stream.write(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())

    def _header(self) -> None:
        """Write the header of the rows so far; numpy pads it, so that it keeps its length as the first axis grows."""
        import numpy as np

        described = {"descr": "<f4", "fortran_order": False, "shape": (self._rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._stream, described)

    def close(self) -> None:
        """Write the header again, with the number of rows."""
        self._stream.seek(0)
        self._header()
        self._stream.close()
