"""Sweeps as real processes: every job has one status, a failing one stops nobody, what is done is not done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llm2vec_gen.sweeps.status import Status
from tests.hydra_plugins.sweeps import SCRIPT, runs, start, statuses, sweep, wait_for

pytestmark = pytest.mark.slow


def test_a_failing_job_stops_no_other_and_the_worst_one_gives_the_exit_status(tmp_path: Path) -> None:
    code, out, err = sweep(tmp_path, "seed=1,102,103,107,8", f"hydra.sweep.dir={tmp_path}/s")
    found = statuses(tmp_path / "s")
    assert code == 1
    assert [status["state"] for status in found] == ["done", "failed", "failed", "failed", "done"]
    assert [status["exit"] for status in found] == [0, 2, 1, 1, 0]
    assert found[1]["error"] == "seed 102 is wrong; take another"
    assert found[2]["error"] == "RuntimeError: seed 103 is broken"
    assert found[0]["folder"] == out.splitlines()[0] == str(tmp_path / "work" / "1")
    assert found[3]["overrides"] == [f"paths.outputs={tmp_path}", "seed=107"]
    table = (tmp_path / "s" / "sweep.md").read_text()
    assert table in err
    assert table.count("FAILED") == 3
    assert "2 of 5 jobs done" in table
    assert len(list(tmp_path.rglob("status.json"))) == 5


def test_wrong_input_alone_exits_with_2(tmp_path: Path) -> None:
    assert sweep(tmp_path, "seed=1,102")[0] == 2


def test_what_is_done_is_not_done_again_and_what_failed_only_if_asked(tmp_path: Path) -> None:
    first, second, third = (f"hydra.sweep.dir={tmp_path}/sweeps/{name}" for name in "abc")
    sweep(tmp_path, "seed=1,103", first)
    code, out, _ = sweep(tmp_path, "seed=1,2,103", "sweep.skip_done=true", "logger=none", second)
    assert code == 1
    assert out.splitlines() == [str(tmp_path / "work" / seed) for seed in "12"]
    done, new, failed = statuses(tmp_path / "sweeps" / "b")
    assert done["skipped"] == str(tmp_path / "sweeps" / "a" / "0")
    assert (new["skipped"], failed["skipped"]) == (None, str(tmp_path / "sweeps" / "a" / "1"))
    assert (failed["state"], failed["error"]) == ("failed", "RuntimeError: seed 103 is broken")
    assert [len(runs(tmp_path, seed)) for seed in (1, 2, 103)] == [1, 1, 1]
    sweep(tmp_path, "seed=1,103", "sweep.skip_done=true", "sweep.retry_failed=true", third)
    assert [len(runs(tmp_path, seed)) for seed in (1, 103)] == [1, 2]


def test_wrong_input_may_be_right_the_next_time(tmp_path: Path) -> None:
    for _ in range(2):
        assert sweep(tmp_path, "seed=1,102", "sweep.skip_done=true")[0] == 2
    assert [len(runs(tmp_path, seed)) for seed in (1, 102)] == [1, 2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--dry", "--dry prints the sbatch file of hydra/launcher=slurm; choose that launcher too"),
        ("hydra/launcher=slurmy", "hydra/launcher=slurmy is unknown; expected one of slurm"),
    ],
)
def test_a_misplaced_or_misspelt_launcher_is_reported_in_one_line(tmp_path: Path, override: str, message: str) -> None:
    code, _, err = sweep(tmp_path, "seed=1,2", override)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_another_config_or_a_removed_artifact_is_not_done(tmp_path: Path) -> None:
    sweep(tmp_path, "seed=1")
    sweep(tmp_path, "seed=1", "loss.alignment.weight=0.5", "sweep.skip_done=true")
    assert len(runs(tmp_path, 1)) == 2
    (tmp_path / "work").rename(tmp_path / "elsewhere")
    sweep(tmp_path, "seed=1", "sweep.skip_done=true")
    assert len(runs(tmp_path, 1)) == 1


def test_two_sweeps_in_one_folder_are_refused_before_anything_runs(tmp_path: Path) -> None:
    where = f"hydra.sweep.dir={tmp_path}/s"
    assert sweep(tmp_path, "seed=1,2", where)[0] == 0
    code, _, err = sweep(tmp_path, "seed=1,3", where)
    assert code == 2
    assert "seed=1,2` of 20" in err
    assert "seed=1,3`" in err
    assert not runs(tmp_path, 3)
    assert len(err.strip().splitlines()) == 1
    assert sweep(tmp_path, "seed=1,2", where, "trainer.device=cuda")[0] == 0  # the same but for where it runs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_in_the_status_and_the_next_call_goes_on(tmp_path: Path, number: int) -> None:
    (tmp_path / "slow").touch()
    job = start(tmp_path, "seed=1,106,8", f"hydra.sweep.dir={tmp_path}/sweeps/a")
    wait_for(lambda: runs(tmp_path, 106))
    os.kill(job.pid, number)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 128 + number
    found = statuses(tmp_path / "sweeps" / "a")
    assert [(status["state"], status["exit"]) for status in found] == [("done", 0), ("failed", 128 + number)]
    assert "NOT STARTED" in err
    (tmp_path / "slow").unlink()
    assert sweep(tmp_path, "seed=1,106,8", "sweep.skip_done=true")[0] == 0
    assert [len(runs(tmp_path, seed)) for seed in (1, 106, 8)] == [1, 2, 1]


def test_a_killed_sweep_is_seen_as_dead_and_the_next_call_goes_on(tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    where = f"hydra.sweep.dir={tmp_path}/s"
    job = start(tmp_path, "seed=1,106", where)
    wait_for(lambda: runs(tmp_path, 106))
    code, _, err = sweep(tmp_path, "seed=1,106", where)
    assert code == 2
    assert f"process {job.pid} on" in err  # it lives, so its folder is taken
    job.kill()
    job.communicate()
    dead = Status.read(tmp_path / "s" / "1")
    assert dead is not None
    assert (dead.state, dead.observed_state, dead.pid) == ("running", "dead", job.pid)
    (tmp_path / "slow").unlink()
    for file in (tmp_path / "machine").glob("busy-*"):
        file.unlink()
    assert sweep(tmp_path, "seed=1,106", where, "sweep.skip_done=true")[0] == 0
    assert [len(runs(tmp_path, seed)) for seed in (1, 106)] == [1, 2]


def test_a_single_run_leaves_no_status_and_keep_false_leaves_nothing(tmp_path: Path) -> None:
    def call(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), f"paths.outputs={tmp_path / 'outputs'}", *overrides]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    done = call("keep=false")
    assert (done.returncode, done.stdout, list(tmp_path.rglob("*"))) == (0, "", [])
    assert "nothing is kept" in done.stderr
    assert call().returncode == 0
    assert [file.parent.name for file in tmp_path.rglob("*.json")] == ["42"]
