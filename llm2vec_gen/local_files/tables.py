"""Rows of csv files (quoted as RFC 4180 has it) and tsv files (no quotes: a tab or line end cannot stand in a cell)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.local_files.names import Broken, Numbered, format_of
from llm2vec_gen.local_files.text import pieces, read_lines, wrong_bytes

csv.field_size_limit(1 << 30)  # Python's own limit is 131,072 characters of a cell
RETURN = "\ud800"  # a character that no decoded text holds


def read(file: Path, encoding: str, delimiter: str | None, broken: Broken | None = None) -> Numbered:
    """Yield (line it begins on, row) of a table whose first line names the columns.

    broken: takes the errors of rows. A quote that is never closed is raised all the same: it hides all rows after it.
    """
    quoted = format_of(file) == ".csv"
    delimiter = "\t" if delimiter == "\\t" else delimiter or ("," if quoted else "\t")  # \t: as a shell passes it on
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise InputError(f"delimiter {delimiter!r} of {file}: expected one character, but no quote and no line end")
    header: list[str] | None = None
    for number, cells in (_quoted if quoted else _unquoted)(file, encoding, delimiter, broken):
        if header is None:
            header = None if cells == [""] else _header(cells, file)
        elif len(cells) == len(header):
            yield number, dict(zip(header, cells, strict=True))
        elif cells != [""]:
            hint = f"quote cells that hold a {delimiter!r}" if quoted else "tsv has no quotes: save it as csv"
            error = InputError(
                f"{file}:{number} has {len(cells)} cells, the header {len(header)}; {hint}, or give the file's own "
                "delimiter (data.delimiter, --delimiter)"
            )
            _report(error, broken)


def _report(error: InputError, broken: Broken | None) -> None:
    if broken is None:
        raise error
    broken(error)


def _quoted(file: Path, encoding: str, delimiter: str, broken: Broken | None) -> Iterator[tuple[int, list[str]]]:
    # A line that is left out might be one of several in a cell: with `broken`, bytes are checked row by row.
    lines = (_kept(line) for _, line in pieces(file, encoding, check=broken is None))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            wrong = InputError(
                f"{file}:{number} is no row of a csv file: {one_line(error)}; a quote that is not closed, or not "
                "doubled inside of a cell?"
            )
            if broken is None or "end of data" in str(error):
                raise wrong from error
            broken(wrong)
            continue
        if broken is not None and (found := wrong_bytes("\n".join(cells), encoding, str(file), number)):
            broken(found)
            continue
        yield number, [cell.replace(RETURN, "\r") if RETURN in cell else cell for cell in cells] or [""]


def _kept(line: str) -> str:
    """Return the line with a stand-in for carriage returns inside it: Python's reader ends a row at each of them."""
    body = line.removesuffix("\n").removesuffix("\r")
    return body.replace("\r", RETURN) + line[len(body) :] if "\r" in body else line


def _unquoted(file: Path, encoding: str, delimiter: str, broken: Broken | None) -> Iterator[tuple[int, list[str]]]:
    for number, line in read_lines(file, encoding, broken=broken):
        yield number, line.split(delimiter)


def _header(cells: list[str], file: Path) -> list[str]:
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if twice:
        raise InputError(f"{file}: the column {twice[0]!r} appears twice in the header; rename one of them")
    if any("\r" in cell for cell in cells):
        raise InputError(f"{file}: its lines end in carriage returns, expected line feeds; convert it (mac2unix)")
    return cells
