"""Filters of a search: a small language of comparisons, checked against the columns before any SQL is made.

    year >= 2020 and lang = 'en'
    lang in ('en', 'de') and not (draft = true)
    title contains 'peru' or rating is null

Columns are the metadata's, `id` and `source`. Texts stand in single or double quotes, doubled within.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm2vec_gen.errors import InputError, closest, repair_surrogates

TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    |(?P<sign><=|>=|!=|<>|=|<|>|\(|\)|,)|(?P<word>[A-Za-z_]\w*))""",
    re.VERBOSE | re.ASCII,
)
COMPARISONS = {"=": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null", "contains", "true", "false"})
MAX_DEPTH = 50  # of brackets and `not`
MAX_CHARACTERS = 100_000
MAX_DIGITS = 400  # of a number; a float has 309 before the point at most
MAX_VALUES = 10_000  # of one column
HINT = "expected e.g. year >= 2020 and lang in ('en', 'de'), joined by and, or, not and brackets"

Filter = str | Mapping[str, Any]


def to_sql(where: Filter, columns: Mapping[str, str]) -> str:
    """Return a filter as SQL with quoted names and values.

    where: a text in the language above, or a mapping from a column to its value, or to a list of values, all of which
    must hold. columns: name -> type (text, int, float, bool). Raises InputError with the place of what is wrong.
    """
    if isinstance(where, Mapping):
        return " AND ".join(_equality(name, value, columns) for name, value in where.items()) or "true"
    if not isinstance(where, str):
        raise InputError(f"where is a {type(where).__name__}; expected a text or a mapping")
    if len(where) > MAX_CHARACTERS:
        raise InputError(f"the filter has {len(where)} characters; expected at most {MAX_CHARACTERS}")
    return _Parser(where, columns).parse()


def _equality(name: str, value: Any, columns: Mapping[str, str]) -> str:
    kind = _kind(name, columns)
    if value is None:
        return f"`{name}` IS NULL"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            return "false"
        if len(value) > MAX_VALUES:
            raise InputError(f"the filter has {len(value)} values for {name}; expected at most {MAX_VALUES}")
        return f"`{name}` IN ({', '.join(literal(each, kind, name) for each in value)})"
    return f"`{name}` = {literal(value, kind, name)}"


def _kind(name: str, columns: Mapping[str, str]) -> str:
    if name not in columns:
        raise InputError(f"the filter names {name!r}; this index has the columns {closest(name, list(columns), 20)}")
    return columns[name]


def literal(value: Any, kind: str, name: str) -> str:
    """Return a value as SQL; InputError where it is not of the column's type."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # Numbers that a column cannot hold are errors of the database.
    fits = {
        "text": isinstance(value, str),
        "bool": isinstance(value, bool),
        "int": number and abs(value) < 2**63 and value == int(value),
        "float": number and abs(value) < 1e300,
    }
    if not fits[kind]:
        raise InputError(f"the filter compares {name} with {value!r:.40}; it holds {kind}")
    if kind == "text":
        return "'" + repair_surrogates(value).replace("'", "''") + "'"
    return json.dumps(int(value) if kind == "int" else value)


class _Parser:
    """Recursive descent over the tokens: or, and, not, comparison."""

    def __init__(self, text: str, columns: Mapping[str, str]):
        self.text, self.columns, self.depth = text, columns, 0
        self.tokens: list[tuple[str, str, int]] = []
        place = 0
        while text[place:].strip():
            found = TOKEN.match(text, place)
            if not found:
                raise self._error(place + len(text[place:]) - len(text[place:].lstrip()))
            kind = str(found.lastgroup)
            value, place = found[kind], found.end()
            keyword = kind == "word" and value.lower() in KEYWORDS and value not in columns
            self.tokens.append(
                ("keyword", value.lower(), found.start(kind)) if keyword else (kind, value, found.start(kind))
            )
        self.at = 0

    def parse(self) -> str:
        """Return the SQL of the complete text."""
        sql = self._or()
        if self.at < len(self.tokens):
            raise self._error()
        return sql

    def _error(self, place: int | None = None) -> InputError:
        if place is None:
            place = self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.text)
        rest = self.text[place : place + 20]
        return InputError(f"filter {self.text!r:.200}: cannot read {rest!r} at character {place + 1}; {HINT}")

    def _take(self, *values: str, kind: str | None = None) -> str | None:
        """Take the next token if it is one of the values, or of the kind."""
        if self.at == len(self.tokens):
            return None
        found, value, _ = self.tokens[self.at]
        if (kind is None and found in ("keyword", "sign") and value in values) or (kind is not None and found == kind):
            self.at += 1
            return value
        return None

    def _or(self) -> str:
        parts = [self._and()]
        while self._take("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

    def _and(self) -> str:
        parts = [self._not()]
        while self._take("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else f"({' AND '.join(parts)})"

    def _not(self) -> str:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise InputError(f"the filter has more than {MAX_DEPTH} brackets and nots within each other; simplify it")
        try:
            if self._take("not"):
                return f"(NOT {self._not()})"
            if self._take("("):
                sql = self._or()
                if not self._take(")"):
                    raise self._error()
                return f"({sql})"
            return self._comparison()
        finally:
            self.depth -= 1

    def _comparison(self) -> str:
        name = self._take(kind="word")
        if name is None:
            raise self._error()
        kind = _kind(name, self.columns)
        if self._take("is"):
            negated = " NOT" if self._take("not") else ""
            if not self._take("null"):
                raise self._error()
            return f"`{name}` IS{negated} NULL"
        negated = "NOT " if self._take("not") else ""
        if self._take("in"):
            return f"`{name}` {negated}IN ({', '.join(self._list(name, kind))})"
        if self._take("contains"):
            if kind != "text":
                raise InputError(f"the filter asks what {name} contains; it holds {kind}, expected a column of text")
            return f"{negated}contains(`{name}`, {self._value(name, kind)})"
        sign = self._take(*COMPARISONS)
        if sign is None or negated:
            raise self._error()
        return f"`{name}` {COMPARISONS[sign]} {self._value(name, kind)}"

    def _list(self, name: str, kind: str) -> list[str]:
        if not self._take("("):
            raise self._error()
        values = [self._value(name, kind)]
        while self._take(","):
            values.append(self._value(name, kind))
        if not self._take(")"):
            raise self._error()
        return values

    def _value(self, name: str, kind: str) -> str:
        if (text := self._take(kind="text")) is not None:
            return literal(text[1:-1].replace(text[0] * 2, text[0]), kind, name)
        if (number := self._take(kind="number")) is not None:
            if len(number) > MAX_DIGITS:
                raise InputError(f"the filter has a number of {len(number)} digits; expected at most {MAX_DIGITS}")
            integer = re.fullmatch(r"[-+]?\d+", number)
            return literal(int(number) if integer else float(number), kind, name)
        if word := self._take("true", "false"):
            return literal(word == "true", kind, name)
        raise self._error()
