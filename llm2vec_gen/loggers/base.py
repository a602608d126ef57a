"""The contract of job loggers, and the functions that log a job and its artifacts.

How to add one: a file beside this one with a Lightning logger that also fits `JobLogger`, a yaml in conf/logger, a
test. Lightning's own loggers work in conf/logger too; they get the training metrics only. On ranks other than
the first all methods do nothing. Nothing is opened before there is something to log.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from llm2vec_gen.errors import exit_status
from llm2vec_gen.types import Reading, Score


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one step under one config. `id` is the same when the same job is started again."""

    id: str
    step: str
    name: str
    settings: dict[str, Any]
    outputs: Path
    group: str | None = None  # the sweep it belongs to


@runtime_checkable
class JobLogger(Protocol):
    """Metrics have the name of their part first ("train/loss"), and each part counts its own steps.

    `job` is the current job; always None on ranks other than 0.
    """

    job: Job | None

    def start(self, job: Job) -> None:
        """Start logging a job; raises InputError if logging is not possible."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None: ...

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None: ...

    def log_histogram(self, name: str, values: Sequence[float], step: int) -> None: ...

    def log_artifact(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Log a complete artifact of the job by its name; files are not copied."""

    def close(self, status: int) -> None:
        """End the job with this exit status; 0 for success."""


@runtime_checkable
class ResumableLogger(Protocol):
    """A logger whose files may lack rows that a killed process had logged."""

    def resume(self, rows: Mapping[int, Mapping[str, float]], step: int) -> None:
        """Keep each of these rows (step -> metrics of training and validation) once and remove the rows after `step`,
        where training continues."""


class ArtifactReader(Protocol):
    """What `log_artifact` reads of an artifact's folder; the module `llm2vec_gen.artifacts` is one."""

    def read_manifest(self, folder: Path) -> dict[str, Any]: ...

    def read_scores(self, folder: Path) -> list[Score]: ...

    def read_readings(self, folder: Path) -> list[Reading]: ...

    def read_curves(self, folder: Path) -> dict[str, list[tuple[int, float]]]: ...


@contextlib.contextmanager
def job_logging(loggers: Iterable[Any], job: Callable[[], Job]) -> Iterator[None]:
    """Log a job within the block; close the loggers at its end, also after an error or SIGTERM.

    No effect within another job: the steps of `run` are parts of it.
    """
    idle = [logger for logger in loggers if isinstance(logger, JobLogger) and logger.job is None]
    if not idle:
        yield
        return
    ended = 1

    def close(logger: JobLogger) -> None:
        logger.close(ended)

    with _terminable(), contextlib.ExitStack() as stack:
        for logger in idle:
            logger.start(job())
            stack.callback(close, logger)
        try:
            yield
            ended = 0
        except BaseException as error:
            ended = exit_status(error)
            raise


def log_artifact(loggers: Iterable[Any], reader: ArtifactReader, folder: Path, step: int) -> None:
    """Log a complete artifact, computed now or found; `step` is the training step of the job's model."""
    active = [logger for logger in loggers if isinstance(logger, JobLogger) and logger.job is not None]
    if not active or not (folder / "manifest.json").is_file():  # other processes are still writing shards
        return
    manifest = reader.read_manifest(folder)
    for logger in active:
        if manifest["step"] == "train" and isinstance(logger, ResumableLogger):
            rows = _training_rows(reader.read_curves(folder))
            logger.resume(rows, max(rows, default=0))
        if manifest["step"] == "evaluate":
            _log_scores(logger, reader.read_scores(folder), step)
        if manifest["step"] == "interpret":
            _log_readings(logger, reader.read_readings(folder), step)
        logger.log_artifact(folder, manifest)


def _training_rows(curves: Mapping[str, Sequence[tuple[int, float]]]) -> dict[int, dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for name, curve in curves.items():
        for step, value in curve if name.startswith(("train/", "val/")) else ():
            rows.setdefault(step, {})[name] = value
    return rows


def _log_scores(logger: JobLogger, scores: Sequence[Score], step: int) -> None:
    logger.log_metrics(main_scores(scores), step)
    columns = [field.name for field in fields(Score) if field.name != "per_query"]
    rows = [[getattr(score, column) for column in columns] for score in scores]
    for encoder in dict.fromkeys(score.encoder for score in scores):
        own = [row for row, score in zip(rows, scores, strict=True) if score.encoder == encoder]
        logger.log_table(f"evaluate/{encoder}/scores", columns, own, step)


def _log_readings(logger: JobLogger, readings: Sequence[Reading], step: int) -> None:
    columns = ["source", "task", "id", "instruction", "query", "interpreter", "text", "words", "completion"]
    rows = [
        [*reading.key, reading.instruction or "", reading.query, reading.interpreter, reading.text,
         " | ".join(" ".join(words) for words in reading.words), reading.completion or ""]
        for reading in readings
    ]  # fmt: skip
    logger.log_table("interpret/readings", columns, rows, step)


def main_scores(scores: Iterable[Score]) -> dict[str, float]:
    """Return main scores by "evaluate/<encoder>/<evaluation>/<task>/<metric>", with the subset if it has a name."""
    named = {}
    for score in scores:
        if score.main:
            place = [score.encoder, score.evaluation, score.task, *({score.subset} - {"", "default"}), score.metric]
            named["/".join(["evaluate", *place])] = score.value
    return named


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let a SIGTERM without a handler unwind the stack, as Ctrl-C does, instead of ending the process at once."""
    default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not default or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
