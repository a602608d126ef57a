"""What names an artifact and its parts: digests of settings, hashes of content, the commit of the code."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any


def digest(*values: Any) -> str:
    """12 hexadecimal digits that name these JSON-able values, independent of the order of keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fingerprint(path: Path | str) -> str:
    """Content hash of a file or folder, wherever it lies. Files over 64 MB count by size, first and last megabyte."""
    path, state = Path(path), hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        size = file.stat().st_size
        state.update(f"{file.relative_to(path) if file != path else file.suffix}:{size}:".encode())
        with file.open("rb") as stream:
            if size <= 64 << 20:
                state.update(stream.read())
            else:
                state.update(stream.read(1 << 20))
                stream.seek(-(1 << 20), os.SEEK_END)
                state.update(stream.read())
    return state.hexdigest()[:16]


def checksum(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def commit() -> str:
    """Commit of the source tree this package runs from, with "+" where files differ from it; "" outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
