"""Tasks that several processes share: each done once, a killed one's taken over, a failed one's error kept."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llm2vec_gen.artifacts import (
    Artifact,
    Progress,
    TasksFailed,
    TasksRefused,
    check_errors,
    keep_error,
    missing_tasks,
    scores_for_table,
)
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Score

WORKER = Path(__file__).with_name("tasks_worker.py")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return Artifact(tmp_path, "evaluate", "shared", {}, {})


def score(task: str) -> Score:
    return Score("somebody", "suite", task, "retrieval", "default", "test", "ndcg_at_10", 0.5, main=True)


def attempt(artifact: Artifact, names: list[str], errors: dict[str, Exception]) -> list[str]:
    """The tasks of one command; those that it tried."""
    tried = []
    for task in missing_tasks(artifact, names):
        tried.append(task)
        with keep_error(artifact, task, encoder="somebody"):
            if task in errors:
                raise errors[task]
            artifact.write_records(task, [score(task)])
    return tried


# ---- failures


def test_a_failed_task_keeps_its_error_and_the_others_go_on(artifact: Artifact) -> None:
    errors = {"b": RuntimeError("no  memory\nleft"), "c": InputError("no such file")}
    assert attempt(artifact, ["a", "b", "c", "d"], errors) == ["a", "b", "c", "d"]
    row = json.loads((artifact.folder / "errors" / "b.json").read_text())
    assert (row["task"], row["encoder"], row["error"]) == ("b", "somebody", "RuntimeError: no memory left")
    with pytest.raises(TasksFailed, match=r"2 of 4 tasks .*b: RuntimeError: no memory left; c: no such file"):
        check_errors(artifact, ["a", "b", "c", "d"])


def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(artifact: Artifact) -> None:
    missing = ModuleNotFoundError("No module named 'mteb'", name="mteb")
    attempt(artifact, ["a", "b"], {"b": missing})
    with pytest.raises(
        TasksRefused, match=r"b: this needs the package mteb.*pip install 'llm2vec-gen-lightning\[eval\]'"
    ):
        check_errors(artifact, ["a", "b"])


def test_the_same_command_tries_again_only_what_failed(artifact: Artifact) -> None:
    names = ["a", "b", "c"]
    attempt(artifact, names, {"b": RuntimeError("x"), "c": RuntimeError("x")})
    assert attempt(artifact, names, {"c": RuntimeError("y")}) == ["b", "c"]
    with pytest.raises(TasksFailed, match="1 of 3 tasks .*c: RuntimeError: y"):
        check_errors(artifact, names)
    assert attempt(artifact, names, {}) == ["c"]
    check_errors(artifact, names)
    assert not list((artifact.folder / "errors").iterdir())


def test_wrong_input_alone_is_an_input_error_that_names_equal_errors_once(artifact: Artifact) -> None:
    attempt(artifact, ["a", "b.v2", "c"], {"a": InputError("offline"), "b.v2": InputError("offline")})
    with pytest.raises(TasksRefused, match=r"2 of 3 .*: a, b\.v2: offline$") as caught:
        check_errors(artifact, ["a", "b.v2", "c"])
    assert isinstance(caught.value, InputError)


def test_a_table_gets_no_scores_of_half_an_artifact_and_the_log_says_why(
    artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    attempt(artifact, ["a", "b"], {"b": RuntimeError("x")})
    with caplog.at_level(logging.WARNING):
        assert scores_for_table(artifact) == []
    assert "stays empty, tasks failed: b: RuntimeError: x" in caplog.text
    attempt(artifact, ["a", "b"], {})
    artifact.finish()
    assert [row.task for row in scores_for_table(artifact)] == ["a", "b"]


def test_an_interrupted_task_has_not_failed(artifact: Artifact) -> None:
    with pytest.raises(KeyboardInterrupt):
        attempt(artifact, ["a"], {"a": KeyboardInterrupt()})  # type: ignore[dict-item]
    check_errors(artifact, ["a"])
    assert attempt(artifact, ["a"], {}) == ["a"]


# ---- time left


def test_the_time_left_goes_by_what_there_is_to_encode(artifact: Artifact, caplog: pytest.LogCaptureFixture) -> None:
    artifact.write_records("before", [])
    progress = Progress(artifact, {"before": 5000, "small": 100, "large": 900, "unknown": 0})
    progress.began -= 100  # seconds ago
    progress.last_logged -= 100
    artifact.write_records("small", [])
    with caplog.at_level(logging.INFO):
        progress.log("small")
        progress.log("small")  # no second line within seconds
        artifact.write_records("large", [])
        progress.last_logged -= 100
        progress.log("large")
        artifact.write_records("unknown", [])
        progress.last_logged -= 100
        progress.log("unknown")  # all are done, which the step logs itself
    small, large = caplog.messages
    assert re.fullmatch(r"evaluate: 2 of 4 tasks done, last small; about 48\.\d min left", small)  # 2900 s
    assert re.search(r"last large; about 3\.\d min left$", large)  # 200 s


# ---- several processes


class Team:
    """Workers that start together."""

    def __init__(self, outputs: Path, moods: dict[str, float | str], count: int) -> None:
        self.outputs = outputs
        (outputs / "moods.json").write_text(json.dumps(moods))
        command = [sys.executable, str(WORKER), str(outputs)]
        self.jobs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(count)]
        until(lambda: len(list(outputs.glob("ready-*"))) == count)
        (outputs / "go").touch()

    def notes(self) -> list[tuple[int, str]]:
        file = self.outputs / "notes"
        lines = [line.split() for line in file.read_text().splitlines()] if file.is_file() else []
        return [(int(pid), task) for pid, task in lines]

    def ends(self) -> list[tuple[int, str]]:
        errors = [job.communicate(timeout=60)[1] for job in self.jobs]
        return [(job.returncode, text) for job, text in zip(self.jobs, errors, strict=True)]


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_processes_share_the_tasks_and_try_one_that_fails_once(tmp_path: Path, artifact: Artifact) -> None:
    moods: dict[str, float | str] = {**{f"task{n}": 0.3 for n in range(9)}, "bad": "broken"}
    team = Team(tmp_path, moods, 3)
    ends = team.ends()
    assert [code for code, _ in ends] == [1, 1, 1]
    assert all("1 of 10 tasks failed" in errors and "RuntimeError: broken" in errors for _, errors in ends)
    assert sorted(task for _, task in team.notes()) == sorted(moods)
    assert len({pid for pid, _ in team.notes()}) == 3
    assert not artifact.is_complete
    again = Team(tmp_path, moods | {"bad": 0.0}, 3)
    assert [code for code, _ in again.ends()] == [0, 0, 0]
    assert [task for _, task in again.notes()[10:]] == ["bad"]
    assert artifact.is_complete


@pytest.mark.slow
def test_a_killed_process_frees_its_task(tmp_path: Path, artifact: Artifact) -> None:
    team = Team(tmp_path, {"first": 1.0, "second": 1.0}, 2)
    until(lambda: len(team.notes()) == 2)
    killed, left = team.notes()[0]
    next(job for job in team.jobs if job.pid == killed).kill()
    ends = dict(zip([job.pid for job in team.jobs], team.ends(), strict=True))
    (heir,) = ends.keys() - {killed}
    assert (ends[killed][0], ends[heir][0]) == (-9, 0)
    assert team.notes()[2:] == [(heir, left)]
    assert artifact.is_complete


@pytest.mark.slow
def test_whoever_has_nothing_to_do_waits_and_says_for_what(tmp_path: Path) -> None:
    ends = Team(tmp_path, {"only": 1.0}, 2).ends()
    assert [code for code, _ in ends] == [0, 0]
    assert sum("waiting for only, which other processes run" in errors for _, errors in ends) == 1
