"""Files that are either complete or absent, and the metadata file beside each shard."""

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
FORMAT = 2  # of the manifest; 1 had other field names
FULL = (errno.ENOSPC, errno.EDQUOT)  # no space left: on the disk, or in the user's quota


@dataclass(frozen=True, slots=True)
class Shard:
    """One finished file of an artifact and its metadata; `start` and `stop` are its rows where it is a range of
    rows."""

    file: Path
    sha256: str
    size: int
    rows: int = 0
    start: int = -1
    stop: int = -1


def now() -> str:
    """Return the current time to the second, with this machine's UTC offset."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def write_json(file: Path, value: Any) -> None:
    """Write JSON atomically, so that no reader sees half a file."""
    with replacing(file) as temporary:
        write_text(temporary, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path beside `file`, which takes its place if all goes well: `file` is never half there.

    Raises InputError where the disk is full.
    """
    temporary = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    try:
        with check_disk_space(file):
            yield temporary
            flush(temporary)
            temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def check_disk_space(file: Path) -> Iterator[None]:
    """Raise InputError if the disk is full while the block writes; libraries report this in several ways."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if number not in FULL and not any(f"os error {full}" in str(error) for full in FULL):
            raise
        free = shutil.disk_usage(file.parent).free
        others = [other.stat().st_size for other in file.parent.glob(f"[!.]*{file.suffix}")]
        needed = f"a shard like it takes {max(others) / 1e6:.1f} MB" if others else "nothing like it is there yet"
        raise InputError(
            f"no space left on the disk for {file} ({free / 1e6:.1f} MB are free; {needed}); free some space and run "
            "the same command again, finished shards are kept; or copy the outputs to a larger disk for paths.outputs="
        ) from error


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def metadata_path(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def finished_shards(folder: Path) -> list[Shard]:
    shards = []
    for metadata_file in folder.rglob("*.json"):
        file = metadata_file.with_name(metadata_file.name.removesuffix(".json"))
        if metadata_file.name == MANIFEST or not file.suffix or not file.is_file():
            continue
        metadata = json.loads(metadata_file.read_text())
        if {"file", "sha256", "size"} <= metadata.keys():
            shards.append(Shard(file, metadata["sha256"], metadata["size"], metadata.get("rows", 0),
                              metadata.get("start", -1), metadata.get("stop", -1)))  # fmt: skip
    return sorted(shards, key=lambda shard: (shard.start, shard.file.name))
