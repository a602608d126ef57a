"""Files that are either complete or absent, whatever interrupts the write."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm2vec_gen.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)  # no space left: on the disk, or in the user's quota


def now() -> str:
    """Return the current time to the second, with this machine's UTC offset."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def write_json(file: Path, value: Any) -> None:
    """Write JSON atomically, so that no reader sees half a file."""
    with replacing(file) as temporary:
        write_text(temporary, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside `file` that replaces it on success, so that `file` is never incomplete.

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
    with path.open("r+b" if os.name == "nt" else "rb") as stream:  # Windows flushes only what is open for writing
        os.fsync(stream.fileno())
