"""The status of each job of a sweep: one status.json per job folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from llm2vec_gen.atomic_files import now, write_json
from llm2vec_gen.errors import InputError, describe_error, exit_status, one_line
from llm2vec_gen.locks import alive
from llm2vec_gen.paths import on_disk

FILE = "status.json"
STOPPED = frozenset({130, 143})  # exit statuses of Ctrl-C and SIGTERM: such a job did not fail, it goes on next time


@dataclass
class Status:
    """One job, as in `place/status.json`: `state` is running, done or failed.

    `folder` is that of the artifact, `results` the last losses ("train/<loss>") and the mean main scores
    ("<evaluation>/<category>") that its artifacts had at the end, `skipped` the earlier job whose result stands here.
    A process that was killed leaves "running" behind; `observed_state` is "dead" then.
    """

    place: Path
    number: int
    step: str
    digest: str
    overrides: list[str]
    state: str = "running"
    steps: int | None = None
    error: str | None = None
    folder: str | None = None
    results: dict[str, float] = field(default_factory=dict)
    skipped: str | None = None
    exit: int | None = None
    pid: int = 0
    host: str = ""
    started: str | None = None
    finished: str | None = None

    @classmethod
    def read(cls, place: Path) -> Status | None:
        """Return the status in a job's folder, None where there is none that can be read."""
        try:
            values = json.loads((place / FILE).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None
        if "step" not in values:  # written by an earlier version
            return None
        known = {field.name for field in fields(cls)}
        return cls(place, **{key: value for key, value in values.items() if key in known})

    @contextlib.contextmanager
    def write_on_exit(self) -> Iterator[Status]:
        """Write the status at the start, at the end, and after any exception."""
        self.pid, self.host, self.started = os.getpid(), socket.gethostname(), now()
        self.write()
        try:
            yield self
        except BaseException as error:
            self.end("failed", exit_status(error) or 1, error_summary(error))  # a job that calls exit(0) made nothing
            raise
        self.end("done", 0)

    def end(self, state: str, exit: int, error: str | None = None) -> None:
        """Write the final state of the job."""
        self.state, self.exit, self.error, self.finished = state, exit, error, now()
        self.write()

    def write(self) -> None:
        """Write the file atomically."""
        self.place.mkdir(parents=True, exist_ok=True)
        values = asdict(self)
        del values["place"]
        write_json(self.place / FILE, values)

    @property
    def observed_state(self) -> str:
        """Return `state`, or "dead" where it is running but its process on this host is gone."""
        if self.state == "running" and self.host == socket.gethostname() and not alive(self.pid):
            return "dead"
        return self.state

    def previous_result(self, outputs: Path, retry_failed: bool) -> Status | None:
        """Return the earlier job whose result can be reused: it is done and its artifact exists, or it failed and
        `retry_failed` is off. A job that was stopped, was killed or still runs is not reused: its artifacts are
        continued. Neither is one with wrong input, which may be valid by now."""
        found = [status for place in self._places(outputs) if (status := Status.read(place)) and self._same(status)]
        done = [status for status in found if status.state == "done" and status.exists(outputs)]
        failed = [status for status in found if status.state == "failed" and status.exit not in {2, *STOPPED}]
        for group in (done, [] if retry_failed else failed):
            if group:
                return max(group, key=lambda status: status.finished or "")
        return None

    def exists(self, outputs: Path) -> bool:
        """Whether the artifact is still there, also after the outputs folder was moved."""
        folder = Path(self.folder or "")
        return self.folder is not None and any(
            place.exists() for place in (folder, outputs / folder.parent.name / folder.name)
        )

    def _same(self, other: Status) -> bool:
        return (other.step, other.digest) == (self.step, self.digest)

    def _places(self, outputs: Path) -> set[Path]:
        files = [*(outputs / "sweeps").glob(f"*/*/{FILE}"), *self.place.parent.glob(f"*/{FILE}")]
        return {file.parent.resolve() for file in files}


def worst_exit_status(statuses: Sequence[int]) -> int:
    """Return the exit status of several jobs: stopped before failed before wrong input before done."""
    stopped = [status for status in statuses if status in STOPPED]
    if stopped:
        return stopped[0]
    return max((status if status in (0, 2) else 1 for status in statuses), key=(0, 2, 1).index, default=0)


def error_summary(error: BaseException) -> str:
    """Return an error in one line for the status; the traceback is on standard error."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, SystemExit):
        code = exit_status(error)
        return f"stopped by signal {code - 128}" if code in STOPPED else f"exit {one_line(error)}"
    return describe_error(error)


def read_statuses(folder: str) -> list[Status]:
    """Return the status of each job of a multirun, by number; InputError if its folder has none."""
    place = on_disk(folder)
    found = [status for file in place.glob(f"*/{FILE}") if (status := Status.read(file.parent))]
    if not found:
        raise InputError(
            f"sweep.folder={folder} holds no job of a multirun (no */{FILE}, looked in {place.absolute()}); expected "
            "the folder that a command with -m names at its end, by default <paths.outputs>/sweeps/<date>"
        )
    return sorted(found, key=lambda status: status.number)
