"""Rows of JSON files: one object per line, or (.json) one array of objects, read an element at a time."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.local_files.names import Broken, Numbered, Record, format_of
from llm2vec_gen.local_files.text import pieces

CHARACTERS_AT_A_TIME = 1 << 16
BLANKS = re.compile(r"[ \t\n\r]*")


def read(file: Path, encoding: str, broken: Broken | None = None) -> Numbered:
    """Yield (number, row): the line of JSON lines, the row's number in an array; blank lines are no rows.

    broken: takes the errors of lines; an array has none, and raises.
    """
    if format_of(file) == ".json":
        array = _Array(file, encoding)
        if array.next() == "[":
            yield from array.rows()
            return
    for number, line in pieces(file, encoding, broken=broken):
        if line := line.strip():
            try:
                row = _line(line, file, number)
            except InputError as error:
                if broken is None:
                    raise
                broken(error)
                continue
            yield number, row


def _line(line: str, file: Path, number: int) -> Record:
    try:
        return _row(DECODER.decode(line), file, number)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}:{number} is no JSON ({one_line(error)}); expected one object per line") from error


def _object(pairs: list[tuple[str, Any]]) -> Record:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} appears twice in one object")
    return found


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)  # NaN is how pandas and numpy write a missing value


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _row(record: Any, file: Path, number: int) -> Record:
    if not isinstance(record, dict):
        raise InputError(f"{file}:{number} holds a {type(record).__name__}; expected one JSON object per line")
    return record


class _Array:
    """The text of one JSON array, held from where it has been read to and refilled as it is used up."""

    def __init__(self, file: Path, encoding: str):
        self.file = file
        self.pieces = pieces(file, encoding, CHARACTERS_AT_A_TIME)
        self.text, self.at, self.line = "", 0, 1

    def rows(self) -> Numbered:
        """Yield (number, row) of the elements; `next` is at the opening bracket."""
        self.at, number = self.at + 1, 0
        if self.next() != "]":
            mark = ","
            while mark == ",":
                number += 1
                yield number, _row(self._element(number), self.file, number)
                mark = self.next()
                self.at += 1
            if mark != "]":
                raise self._broken(number, f"{mark!r} after it" if mark else "the file ends before the array")
        else:
            self.at += 1
        if more := self.next():
            raise self._broken(number, f"{more!r} after the end of the array")

    def next(self) -> str:
        """Return the next character that is not blank, without taking it; "" at the end of the file."""
        while True:
            self.at = BLANKS.match(self.text, self.at).end()  # type: ignore[union-attr]  # matches always
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._refill():
                return ""

    def _element(self, number: int) -> Any:
        self.next()
        while True:
            try:
                value, self.at = DECODER.raw_decode(self.text, self.at)
                return value
            except json.JSONDecodeError as error:  # broken, or not all of it is here yet
                if not self._refill():
                    raise self._broken(number, one_line(error)) from error
            except (ValueError, RecursionError) as error:
                raise self._broken(number, one_line(error)) from error

    def _refill(self) -> bool:
        """Append as much text as is left (doubling keeps a long element linear); False at the end of the file."""
        self.line += self.text.count("\n", 0, self.at)
        kept, more = self.text[self.at :], io.StringIO()
        while more.tell() <= len(kept) and (piece := next(self.pieces, None)):
            more.write(piece[1])
        self.text, self.at = kept + more.getvalue(), 0
        return more.tell() > 0

    def _broken(self, number: int, why: str) -> InputError:
        line = self.line + self.text.count("\n", 0, self.at)
        return InputError(f"{self.file}:{line} is no JSON (row {number}: {why}); expected one array of objects")
