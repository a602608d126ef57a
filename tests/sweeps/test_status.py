"""A status file is written at every turn of a job, and a table is made of many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.sweeps.status import Status, read_statuses, worst_exit_status
from llm2vec_gen.tables.sweep import markdown


def status(place: Path, number: int = 0, **values: object) -> Status:
    return Status(place, number, "train", "abc", [f"seed={number}", "name=x"], **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "exit", "summary"),
    [
        (InputError("seed is wrong"), 2, "seed is wrong"),
        (RuntimeError("two\nlines"), 1, "RuntimeError: two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(143), 143, "stopped by signal 15"),
        (SystemExit("no way"), 1, "exit no way"),
        (SystemExit(0), 1, "exit 0"),
        (MemoryError(), 1, "MemoryError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_raised_stands_in_the_status(tmp_path: Path, error: BaseException, exit: int, summary: str) -> None:
    with pytest.raises(type(error)), status(tmp_path).write_on_exit():
        assert json.loads((tmp_path / "status.json").read_text())["state"] == "running"
        raise error
    found = Status.read(tmp_path)
    assert found is not None
    assert (found.state, found.exit, found.error, found.observed_state) == ("failed", exit, summary, "failed")


def test_a_job_that_ends_well_says_so(tmp_path: Path) -> None:
    with status(tmp_path).write_on_exit() as job:
        assert job.observed_state == "running"
        job.folder, job.steps = "outputs/train/x", 7
    found = json.loads((tmp_path / "status.json").read_text())
    assert (found["state"], found["folder"], found["steps"], found["error"]) == ("done", "outputs/train/x", 7, None)
    assert found["started"] <= found["finished"]
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]


def test_a_damaged_or_foreign_status_is_none(tmp_path: Path) -> None:
    assert Status.read(tmp_path) is None
    (tmp_path / "status.json").write_text('{"state": "do')
    assert Status.read(tmp_path) is None


def test_the_artifact_is_found_after_the_outputs_were_moved(tmp_path: Path) -> None:
    (tmp_path / "new" / "train" / "x").mkdir(parents=True)
    job = status(tmp_path, state="done", folder=str(tmp_path / "old" / "train" / "x"))
    assert job.exists(tmp_path / "new")
    assert not job.exists(tmp_path / "old")


def test_the_worst_status_wins() -> None:
    assert worst_exit_status([]) == 0
    assert worst_exit_status([0, 0]) == 0
    assert worst_exit_status([0, 2]) == 2
    assert worst_exit_status([0, 2, 1]) == 1
    assert worst_exit_status([7, 2]) == 1
    assert worst_exit_status([1, 143, 0]) == 143


def test_a_table_keeps_what_differs_and_marks_what_failed(tmp_path: Path) -> None:
    jobs = [
        status(tmp_path, 0, state="done", folder="f0"),
        status(tmp_path, 1, state="failed", error="no"),
        status(tmp_path, 2, state="running", pid=2**22 + 1),
        status(tmp_path, 3, state="done", folder="f3", skipped="elsewhere"),
    ]
    jobs[2].host = __import__("socket").gethostname()
    lines = markdown(jobs).splitlines()
    assert lines[0] == "every job: name=x"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:8]]
    assert rows == [
        ["0", "seed=0", "done", "f0"],
        ["1", "seed=1", "FAILED", "no"],
        ["2", "seed=2", "DEAD", "-"],
        ["3", "seed=3", "done (earlier)", "f3"],
    ]
    assert lines[-1] == "2 of 4 jobs done"


def test_a_table_has_the_results_of_each_job_and_they_are_read_back(tmp_path: Path) -> None:
    jobs = [status(tmp_path / "0", 0, results={"train/loss": 1.5, "pocket/sts": 0.25}), status(tmp_path / "1", 1)]
    jobs[0].end("done", 0)
    jobs[1].end("failed", 1, "no")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown(jobs).splitlines()[2:6]]
    assert lines[0] == ["job", "overrides", "state", "loss", "sts", "folder or error"]
    assert lines[2:] == [["0", "seed=0", "done", "1.5", "25.0", "-"], ["1", "seed=1", "FAILED", "–", "–", "no"]]
    assert [(job.results, job.state, job.error) for job in read_statuses(str(tmp_path))] == [
        ({"train/loss": 1.5, "pocket/sts": 0.25}, "done", None),
        ({}, "failed", "no"),
    ]
    with pytest.raises(InputError, match="holds no job of a multirun"):
        read_statuses(str(tmp_path / "0"))
