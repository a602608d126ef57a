"""Score rows in JSON-lines files: what is committed, so that tables and figures are rebuilt without any artifact.

A row of a table is named "experiment:encoder" there: `gathered` gives that name to the scores of an artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.base import Table
from llm2vec_gen.types import Score

NUMBER = frozenset({int, float})  # the types of JSON values are compared exactly: a bool is no int
KINDS: dict[Any, tuple[frozenset[type], str]] = {
    "str": (frozenset({str}), "a text"),
    "float": (NUMBER | {NoneType}, "a number, or null for a missing cell"),
    "bool": (frozenset({bool}), "true or false"),
    "int": (frozenset({int}), "a whole number"),
    "int | None": (frozenset({int, NoneType}), "a whole number or null"),
    "dict[str, float]": (frozenset({dict}), "an object of query ids and numbers"),
}
FIELDS = {field.name: KINDS[field.type] for field in fields(Score)}
NEEDED = [field.name for field in fields(Score) if field.default is field.default_factory is MISSING]


def gathered(scores: Iterable[Score], row: str) -> list[Score]:
    """Return the scores under the name of the table row that they fill."""
    return [replace(score, encoder=row) for score in scores]


def write(file: Path | str, scores: Iterable[Score]) -> None:
    """Write `lines` of the scores."""
    Path(file).write_text(lines(scores), encoding="utf-8")


def lines(scores: Iterable[Score]) -> str:
    """Return one score per line: fields at their defaults are left out, values per query have at most five decimals."""
    blank = {"main": False, "n": 0, "data_revision": "", "run": "", "seed": None, "commit": "", "per_query": {}}
    found = []
    for score in scores:
        record = {key: value for key, value in asdict(score).items() if blank.get(key, ...) != value}
        if score.per_query:
            record["per_query"] = {query: _short(value) for query, value in score.per_query.items()}
        found.append(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
    return "".join(found)


def _short(value: float) -> float:
    rounded = round(value, 5)
    return int(rounded) if rounded % 1 == 0 else rounded  # False for nan and inf, which have no int


def read(paths: str | Path | Sequence[str | Path]) -> list[Score]:
    """Return the scores of files, and of all *.jsonl files in folders (recursively, in order of their names)."""
    several = [paths] if isinstance(paths, str | Path) else paths
    if not isinstance(several, Sequence) or not all(path and isinstance(path, str | Path) for path in several):
        raise InputError(f"scores={paths!r}: expected a .jsonl file of scores, a folder of them, or a list of these")
    return [
        _score(record, where)
        for path in several
        for file in _files(Path(path))
        for where, record in json_lines(file, "score row")
    ]


def read_for(table: Table, paths: str | Path | Sequence[str | Path]) -> list[Score]:
    """Return the scores of files for a table; raise InputError if there are none, or if it draws none."""
    scores = read(paths)
    if not scores:
        raise InputError(
            f"scores={paths} holds no score; expected .jsonl files with one score per line, or folders of them; leave "
            "scores out to tabulate what is in paths.outputs"
        )
    if not any(table.draws(score) for score in scores):
        evaluations, rows = sorted({score.evaluation for score in scores}), sorted({score.encoder for score in scores})
        raise InputError(
            f"scores={paths}: none of these {len(scores)} scores belongs to this table; they are of "
            f"{_some(evaluations)} for the rows {_some(rows)}, the table's rows are {_some(table.wanted()) or 'any'}"
        )
    return scores


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(path.rglob("*.jsonl"))
    elif path.is_file():
        yield path
    else:
        raise InputError(f"scores: {path} does not exist; expected a .jsonl file of scores or a folder of them")


def json_lines(file: Path, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", object) of a JSON-lines file; raise InputError for a line that is no `kind`."""
    with file.open("rb") as stream:  # as bytes lines end at newlines alone, and what is not UTF-8 has a line number
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    record = json.loads(line.decode("utf-8-sig"))
                    if not isinstance(record, dict):
                        raise ValueError(f"it is {_json(record)}")
                except ValueError as error:
                    raise InputError(
                        f"{file}:{number} is no {kind}: {error}; expected a JSON object in UTF-8"
                    ) from None
                yield f"{file}:{number}", record


def _score(record: dict[str, Any], where: str) -> Score:
    if wrong := _wrong(record):
        raise InputError(f"{where} is no score row: {wrong}")
    return Score(**record)


def _wrong(record: dict[str, Any]) -> str | None:
    """Return the first reason for which an object is no score; None for a score."""
    if unknown := sorted(record.keys() - FIELDS):
        return f"unknown fields {', '.join(unknown)}; expected those of experiments/evaluate.py: {', '.join(FIELDS)}"
    if missing := [name for name in NEEDED if name not in record]:
        return f"it lacks {', '.join(missing)}; expected what experiments/evaluate.py writes"
    for name, value in record.items():
        types, expected = FIELDS[name]
        if type(value) not in types:
            return f"{name} is {_json(value)}, expected {expected}"
    values = record.get("per_query", {})
    if not NUMBER.issuperset(map(type, values.values())):
        query = next(query for query, value in values.items() if type(value) not in NUMBER)
        return f"per_query of {_json(query)} is {_json(values[query])}, expected a number"
    return None


def _json(value: Any) -> str:
    return f"{json.dumps(value, ensure_ascii=False):.60}"
