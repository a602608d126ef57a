"""Files that are either whole or absent, and the facts that stand beside each part."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One finished file of an artifact and its facts; `start` and `stop` are its rows where it is a range of rows."""

    file: Path
    sha256: str
    size: int
    rows: int = 0
    start: int = -1
    stop: int = -1


def write_json(file: Path, value: Any) -> None:
    """JSON in one atomic step, so that no reader meets half a file."""
    temporary = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    write_text(temporary, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")
    flush(temporary)
    temporary.replace(file)


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def facts_of(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def finished_parts(folder: Path) -> list[Part]:
    parts = []
    for facts_file in folder.rglob("*.json"):
        file = facts_file.with_name(facts_file.name.removesuffix(".json"))
        if facts_file.name == MANIFEST or not file.suffix or not file.is_file():
            continue
        facts = json.loads(facts_file.read_text())
        if {"file", "sha256", "size"} <= facts.keys():
            parts.append(Part(file, facts["sha256"], facts["size"], facts.get("rows", 0),
                              facts.get("start", -1), facts.get("stop", -1)))  # fmt: skip
    return sorted(parts, key=lambda part: (part.start, part.file.name))
