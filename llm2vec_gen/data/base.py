"""The contract of a query source, and the row cleaning of every source.

How to add one: a file beside this one with a subclass of `QuerySource` that yields `Row`s, a yaml in conf/data, a test.
`rows` must stream (never hold the complete source) and give the same rows in the same order each time, because a killed
step asks for them again and skips what it has.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llm2vec_gen.data.hash_set import HashSet
from llm2vec_gen.data.quality import FAULTS, QualityFilter
from llm2vec_gen.errors import InputError, check_integer, repair_surrogates
from llm2vec_gen.local_files import Record, columns_of, read_rows, value_of
from llm2vec_gen.targets import locate
from llm2vec_gen.types import Query

COLUMN_KEYS = (
    "data.query_column",
    "data.answer_column",
    "data.id_column",
    "data.input_column",
    "data.negative_query_column",
    "data.negative_answer_column",
)
DROPPED = ("empty", "unanswered", *FAULTS, "without_negative", "duplicate")
"""What a row is dropped for, by the names of the counts in `report`."""

USER, ASSISTANT = frozenset({"user", "human"}), frozenset({"assistant", "gpt", "model"})


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the source holds it. `id` None: the row's index in the source becomes the id."""

    query: str | None
    answer: str | None = None
    id: str | None = None
    negative_query: str | None = None
    negative_answer: str | None = None


class QuerySource(ABC):
    """Rows of any kind -> clean queries.

    Text is stripped. Dropped are rows without query ("empty"), rows without answer where the source has answers
    ("unanswered"), rows with a fault that a filter `quality` looks for (its name), rows without hard negative, or
    without its answer, where the source has these ("without_negative"), and rows whose query stood in an earlier row
    ("duplicate"; compared in Unicode's composed form with runs of whitespace as one space). The first `skip` clean
    queries are left out ("skipped"), which gives rows that a run with `limit` did not train on. Characters that no
    UTF-8 file can hold (lone surrogates) become U+FFFD, in "repaired" rows. `report` counts these, "read" and "kept";
    it is complete once `queries` is exhausted.
    """

    digest_defaults: ClassVar[Mapping[str, Any]] = {  # what digests leave out
        "input_column": None,
        "skip": 0,
        "quality": None,
        "negative_query_column": None,
        "negative_answer_column": None,
        "negatives": None,
    }

    def __init__(
        self,
        limit: int | None = None,
        has_answers: bool = False,
        skip: int = 0,
        quality: QualityFilter | None = None,
        has_negatives: bool = False,
        has_negative_answers: bool = False,
    ):
        if has_negative_answers and not has_negatives:
            raise InputError("data.negative_answer_column answers the query of data.negative_query_column; name both")
        if quality is not None and not isinstance(quality, QualityFilter):
            raise InputError(f"data.quality={quality!r:.60}: expected a filter (+quality@data.quality=default) or null")
        if quality is not None and quality.fields == ("answer",) and not has_answers:
            raise InputError(
                "quality.fields=[answer]: the data has no answers to check; name their column, or check query"
            )
        check_integer("data.skip", skip, least=0)
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
            raise InputError(f"data.limit={limit}: expected a whole number of 1 or more, or null for all")
        if limit is not None and limit < 1:
            raise InputError(f"data.limit={limit} keeps no query; expected 1 or more, or null for all")
        self.limit, self.skip, self.quality = limit, skip, quality
        self.has_answers = has_answers
        self.has_negatives, self.has_negative_answers = has_negatives, has_negative_answers
        self.report = self._fresh_report()

    @staticmethod
    def gives_negatives(settings: Mapping[str, Any]) -> bool:
        """Return whether a source of these settings (its node of the config) has a hard negative for each query."""
        return settings.get("negative_query_column") is not None

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Yield every row of the source, in its order."""

    def queries(self) -> Iterator[Query]:
        """Yield the kept queries after the first `skip`, at most `limit`; raise InputError if none is left or an id
        occurs twice."""
        self.report = report = self._fresh_report()
        texts, ids = HashSet(), HashSet()
        for index, row in enumerate(self.rows()):
            report["read"] += 1
            query = self._clean(row, index, texts)
            if query is None:
                continue
            if row.id is not None and not ids.add(query.id):
                raise InputError(f"the id {query.id!r} is in two rows of {self}; ids must differ (data.id_column)")
            if self.skip and report["skipped"] < self.skip:
                report["skipped"] += 1
                continue
            report["kept"] += 1
            yield query
            if report["kept"] == self.limit:
                return
        if not report["kept"]:
            counts = ", ".join(f"{count} {name}" for name, count in report.items())
            raise InputError(f"{self} has no query to keep ({counts}); check data.query_column or give another log")

    def _clean(self, row: Row, index: int, texts: HashSet) -> Query | None:
        text, answer = _readable(row.query or ""), _readable(row.answer or "")
        if not text:
            self.report["empty"] += 1
            return None
        if self.has_answers and not answer:
            self.report["unanswered"] += 1
            return None
        fault = None if self.quality is None else self.quality.fault(text, answer if self.has_answers else None)
        if fault is not None:
            self.report[fault] += 1
            return None
        identifier = str(index) if row.id is None else row.id
        negative = self._negative(row, identifier, text, answer)
        if self.has_negatives and negative is None:
            self.report["without_negative"] += 1
            return None
        if not texts.add(_normal(text)):
            self.report["duplicate"] += 1
            return None
        read = [row.query, row.answer] + ([row.negative_query, row.negative_answer] if negative else [])
        self.report["repaired"] += any(_readable(value or "") != (value or "").strip() for value in read)
        return Query(identifier, text, answer if self.has_answers else None, negative)

    def _negative(self, row: Row, identifier: str, query: str, own_answer: str) -> Query | None:
        """Return a row's hard negative, with an id of its own; None where it lacks the query, or an answer to it, or
        where one of them is the row's own."""
        text, answer = _readable(row.negative_query or ""), _readable(row.negative_answer or "")
        if not self.has_negatives or not text or (self.has_negative_answers and not answer):
            return None
        if _normal(text) == _normal(query) or (answer and own_answer and _normal(answer) == _normal(own_answer)):
            return None
        return Query(f"{identifier}/negative", text, answer if self.has_negative_answers else None)

    def _fresh_report(self) -> dict[str, int]:
        absent = {"without_negative"} if not self.has_negatives else set()
        absent |= set(FAULTS) if self.quality is None else set()
        dropped = [name for name in DROPPED if name not in absent]
        return dict.fromkeys(("read", *dropped, "repaired", *(["skipped"] if self.skip else []), "kept"), 0)

    def __str__(self) -> str:
        return type(self).__name__


def gives_negatives(node: Mapping[str, Any]) -> bool:
    """Return whether the source of a config's node has hard negatives; True where its class has no such method."""
    known = getattr(locate(node["_target_"]), "gives_negatives", None)
    return True if known is None else known(node)


class LocalRows:
    """Rows of local files as (file:line, row), from the start each time; files without rows are skipped.

    Raises InputError when built where one of the other files lacks one of the columns ({key: column or None}).
    """

    def __init__(
        self, files: list[Path], columns: dict[str, str | None], encoding: str = "utf-8", delimiter: str | None = None
    ):
        self.columns, self.encoding, self.delimiter = columns, encoding, delimiter
        self.files = []
        for file in files:
            there = columns_of(file, encoding, delimiter)
            if there is not None:
                check_columns(there, columns, str(file))
                self.files.append(file)

    def __iter__(self) -> Iterator[tuple[str, Record]]:
        wanted = [column for column in self.columns.values() if column]
        for file in self.files:
            for number, record in read_rows(file, self.encoding, self.delimiter, wanted):
                yield f"{file}:{number}", record


def row_from(
    record: dict[str, Any],
    query: str,
    answer: str | None,
    identifier: str | None,
    where: str,
    context: str | None = None,
    negative_query: str | None = None,
    negative_answer: str | None = None,
) -> Row:
    """Return the row of a record of named values; raise InputError if a value is not text (an id may be a number).

    A list of messages gives its first user turn as the query and the first reply behind that as the answer; the columns
    of a hard negative are read alike. The text in the column `context`, where there is one, stands behind the query
    after a blank line (Alpaca's input).
    """
    asked = _text(value_of(record, query), query, where, first_query)
    given = _text(value_of(record, context), str(context), where, first_query)
    if asked and asked.strip() and given and given.strip():
        asked = f"{asked.strip()}\n\n{given.strip()}"
    return Row(
        asked,
        _text(value_of(record, answer), answer, where, first_answer) if answer else None,
        _id(value_of(record, identifier), identifier, where) if identifier else None,
        _text(value_of(record, negative_query), negative_query, where, first_query) if negative_query else None,
        _text(value_of(record, negative_answer), negative_answer, where, first_answer) if negative_answer else None,
    )


def check_columns(there: list[str], wanted: dict[str, str | None], where: str) -> None:
    """Raise InputError that lists the columns if one of `wanted` ({"data.query_column": "query"}) is missing."""
    for key, column in wanted.items():
        if column is not None and column not in there:
            joined = len(there) == 1 and any(sign in there[0] for sign in ";\t|,")
            hint = "; if that is several, give the file's delimiter (data.delimiter)" if joined else ""
            raise InputError(f"{where} has no column {column!r} ({key}); it has {', '.join(there) or 'none'}{hint}")


def _text(value: Any, column: str, where: str, read: Callable[[list[dict[str, Any]]], Any]) -> str | None:
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        value = read(value)
    if value is None or value == []:
        return None
    if isinstance(value, str):
        return value
    hint = ""
    if isinstance(value, dict):
        hint = f"; name the column inside of it, e.g. {column}.{next(iter(value), 'text')}"
    raise InputError(f"{where}: column {column!r} holds {type(value).__name__} {value!r:.40}; expected text{hint}")


# ---- conversations: lists of messages with role and content, or from and value (ShareGPT)


def first_query(messages: list[dict[str, Any]]) -> Any:
    """Return the text of the user's first turn, None where there is none."""
    return next((_content(message) for message in messages if _role(message) in USER), None)


def first_answer(messages: list[dict[str, Any]]) -> Any:
    """Return the text of the first reply behind the user's first turn: a greeting before it answers nothing."""
    asked = next((place for place, message in enumerate(messages) if _role(message) in USER), len(messages))
    return next((_content(message) for message in messages[asked:] if _role(message) in ASSISTANT), None)


def _role(message: dict[str, Any]) -> str:
    return str(message.get("role", message.get("from"))).lower()


def _content(message: dict[str, Any]) -> Any:
    """Return a message's content; that of parts is their texts, or None where a part is no text (an image)."""
    content = message.get("content", message.get("value"))
    if not isinstance(content, list):
        return content
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    found = [text for text in texts if isinstance(text, str)]
    return "".join(found) if len(found) == len(texts) else None


def _id(value: Any, column: str, where: str) -> str:
    if value is None or isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise InputError(f"{where}: column {column!r} holds {value!r:.40}; expected an id in every row")
    return _readable(str(value))


def _normal(text: str) -> str:
    """Return the text in NFC with single spaces; texts with equal results count as the same."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _readable(text: str) -> str:
    return repair_surrogates(text).strip()
