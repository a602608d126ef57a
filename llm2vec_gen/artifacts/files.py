"""Files that are either whole or absent, and the facts that stand beside each part."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2vec_gen.types import InputError

MANIFEST = "manifest.json"
FULL = (errno.ENOSPC, errno.EDQUOT)  # no room left: on the disk, or of the user


@dataclass(frozen=True, slots=True)
class Part:
    """One finished file of an artifact and its facts; `start` and `stop` are its rows where it is a range of rows."""

    file: Path
    sha256: str
    size: int
    rows: int = 0
    start: int = -1
    stop: int = -1


def now() -> str:
    """What files call the time: to the second, with the offset of this machine's clock."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def write_json(file: Path, value: Any) -> None:
    """JSON in one atomic step, so that no reader meets half a file."""
    with replacing(file) as temporary:
        write_text(temporary, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path beside `file`, which takes its place if all goes well: `file` is never half there.

    Raises InputError where the disk is full.
    """
    temporary = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    try:
        with room_for(file):
            yield temporary
            flush(temporary)
            temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def room_for(file: Path) -> Iterator[None]:
    """Raises InputError where the disk has no room for what is written within; libraries say so in several ways."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if number not in FULL and not any(f"os error {full}" in str(error) for full in FULL):
            raise
        free = shutil.disk_usage(file.parent).free
        others = [other.stat().st_size for other in file.parent.glob(f"[!.]*{file.suffix}")]
        needed = f"a part like it takes {max(others) / 1e6:.1f} MB" if others else "nothing like it is there yet"
        raise InputError(
            f"no space left on the disk for {file} ({free / 1e6:.1f} MB are free; {needed}); free some space and run "
            "the same command again, finished parts are kept; or copy the outputs to a larger disk for paths.outputs="
        ) from error


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
