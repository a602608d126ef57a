"""Documents of local files: jsonl, csv, tsv, json, parquet, a BEIR folder, text files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from llm2vec_gen.artifacts import digest
from llm2vec_gen.artifacts.digests import fingerprint
from llm2vec_gen.data.hash_set import HashSet
from llm2vec_gen.errors import InputError, check_integer, repair_surrogates
from llm2vec_gen.local_files import (
    Record,
    column_names,
    columns_of,
    data_files,
    format_of,
    read_lines,
    read_rows,
    value_of,
)
from llm2vec_gen.paths import PathOrId, on_disk

TYPES = {"text": str, "int": int, "float": float, "bool": bool}
RESERVED = frozenset({"id", "text", "source", "vector", "soft_prompts", "soft_prompt_scales", "score", "rank", "query",
                      "query_id", "decoded", "_distance"})  # fmt: skip
TYPED_BY = 100  # rows that decide the type of a metadata column without a given one
SHOWN = 5  # broken lines that the log shows; all are counted
TEXT_FILES = (".txt", ".md", ".rst")
BOOLS = {"true": True, "false": False, "1": True, "0": False}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Document:
    """A document: `source` says where its text is (file:line)."""

    id: str
    text: str
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)


class LocalCorpus:
    """Documents of a file or folder, streamed, in the same order each time.

    path       a file of jsonl, json, csv, tsv (also .gz) or parquet; a folder of such; a BEIR folder (its corpus.jsonl,
               title and text joined); a text file (a document per line); a folder of .txt, .md, .rst (one per file)
    text_column, id_column, title_column   columns by name, inner ones dotted; null id: `_id` or `id`, else file:line
    metadata   columns to keep, "year" or "year:int" (text, int, float, bool); without a type that of the first 100 rows

    A row that cannot be used (broken, no text column, an id that an earlier row has, a value of another type) is passed
    over, logged with its line and counted in `report`; a blank text is counted apart. Raises InputError when built
    where files or columns are missing.
    """

    def __init__(self, path: PathOrId, text_column: str = "text", id_column: str | None = None,
                 title_column: str | None = None, metadata: Sequence[str] = (), encoding: str = "utf-8",
                 delimiter: str | None = None, limit: int | None = None):  # fmt: skip
        check_integer("corpus.limit", limit, null=True)
        self.path, self.encoding, self.delimiter, self.limit = on_disk(str(path)), encoding, delimiter, limit
        self.text_column, self.id_column, self.title_column = text_column, id_column, title_column
        self.files = self._files()
        self.metadata = {_stored_name(name): kind for name, kind in map(_named, metadata)}
        self._columns = {_stored_name(name): name for name, _ in map(_named, metadata)}
        if len(self._columns) != len(list(metadata)):
            raise InputError(f"corpus.metadata={list(metadata)}: two columns would have one name; leave one out")
        self._prepare()
        self.report = self._fresh_report()

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def digest(self) -> str:
        """Digest of the files' content and of the columns that are read."""
        columns = [self.text_column, self.id_column, self.title_column, self._columns]
        return digest(fingerprint(self.path), columns, self.encoding, self.delimiter, self.limit)

    def documents(self) -> Iterator[Document]:
        """Yield the documents, at most `limit`; `report` is complete afterwards. InputError where there is none."""
        self.report = self._fresh_report()
        ids = HashSet()
        for source, identifier, text, row in self._rows():
            if not text.strip():
                self._count("blank")
                continue
            if not ids.add(identifier):
                self._broken(InputError(f"{source}: the id {identifier!r} is that of an earlier row; ids must differ"))
                continue
            try:
                metadata = {name: self._value(row, name, source) for name in self._columns}
            except InputError as error:
                self._broken(error)
                continue
            self._count("kept")
            yield Document(identifier, text.strip(), source, metadata)
            if self.report["kept"] == self.limit:
                return
        if not self.report["kept"]:
            counts = ", ".join(f"{count} {name}" for name, count in self.report.items())
            raise InputError(f"{self.path} has no document to keep ({counts}); check the column names")

    # Rows

    def _rows(self) -> Iterator[tuple[str, str, str, Record]]:
        """Yield (source, id, text, row) of every row that can be read."""
        for file in self.files:
            prefix = "" if len(self.files) == 1 else f"{file.relative_to(self.path).as_posix()}:"
            if format_of(file):
                yield from self._records(file, prefix)
            elif self.path.is_dir():
                lines = [line for _, line in read_lines(file, self.encoding, broken=self._broken)]
                yield str(file), prefix.removesuffix(":") or file.name, "\n".join(lines), {}
            else:
                for number, line in read_lines(file, self.encoding, broken=self._broken):
                    yield f"{file}:{number}", f"{number}", line, {}

    def _records(self, file: Path, prefix: str) -> Iterator[tuple[str, str, str, Record]]:
        columns = [self.text_column, self.title_column, self.id_column, "_id", "id", *self._columns.values()]
        wanted = [column for column in columns if column]
        for number, row in read_rows(file, self.encoding, self.delimiter, wanted, self._broken):
            try:
                text = _text(row, self.text_column, f"{file}:{number}")
                title = _text(row, self.title_column, f"{file}:{number}") if self.title_column else ""
                yield f"{file}:{number}", self._id(row, f"{file}:{number}") or f"{prefix}{number}", (
                    f"{title} {text}" if title.strip() else text
                ), row  # fmt: skip
            except InputError as error:
                self._broken(error)

    def _id(self, row: Record, where: str) -> str | None:
        names = [self.id_column] if self.id_column else ["_id", "id"]
        value = next((found for name in names if (found := value_of(row, name)) is not None), None)
        if value is None and self.id_column is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise InputError(f"{where}: the id is {value!r:.40}; expected a text or whole number")
        return repair_surrogates(str(value))

    def _value(self, row: Record, name: str, where: str) -> Any:
        """Return a metadata value in the type of its column; InputError where it is of another."""
        value, kind = value_of(row, self._columns[name]), self.metadata[name]
        if value is None or (value == "" and kind != "text"):
            return None
        try:
            return _converted(value, kind)
        except (ValueError, TypeError, KeyError, OverflowError):
            raise InputError(
                f"{where}: column {self._columns[name]!r} holds {value!r:.40}; expected {kind} as in the rows before"
            ) from None

    def _broken(self, error: InputError) -> None:
        self._count("broken")
        if self.report["broken"] <= SHOWN:
            log.warning("passed over: %s", error)

    def _count(self, name: str) -> None:
        self.report["read"] += 1
        self.report[name] += 1

    @staticmethod
    def _fresh_report() -> dict[str, int]:
        return dict.fromkeys(("read", "broken", "blank", "kept"), 0)

    # What is there

    def _files(self) -> list[Path]:
        if not self.path.exists():
            raise InputError(f"corpus.path={self.path} does not exist (looked from {Path.cwd()})")
        if self.path.is_file():
            return [self.path]
        beir = [self.path / name for name in ("corpus.jsonl", "corpus.jsonl.gz") if (self.path / name).is_file()]
        if beir:
            self.title_column = self.title_column or "title"
            return beir[:1]
        texts = (file for file in self.path.rglob("*") if file.suffix in TEXT_FILES and file.is_file())
        if found := data_files(self.path) or sorted(texts):
            return found
        raise InputError(
            f"corpus.path={self.path} has no data file; expected corpus.jsonl (BEIR), .jsonl, .csv, .tsv, .json, "
            f".parquet, or text files ({', '.join(TEXT_FILES)})"
        )

    def _prepare(self) -> None:
        """Check the columns of every file, and decide the types of metadata columns that were given none."""
        first: list[Record] = []
        for file in self.files:
            if not format_of(file):
                if self._columns:
                    raise InputError(f"{file} is a text file; corpus.metadata needs columns, of jsonl, csv or parquet")
                continue
            rows = (row for _, row in read_rows(file, self.encoding, self.delimiter, broken=lambda error: None))
            peeked = list(islice(rows, TYPED_BY))
            there = columns_of(file) or [] if format_of(file) == ".parquet" else [
                *dict.fromkeys(name for row in peeked for name in column_names(row))
            ]  # fmt: skip
            given = [self.text_column, self.id_column, *self._columns.values()]
            if peeked and (missing := [name for name in given if name and name not in there]):
                raise InputError(
                    f"{file} has no column {missing[0]!r}; it has {', '.join(there) or 'none'}; name the right one "
                    "(corpus.text_column, corpus.id_column, corpus.metadata; --column, --id-column, --metadata)"
                )
            first += peeked
        for name, column in self._columns.items():
            self.metadata[name] = self.metadata[name] or _type_of([value_of(row, column) for row in first[:TYPED_BY]])


def _named(given: str) -> tuple[str, str]:
    """Return (column, type) of "year:int"; the type is "" where none is given."""
    name, colon, kind = str(given).rpartition(":")
    if not colon:
        return str(given), ""
    if kind not in TYPES:
        raise InputError(f"corpus.metadata has {given!r}; expected a column, or column:type of {', '.join(TYPES)}")
    return name, kind


def _stored_name(column: str) -> str:
    """Return the column's name in the table and in filters: letters, digits and underscores."""
    name = re.sub(r"\W+", "_", column, flags=re.ASCII)
    name = f"_{name}" if name[:1].isdigit() else name
    if name.lower() in RESERVED or not name.strip("_"):
        raise InputError(f"corpus.metadata has {column!r}, a name that the index uses itself; rename the column")
    return name


def _type_of(values: Sequence[Any]) -> str:
    """Return the type that all given values have; text where they differ."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return "float"
    return next((name for name, kind in TYPES.items() if kinds == {kind}), "text")


def _converted(value: Any, kind: str) -> Any:
    if kind == "text":
        if isinstance(value, dict | list):
            raise TypeError
        return repair_surrogates(str(value))
    if kind == "bool":
        return value if isinstance(value, bool) else BOOLS[str(value).strip().lower()]
    if isinstance(value, bool) or (kind == "int" and isinstance(value, float) and not value.is_integer()):
        raise ValueError
    number = TYPES[kind](value)
    if kind == "int" and not -(2**63) <= number < 2**63:
        raise ValueError
    return number


def _text(row: Record, column: str, where: str) -> str:
    value = value_of(row, column)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: column {column!r} holds {type(value).__name__} {value!r:.40}; expected text")
    return repair_surrogates(value or "")
