"""Many processes that need the same artifacts make them once; who dies while making them is replaced."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm2vec_gen.artifacts import Completions, Targets

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("artifact_worker.py")
ROOT = Path(__file__).parents[1]
ROWS = 6


def start(outputs: Path, count: int, seconds: float) -> list[subprocess.Popen[str]]:
    command = [sys.executable, str(WORKER), str(outputs), str(ROWS), str(seconds)]
    return [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(count)]


def notes(outputs: Path) -> list[tuple[int, str]]:
    """(process, what it did) in order."""
    file = outputs / "notes"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [(int(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]


def written(outputs: Path) -> list[str]:
    return [what for _, what in notes(outputs) if "finished" not in what]


EVERY_ROW_ONCE = [f"{step} {row}" for step in ("complete", "embed") for row in range(ROWS)]


def check_artifacts(outputs: Path) -> None:
    completions = Completions(next((outputs / "complete").iterdir()))
    targets = Targets(next((outputs / "embed").iterdir()), completions)
    assert [row.id for row in completions] == [str(row) for row in range(ROWS)]
    assert [float(targets[row][0]) for row in range(ROWS)] == list(map(float, range(ROWS)))


def test_twenty_processes_make_each_part_once_and_wait_for_a_named_one(tmp_path: Path) -> None:
    jobs = start(tmp_path, 20, 0.3)
    errors = [job.communicate(timeout=150)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 20
    assert sorted(written(tmp_path)) == sorted(EVERY_ROW_ONCE)
    check_artifacts(tmp_path)
    pids = {job.pid for job in jobs}
    makers = {int(pid) for text in errors for pid in re.findall(r"being written by process (\d+) on", text)}
    assert makers <= pids
    assert makers & {pid for pid, what in notes(tmp_path) if what == "complete 0"}


def test_makers_that_are_killed_are_taken_over_with_the_missing_rows_only(tmp_path: Path) -> None:
    jobs = start(tmp_path, 6, 0.4)
    killed: set[int] = set()
    for done in (2, 5, 8):  # twice among the completions, once among the targets
        end = time.monotonic() + 120
        while len(written(tmp_path)) < done:
            assert time.monotonic() < end
            time.sleep(0.05)
        maker = next(pid for pid, what in reversed(notes(tmp_path)) if "finished" not in what)
        next(job for job in jobs if job.pid == maker).kill()
        killed.add(maker)
    for job in jobs:
        job.communicate(timeout=120)
        assert job.returncode == (-9 if job.pid in killed else 0)
    # A kill between a shard and its note leaves the shard: no row is written twice, and the artifacts are complete.
    assert len(written(tmp_path)) == len(set(written(tmp_path)))
    check_artifacts(tmp_path)


def test_a_lock_and_an_owner_left_by_the_dead_hold_nobody_up(tmp_path: Path) -> None:
    (job,) = start(tmp_path, 1, 5)
    folder = tmp_path / "complete"
    end = time.monotonic() + 60
    while not list(folder.glob("*/.owner")):
        assert time.monotonic() < end
        time.sleep(0.05)
    job.kill()
    job.communicate()
    assert list(folder.glob("*/.owner"))
    (heir,) = start(tmp_path, 1, 0)
    assert "waiting" not in heir.communicate(timeout=60)[1]
    assert heir.returncode == 0
    check_artifacts(tmp_path)


def test_three_scripts_started_together_share_completions_and_targets(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "experiments" / "complete.py"), f"paths.outputs={tmp_path}", "data.limit=6",
               "shard_size=2"]  # fmt: skip
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    command[1] = str(ROOT / "experiments" / "embed.py")
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    jobs = [
        subprocess.Popen([*command, f"seed={seed}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        for seed in range(3)
    ]
    ends = [job.communicate(timeout=150) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0], ends
    assert len({out for out, _ in ends}) == 1
    assert sum("embed: rows 6" in err for _, err in ends) == 1
    # The others wait for it, or start so late that it is complete: which of the two, the machine decides.
    assert all("waiting for" in err or "embed: writing" not in err for _, err in ends if "embed: rows 6" not in err)
