"""Texts of a command, read in pieces: from its arguments, a file, or standard input."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from llm2vec_gen.errors import InputError, repair_surrogates

CHUNK = 1024  # texts in memory at a time; sorted by length within, so that more would pack hardly better


class TextRow(NamedTuple):
    """A text with its id: that of a column `_id` or `id`, else the number of its line or row, from 1."""

    id: str
    text: str


class Texts:
    """The texts of a command in order; `total` is None where it is not known before they are read."""

    def __init__(self, rows: Iterator[TextRow], total: int | None, source: str):
        first = list(islice(rows, CHUNK))  # what is wrong with the first texts is reported before a model is loaded
        if not first:
            raise InputError(f"{source} is empty; expected at least one text")
        self.total = total
        self._rows = chain(first, rows)

    def __iter__(self) -> Iterator[TextRow]:
        return self._rows

    def chunks(self, size: int = CHUNK) -> Iterator[list[TextRow]]:
        """Yield the texts, `size` at a time."""
        while chunk := list(islice(self._rows, size)):
            yield chunk


def read_texts(options: argparse.Namespace) -> Texts:
    """Return the texts that a command was given; InputError where there are none, or in two ways."""
    given = [] if options.texts == ["-"] else options.texts
    if given and options.file:
        raise InputError("texts are given as arguments and with --file; choose one of the two")
    if given:
        return Texts(_arguments(given), len(given), "the command line")
    if options.file is not None and str(options.file) != "-":
        return Texts(read_column(options.file, options.column, options), None, str(options.file))
    if sys.stdin is None or (sys.stdin.isatty() and options.texts != ["-"] and options.file is None):
        raise InputError("no texts: give them as arguments, with --file, or on standard input")
    return Texts(_standard_input(options), None, "standard input")


def _arguments(texts: Sequence[str]) -> Iterator[TextRow]:
    for number, text in enumerate(texts, start=1):
        if text != repair_surrogates(text):  # bytes of the command line that are no UTF-8
            raise InputError(f"text {number} of the command line is not UTF-8, which was expected: {text!r:.60}")
    if len(texts) == 1 and _is_file(texts[0]):
        print(f"{texts[0]!r} is embedded as a text; --file {texts[0]} reads the file", file=sys.stderr)
    yield from (TextRow(str(number), text) for number, text in enumerate(texts, start=1))


def _is_file(text: str) -> bool:
    with contextlib.suppress(OSError, ValueError):  # too long for a name, or with characters that no name has
        return Path(text).is_file()
    return False


def _standard_input(options: argparse.Namespace) -> Iterator[TextRow]:
    from llm2vec_gen.local_files import read_lines

    if options.format in (None, "lines"):
        for number, text in read_lines(sys.stdin.buffer, options.encoding, "standard input"):
            yield TextRow(str(number), text)
        return
    with tempfile.TemporaryDirectory(prefix="llm2vec_gen-") as folder:  # parquet is read from its end
        copy = Path(folder) / f"standard_input.{options.format}"
        with copy.open("wb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
        yield from read_column(copy, options.column, options)


def read_column(
    file: Path, column: str, options: argparse.Namespace, flag: str = "--column", ids: Sequence[str] = ("_id", "id")
) -> Iterator[TextRow]:
    """Yield every row of a file: the named column of a csv, tsv, jsonl, json or parquet file, else its lines.

    Ids are those of the first of the columns `ids` that is there. A missing text is an empty one.
    """
    from llm2vec_gen.data.base import row_from
    from llm2vec_gen.local_files import column_names, columns_of, format_of, read_lines, read_rows

    if format_of(file) is None:
        yield from (TextRow(str(number), text) for number, text in read_lines(file, options.encoding))
        return
    dialect = (options.encoding, options.delimiter)
    there = columns_of(file, *dialect) or []
    id_column = next((name for name in ids if name in there and name != column), None)
    wanted = [column, id_column] if id_column else [column]
    for number, row in read_rows(file, *dialect, wanted):
        if column not in (names := column_names(row)):
            raise InputError(
                f"{file}:{number} has no text in column {column!r}; it has {', '.join(dict.fromkeys(there + names))}; "
                f"name one with {flag}"
            )
        named = id_column if id_column and row.get(id_column) is not None else None
        found = row_from(row, column, None, named, f"{file}:{number}")
        yield TextRow(found.id or str(number), found.query or "")
