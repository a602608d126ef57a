"""Loggers start with one job at a time, log its artifacts, and are closed with its exit status."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from llm2vec_gen import artifacts
from llm2vec_gen.artifacts import Artifact
from llm2vec_gen.errors import InputError
from llm2vec_gen.loggers.base import Job, JobLogger, job_logging, log_artifact, main_scores
from llm2vec_gen.types import Reading, Score


class Recorder:
    """Records every call."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.logged: list[tuple[Any, ...]] = []

    def start(self, job: Job) -> None:
        self.job = job
        self.logged.append(("start", job.step))

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.logged.append(("metrics", metrics, step))

    def log_table(self, name: str, columns: Any, rows: Any, step: int) -> None:
        self.logged.append(("table", name, [list(row) for row in rows], step))

    def log_histogram(self, name: str, values: Any, step: int) -> None:
        self.logged.append(("histogram", name, list(values), step))

    def log_artifact(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.logged.append(("artifact", manifest["step"], folder))

    def close(self, status: int) -> None:
        self.job = None
        self.logged.append(("close", status))


def job(tmp_path: Path, step: str = "run") -> Job:
    return Job("digest-seed1", step, "name", {"training": {"max_steps": 5}}, tmp_path)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (None, 0),
        (InputError("wrong"), 2),
        (RuntimeError("broken"), 1),
        (SystemExit(143), 143),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_a_logger_is_closed_with_the_exit_status(tmp_path: Path, end: BaseException | None, status: int) -> None:
    recorder = Recorder()
    with (
        pytest.raises(type(end)) if end else contextlib.nullcontext(),
        job_logging([recorder], lambda: job(tmp_path)),
    ):
        if end:
            raise end
    assert recorder.logged == [("start", "run"), ("close", status)]


def test_a_sigterm_closes_too_and_its_handler_goes(tmp_path: Path) -> None:
    recorder, before = Recorder(), signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit), job_logging([recorder], lambda: job(tmp_path)):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert recorder.logged[-1] == ("close", 143)


def test_a_step_inside_of_a_job_is_a_part_of_it(tmp_path: Path) -> None:
    recorder = Recorder()
    with job_logging([recorder], lambda: job(tmp_path)), job_logging([recorder], lambda: job(tmp_path, "train")):
        assert recorder.job is not None and recorder.job.step == "run"
    assert recorder.logged == [("start", "run"), ("close", 0)]


def test_what_is_no_job_logger_is_left_alone(tmp_path: Path) -> None:
    asked: list[str] = []
    with job_logging([object()], lambda: asked.append("job")):
        log_artifact([object()], artifacts, tmp_path / "nowhere", 5)
    assert asked == []


def test_scores_and_readings_are_logged_with_their_artifact(tmp_path: Path) -> None:
    score = Score("teacher", "pocket", "sts", "sts", "", "test", "spearman", 0.5, main=True, per_query={"q": 1.0})
    scored = Artifact(tmp_path, "evaluate", "name", {}, {})
    scored.write_records("sts", [score])
    scored.finish()
    read = Artifact(tmp_path, "interpret", "name", {}, {})
    read.write_records("lens", [Reading("1", "why", "logit_lens", "", [["a", "b"], ["c"]])])
    read.finish()
    recorder = Recorder()
    assert isinstance(recorder, JobLogger)
    log_artifact([recorder], artifacts, scored.folder, 5)
    assert recorder.logged == []  # of no job
    recorder.job = job(tmp_path)
    for artifact in (scored, read):
        log_artifact([recorder], artifacts, artifact.folder, 5)
    metrics, table, first, readings, second = recorder.logged
    assert metrics == ("metrics", {"evaluate/teacher/pocket/sts/spearman": 0.5}, 5)
    assert table[1] == "evaluate/teacher/scores" and "spearman" in table[2][0] and "per_query" not in str(table)
    assert readings[2] == [["queries", "", "1", "", "why", "logit_lens", "", "a b | c", ""]]
    assert first == ("artifact", "evaluate", scored.folder) and second[1] == "interpret"


def test_a_named_subset_is_in_the_name_of_its_score() -> None:
    rows = [Score("m", "e", "t", "c", subset, "test", "ndcg", 1.0, main=True) for subset in ("", "default", "de")]
    assert list(main_scores(rows)) == ["evaluate/m/e/t/ndcg", "evaluate/m/e/t/de/ndcg"]
