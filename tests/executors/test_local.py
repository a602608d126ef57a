"""executor=range: real processes that share complete and embed leave what a single process leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm2vec_gen import pipeline
from llm2vec_gen.artifacts import finished_shards, read_manifest
from llm2vec_gen.config import compose

ROOT = Path(__file__).parents[2]
OVERRIDES = ["data.limit=23", "data.answers=true", "generator=replay", "shard_size=4"]


def start(step: str, outputs: Path, *more: str) -> subprocess.Popen[str]:
    """A script, on one thread: another number of them adds in another order."""
    command = [sys.executable, str(ROOT / "experiments" / f"{step}.py"), f"paths.outputs={outputs}", *OVERRIDES, *more]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def check_alike(one: Path, two: Path, step: str) -> None:
    """Two outputs folders hold the same artifact of a step: digest, counts, and every part byte for byte."""
    folders = [manifest.parent for place in (one, two) for manifest in (place / step).glob("*/manifest.json")]
    ours, theirs = map(read_manifest, folders)
    assert folders[0].name == folders[1].name
    assert ours["counts"]["rows"] == theirs["counts"]["rows"] == 23
    assert ours["shards"] == theirs["shards"] and ours["counts"] == theirs["counts"]
    assert [shard.start for shard in finished_shards(folders[1])] == [0, 4, 8, 12, 16, 20]


@pytest.mark.slow
def test_two_processes_make_the_artifacts_of_one(tmp_path: Path) -> None:
    for step in ("complete", "embed"):
        jobs = [
            start(step, tmp_path / "two", "executor=range", f"executor.index={index}", "executor.of=2")
            for index in (0, 1)
        ]
        jobs.append(start(step, tmp_path / "one"))
        for job in jobs:
            _, output = job.communicate(timeout=200)
            assert job.returncode == 0, output
        check_alike(tmp_path / "one", tmp_path / "two", step)


def test_counts_are_those_of_all_processes(tmp_path: Path) -> None:
    """The last process adds up what the shards of all say."""

    def counts(name: str, *more: str) -> dict:
        plan = compose(*OVERRIDES, f"paths.outputs={tmp_path / name}", *more)
        folder = pipeline.complete(plan)
        return read_manifest(folder)["counts"] if (folder / "manifest.json").is_file() else {}

    together = counts("one")
    assert together["generator"]["completions"] == 23
    assert counts("two", "executor=range", "executor.index=0", "executor.of=2") == {}
    assert counts("two", "executor=range", "executor.index=1", "executor.of=2") == together


def test_an_index_out_of_range_is_refused(tmp_path: Path) -> None:
    job = start("complete", tmp_path, "executor=range", "executor.index=2", "executor.of=2")
    _, output = job.communicate(timeout=100)
    assert job.returncode == 2
    assert "0 <= executor.index < executor.of" in output
