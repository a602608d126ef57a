"""Locks between processes, on file systems that have them and on those that have not.

A lock is that of the operating system (flock): it ends with its process. A file system without such locks (some
network disks) gets a file with the owner's name instead, which is taken over from an owner that is dead: its process is
gone, or it has not renewed the file for LOST_AFTER_S seconds of the waiting process's own clock.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

WINDOWS = os.name == "nt"
POLL_S = 0.2  # until the next attempt
RENEW_S = 10.0  # between two signs of life of an owner
LOST_AFTER_S = 120.0  # without a sign of life
HELD = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK}
LACKING = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}

_last_signs: dict[Path, tuple[bytes, float]] = {}  # owner's file -> its content, and when this process first saw it


class Lock:
    """A lock by the name of a file; `with lock:` waits for it."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.named = self.path.with_name(f"{self.path.name}.owner")
        self._file: int | None = None
        self._released: threading.Event | None = None

    def acquire(self, timeout: float | None = None) -> bool:
        """Try for `timeout` seconds, without end for None; return whether the lock is held now.

        Raises OSError where the file cannot be made.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self._try():
            if end is not None and time.monotonic() >= end:
                return False
            time.sleep(POLL_S)
        return True

    def release(self) -> None:
        """Release the lock."""
        if self._released is not None:
            self._released.set()
            self._released = None
            with contextlib.suppress(OSError):  # it may have been taken over
                if self._file is not None and os.fstat(self._file).st_ino == self.named.stat().st_ino:
                    self.named.unlink()
        if self._file is not None:
            os.close(self._file)  # ends a lock of the operating system
            self._file = None

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _try(self) -> bool:
        if fcntl is None:
            return self._try_named()
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno in HELD:
                return False
            if error.errno not in LACKING:
                raise
            _warn_no_flock(self.path.parent, error.strerror)
            return self._try_named()
        if self.named.exists() and not _dead(self.named):  # of a process for which the system had no lock left
            os.close(file)
            return False
        self._file = file
        return True

    # ---- a file with the owner's name

    def _try_named(self) -> bool:
        if self.named.exists() and not (_dead(self.named) and self._remove_dead()):
            return False
        try:
            file = os.open(self.named, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        self._file, self._released = file, threading.Event()
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}
        _sign(file, owner, 0)
        threading.Thread(target=_renew, args=(os.dup(file), owner, self._released), daemon=True).start()
        return True

    def _remove_dead(self) -> bool:
        """Take the file of a dead owner away; in one step, since several processes may see that it is dead."""
        seen = _last_signs.get(self.named, (b"", 0.0))[0]
        aside = self.named.with_name(f".{self.named.name}-{uuid.uuid4().hex}")
        try:
            self.named.rename(aside)
        except OSError:
            return False
        if _content(aside) != seen:  # another process was faster: this is its own file
            with contextlib.suppress(OSError):
                os.link(aside, self.named)
        aside.unlink(missing_ok=True)
        return True


def _sign(file: int, owner: dict[str, Any], beat: int) -> None:
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, f"{json.dumps(owner | {'beat': beat})}\n".encode())  # never shorter than the last one


def _renew(file: int, owner: dict[str, Any], released: threading.Event) -> None:
    """Renew the owner's file; after a takeover the writes go to a removed file."""
    beat = 0
    try:
        while not released.wait(RENEW_S):
            beat += 1
            with contextlib.suppress(OSError):
                _sign(file, owner, beat)
    finally:
        os.close(file)


def _dead(named: Path) -> bool:
    """Return whether the owner of a file is gone; on another host, if its file has not changed for long."""
    content, now = _content(named), time.monotonic()
    before, since = _last_signs.get(named, (None, now))
    if content != before:
        _last_signs[named], since = (content, now), now
    try:
        owner = json.loads(content)
        if owner["host"] == socket.gethostname() and not alive(owner["pid"]):
            return True
    except (ValueError, KeyError, TypeError):
        pass  # just made, or torn
    return now - since > LOST_AFTER_S


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def alive(pid: int) -> bool:
    """Return whether there is a process of this number on this host; true where only a signal would tell."""
    if WINDOWS:  # signal 0 is Ctrl-C there; a dead owner is found by its missing signs of life
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@functools.cache
def _warn_no_flock(folder: Path, reason: str | None) -> None:
    log.warning(
        "the file system of %s has no locks (flock: %s); files with the owner's name take their place, and one of a "
        "dead process is taken over after %.0f s", folder, reason, LOST_AFTER_S,
    )  # fmt: skip
