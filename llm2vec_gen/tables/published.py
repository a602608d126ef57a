"""The paper's own figures, as data: anchors/v1.yaml and anchors/v2.yaml, each figure under the row that measures it.

A figure that its sources do not give us is absent, never estimated. Versions are never mixed: a table reads one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from llm2vec_gen.errors import InputError

FOLDER = Path(__file__).parent / "anchors"


@dataclass(frozen=True, slots=True)
class Published:
    """The figures of one published table.

    evaluations   the suites whose scores may stand beside them
    figures       row ("experiment:encoder") -> column -> figure, in the unit of the scores (0 to 1)
    """

    version: str
    table: str
    source: str
    number: str
    evaluations: tuple[str, ...]
    figures: dict[str, dict[str, float]]
    note: str = ""

    def figure(self, row: str, column: str) -> float | None:
        """Return the published figure of a row and column; None where it is unknown."""
        return self.figures.get(row, {}).get(column)


def published(version: str, table: str) -> Published:
    """Return the figures of `table` in `version`; raise InputError that lists the known ones."""
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if version not in known:
        raise InputError(f"there are no published figures of version {version!r}; expected one of {', '.join(known)}")
    document = _read(version)
    if table not in document["tables"]:
        raise InputError(
            f"version {version} has no published table {table!r}; expected one of {', '.join(document['tables'])}"
        )
    content = document["tables"][table]
    columns = content["columns"]
    return Published(
        version=version,
        table=table,
        source=document["source"],
        number=content["number"],
        evaluations=tuple(content["evaluations"]),
        figures={row: _row(columns, values, f"{version}.yaml {row}") for row, values in content["rows"].items()},
        note=content.get("note", ""),
    )


@cache
def _read(version: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{version}.yaml").read_text(encoding="utf-8"))


def _row(columns: list[str], values: list[float | None], where: str) -> dict[str, float]:
    """Return a row's percentages as fractions; a null is an unknown figure."""
    if len(columns) != len(values):
        raise AssertionError(f"{where} has {len(values)} figures for {len(columns)} columns")
    return {column: value / 100 for column, value in zip(columns, values, strict=True) if value is not None}
