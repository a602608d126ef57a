"""The tasks of one artifact, shared by all processes that were started on the same command, one per GPU or machine.

Each process takes the next task whose lock is free and writes its shard; the error of a task that failed is kept in
errors/<task>.json. The operating system releases the lock of a killed process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm2vec_gen.artifacts.artifact import Artifact
from llm2vec_gen.artifacts.readers import read_scores
from llm2vec_gen.atomic_files import now, write_json
from llm2vec_gen.errors import InputError, describe_error
from llm2vec_gen.extras import missing_extra
from llm2vec_gen.locks import Lock
from llm2vec_gen.progress import LOG_INTERVAL_S, duration, track
from llm2vec_gen.types import Score

POLL_INTERVAL_S = 1.0  # seconds between two checks of the tasks that other processes run

log = logging.getLogger(__name__)


class TasksFailed(RuntimeError):
    """Some tasks failed, all others are done; the message lists them with their errors."""


class TasksRefused(InputError):
    """The same, where every one of them failed by wrong input (a data set that is not there)."""


def missing_tasks(artifact: Artifact, names: Iterable[str]) -> Iterator[str]:
    """Yield each task without a finished shard, under its lock, until all are done or have failed since the call.

    So a task that failed is tried once by each command, whichever of its processes takes it.
    """
    left, announced = list(dict.fromkeys(names)), False
    before = {name: _attempt(artifact, name) for name in left}  # clocks differ between machines: attempts have ids
    tried: set[str] = set()
    while left := [name for name in left if name not in tried and not _is_finished(artifact, name, before[name])]:
        taken = False
        for name in left:
            lock = Lock(_locks(artifact) / name)
            if not lock.acquire(timeout=0):
                continue
            try:
                if not _is_finished(artifact, name, before[name]):
                    taken = True
                    tried.add(name)
                    yield name
            finally:
                lock.release()
        if not taken:
            if not announced:
                log.info("%s: waiting for %s, which other processes run", artifact.step, ", ".join(left))
            announced = True
            time.sleep(POLL_INTERVAL_S)


@contextlib.contextmanager
def keep_error(artifact: Artifact, task: str, **row: Any) -> Iterator[None]:
    """Log an error of the block and keep it with the values of `row`; delete it as soon as the task succeeds."""
    file = _error_file(artifact, task)
    try:
        yield
    except Exception as error:
        missing = missing_extra(error)
        wrong = missing is not None or isinstance(error, InputError)
        described = missing or describe_error(error)
        log.error("%s: %s failed: %s", artifact.step, task, described, exc_info=None if wrong else error)
        file.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"error": described, "wrong_input": wrong, "when": now(), "attempt": uuid.uuid4().hex}
        write_json(file, {"task": task, **row, **metadata})
    else:
        file.unlink(missing_ok=True)


def score_tasks(artifact: Artifact, evaluations: Mapping[str, Any], encoder: Any, origin: dict[str, Any]) -> None:
    """Write the scores of each missing task; a task that fails keeps its error and does not stop the others.

    evaluations: task -> its evaluation (`evaluate`, `size`, `name`). origin: values of all score rows, the encoder's
    name among them.
    """
    progress = Progress(artifact, {task: evaluation.size(task) for task, evaluation in evaluations.items()})
    for task in missing_tasks(artifact, evaluations):
        with keep_error(artifact, task, evaluation=evaluations[task].name, **origin):
            with track(f"{artifact.step} {origin['encoder']}, {task}", None, "texts"):
                scores = evaluations[task].evaluate(encoder, task)
            artifact.write_records(task, [replace(score, **origin) for score in scores])
            progress.log(task)
    check_errors(artifact, evaluations)


def check_errors(artifact: Artifact, names: Iterable[str]) -> None:
    """Raise TasksRefused where tasks failed, all by wrong input; TasksFailed where one failed otherwise."""
    names = list(names)
    if kept := [row for row in read_errors(artifact) if row["task"] in names]:
        raise (TasksRefused if all(row["wrong_input"] for row in kept) else TasksFailed)(
            f"{artifact.name}: {len(kept)} of {len(names)} tasks failed, the same command tries these again: "
            f"{_listed(kept)}"
        )


def raise_first(failed: Sequence[TasksFailed | TasksRefused]) -> None:
    """Raise the errors of several artifacts as one; TasksRefused only where all of them are."""
    if failed:
        broken = [error for error in failed if isinstance(error, TasksFailed)]
        raise type((broken or failed)[0])("; ".join(map(str, failed)))


def read_errors(artifact: Artifact) -> list[dict[str, Any]]:
    """Return the rows of the tasks that failed and have not succeeded since."""
    rows: list[dict[str, Any]] = []
    for file in sorted((artifact.folder / "errors").glob("[!.]*.json")):
        with contextlib.suppress(FileNotFoundError):  # another process has just succeeded
            rows.append(json.loads(file.read_text(encoding="utf-8")))
    return [row for row in rows if not artifact.has(f"{row['task']}.jsonl")]


def scores_for_table(artifact: Artifact) -> list[Score]:
    """Return the scores of a complete artifact; of any other none, and the log lists the tasks that failed."""
    if artifact.is_complete:
        return read_scores(artifact.folder)
    if failed := read_errors(artifact):
        log.warning("the row of %s stays empty, tasks failed: %s", artifact.folder.name, _listed(failed))
    return []


def _listed(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return tasks with their errors in words; those of one error together."""
    by_error: dict[str, list[str]] = {}
    for row in rows:
        by_error.setdefault(row["error"], []).append(row["task"])
    return "; ".join(f"{', '.join(tasks)}: {error}" for error, tasks in by_error.items())


class Progress:
    """Log of how many tasks are done and how long the rest will take, at the rate of all processes so far.

    sizes: task -> how much there is to encode, in any unit; 0 if unknown (then the mean of the others).
    """

    def __init__(self, artifact: Artifact, sizes: Mapping[str, int]):
        known = [size for size in sizes.values() if size]
        self.sizes = {task: size or (sum(known) / len(known) if known else 1) for task, size in sizes.items()}
        self.artifact, self.began = artifact, time.monotonic()
        self.last_logged = self.began
        self.before = self._done()

    def log(self, task: str) -> None:
        """Log one line, unless all are done or the last line is LOG_INTERVAL_S seconds old at most."""
        done, now = self._done(), time.monotonic()
        if now - self.last_logged < LOG_INTERVAL_S or len(done) == len(self.sizes):
            return
        elapsed, self.last_logged = now - self.began, now
        made = sum(self.sizes[name] for name in done - self.before)
        left = sum(self.sizes[name] for name in self.sizes.keys() - done)
        rest = f"; about {duration(elapsed * left / made)} left" if made and left else ""
        log.info("%s: %d of %d tasks done, last %s%s", self.artifact.step, len(done), len(self.sizes), task, rest)

    def _done(self) -> set[str]:
        return {task for task in self.sizes if self.artifact.has(f"{task}.jsonl")}


def _locks(artifact: Artifact) -> Path:
    artifact.create()
    folder = artifact.folder / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_finished(artifact: Artifact, name: str, before: str | None) -> bool:
    """Whether the task is done, or has failed again since its last attempt was `before`."""
    return artifact.has(f"{name}.jsonl") or _attempt(artifact, name) not in (None, before)


def _attempt(artifact: Artifact, name: str) -> str | None:
    """Return the id of the last failed attempt at a task; None where none failed, or it has succeeded since."""
    try:
        row = json.loads(_error_file(artifact, name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return str(row.get("attempt"))  # an earlier version kept none


def _error_file(artifact: Artifact, name: str) -> Path:
    return artifact.folder / "errors" / f"{name}.json"
