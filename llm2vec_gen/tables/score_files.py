"""Score rows in JSON-lines files: what is committed, so that tables and figures are rebuilt without any artifact.

A row of a table is named "experiment:encoder" there: `gathered` gives that name to the scores of an artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from llm2vec_gen.tables.base import Table
from llm2vec_gen.types import InputError, Score

FIELDS = {field.name for field in fields(Score)}


def gathered(scores: Iterable[Score], row: str) -> list[Score]:
    """The scores under the name of the table row that they fill."""
    return [replace(score, encoder=row) for score in scores]


def write(file: Path | str, scores: Iterable[Score]) -> None:
    """One score per line, made small: fields at their defaults are left out, values per query have eight decimals."""
    blank = {"main": False, "n": 0, "data_revision": "", "run": "", "seed": None, "commit": "", "per_query": {}}
    with Path(file).open("w", encoding="utf-8") as stream:
        for score in scores:
            record = {key: value for key, value in asdict(score).items() if blank.get(key, ...) != value}
            if score.per_query:
                record["per_query"] = {query: _short(value) for query, value in score.per_query.items()}
            stream.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")


def _short(value: float) -> float:
    rounded = round(value, 8)
    return int(rounded) if rounded == int(rounded) else rounded


def read(paths: str | Path | Sequence[str | Path]) -> list[Score]:
    """The scores of files, and of all *.jsonl files in folders (recursively, in order of their names)."""
    found = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        for file in _files(Path(path)):
            with file.open(encoding="utf-8") as stream:
                found += [_score(line, f"{file}:{number}") for number, line in enumerate(stream, 1) if line.strip()]
    return found


def read_for(table: Table, paths: str | Path | Sequence[str | Path]) -> list[Score]:
    """The scores of files for a table; InputError if it draws none of them, which says whose they are."""
    scores = read(paths)
    if scores and not any(table.draws(score) for score in scores):
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


def _score(line: str, where: str) -> Score:
    try:
        record = json.loads(line)
        unknown = record.keys() - FIELDS
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        return Score(**record)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{where} is no score row: {error}; expected what experiments/evaluate.py writes") from None
