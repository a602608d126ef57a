"""The folder of one sweep: never two different sweeps in it, and never two at once."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from llm2vec_gen.atomic_files import now, write_json
from llm2vec_gen.errors import InputError
from llm2vec_gen.locks import Lock

RECORD = "sweep.json"


class SweepFolder:
    """A folder that holds one sweep; the same sweep may come back to it, to go on."""

    def __init__(self, path: Path):
        self.path = path

    @contextlib.contextmanager
    def claimed(self, identity: str, command: str) -> Iterator[None]:
        """Hold the folder for one sweep; raise InputError where it holds another one, or the same one runs now."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.path / ".lock")
        if not lock.acquire(timeout=0):
            raise InputError(
                f"{self._by()} runs its sweep in {self.path} now; wait for it, or choose another hydra.sweep.dir"
            )
        try:
            self._check(identity, command)
            process = {"pid": os.getpid(), "host": socket.gethostname()}
            write_json(self.path / RECORD, {"digest": identity, "command": command, "started": now()} | process)
            yield
        finally:
            lock.release()

    def _check(self, identity: str, command: str) -> None:
        record = self._record()
        if record and record.get("digest") != identity:
            raise InputError(
                f"{self.path} holds another sweep, `{record.get('command')}` of {record.get('started')}; this one is "
                f"`{command}`. Choose another hydra.sweep.dir, or leave it out for a new folder"
            )

    def _by(self) -> str:
        record = self._record()
        return f"process {record['pid']} on {record['host']}" if "pid" in record else "another process"

    def _record(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.path / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}
