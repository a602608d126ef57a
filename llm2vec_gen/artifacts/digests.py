"""What identifies an artifact and its shards: digests of settings, hashes of content, the commit of the code."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm2vec_gen.conf_folders import ROOT
from llm2vec_gen.errors import InputError

LARGE = 64 << 20  # bytes from which a file's checksum is also kept on disk, since reading it takes a while


def digest(*values: Any) -> str:
    """Return 12 hexadecimal digits of these JSON-able values, independent of the order of keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def fingerprint(path: Path | str) -> str:
    """Return the hash of a file's or folder's whole content, 16 hexadecimal digits, wherever it lies.

    Symbolic links are followed, to folders too. Hidden files and folders inside a folder do not count: no reader opens
    them. Files are read again only when size, times or inode have changed.
    """
    path, state = Path(path), hashlib.sha256()
    files = [(path.suffix, path)] if path.is_file() else sorted(_files(path))
    for name, file in files:
        state.update(f"{name}\0{_content(file)}\0".encode("utf-8", "surrogateescape"))
    return state.hexdigest()[:16]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name within the folder, file) of all files that are not hidden."""
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(os.path.realpath(root))
        folders[:] = [
            name for name in folders
            if not name.startswith(".") and not here.is_relative_to(os.path.realpath(Path(root, name)))
        ]  # fmt: skip  # a link to a folder above would never end
        for name in names:
            file = Path(root, name)
            if not name.startswith(".") and file.is_file():
                yield file.relative_to(folder).as_posix(), file


def _content(file: Path) -> str:
    stat = file.stat()
    return _checksum(os.path.realpath(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.cache
def _checksum(file: str, size: int, *state: int) -> str:
    """Return `checksum` of a file in this state; for a large one it is kept on disk between processes."""
    try:
        if size < LARGE:
            return checksum(Path(file))
        cache = Path(os.environ.get("LLM2VEC_GEN_CACHE") or "~/.cache/llm2vec_gen").expanduser() / "checksums"
        note = cache / hashlib.sha256(repr((file, size, state)).encode("utf-8", "surrogateescape")).hexdigest()
        if note.is_file() and len(known := note.read_text()) == 64:
            return known
        found = checksum(Path(file))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); it is an input of this run") from error
    with contextlib.suppress(OSError):  # kept where it can be
        cache.mkdir(parents=True, exist_ok=True)
        half = note.with_suffix(f".{os.getpid()}")
        half.write_text(found)
        half.replace(note)
    return found


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def commit() -> str:
    """Return the commit of this package's source tree, with "+" where files differ; "" outside a checkout."""
    if not (ROOT / ".git").exists():  # installed, perhaps in an environment within somebody else's repository
        return ""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
