"""Score rows in JSON-lines files: what is committed, so that tables and figures are rebuilt without any artifact.

A row of a table is named "experiment:encoder" there: `gathered` gives that name to the scores of an artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from llm2vec_gen.types import InputError, Score

FIELDS = {field.name for field in fields(Score)}


def gathered(scores: Iterable[Score], row: str) -> list[Score]:
    """The scores under the name of the table row that they fill."""
    return [replace(score, encoder=row) for score in scores]


def write(file: Path | str, scores: Iterable[Score]) -> None:
    """One score per line; fields at their defaults are left out."""
    blank = {"main": False, "n": 0, "data_revision": "", "run": "", "seed": None, "commit": "", "per_query": {}}
    records = ({k: v for k, v in asdict(score).items() if blank.get(k, ...) != v} for score in scores)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    Path(file).write_text(text, encoding="utf-8")


def read(paths: str | Path | Sequence[str | Path]) -> list[Score]:
    """The scores of files, and of all *.jsonl files in folders (recursively, in order of their names)."""
    found = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        for file in _files(Path(path)):
            with file.open(encoding="utf-8") as stream:
                found += [_score(line, f"{file}:{number}") for number, line in enumerate(stream, 1) if line.strip()]
    return found


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
