"""stage=range: real processes that share complete and embed leave what a single process leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llm2vec_gen.artifacts import finished_parts, read_manifest

ROOT = Path(__file__).parents[1]
OVERRIDES = ["data.limit=23", "data.answers=true", "generator=replay", "part_size=4"]


def start(verb: str, outputs: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "experiments" / f"{verb}.py"), f"paths.outputs={outputs}", *OVERRIDES, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_make_the_artifacts_of_one(tmp_path: Path) -> None:
    for verb in ("complete", "embed"):
        jobs = [start(verb, tmp_path / "two", "stage=range", f"stage.index={index}", "stage.of=2") for index in (0, 1)]
        jobs.append(start(verb, tmp_path / "one"))
        for job in jobs:
            _, said = job.communicate(timeout=200)
            assert job.returncode == 0, said
        (one,), (two,) = (list((tmp_path / place / verb).glob("*/manifest.json")) for place in ("one", "two"))
        ours, theirs = read_manifest(one.parent), read_manifest(two.parent)
        assert one.parent.name == two.parent.name
        assert ours["counts"]["rows"] == theirs["counts"]["rows"] == 23
        assert ours["parts"] == theirs["parts"]
        assert [part.start for part in finished_parts(two.parent)] == [0, 4, 8, 12, 16, 20]


def test_a_share_out_of_range_is_refused(tmp_path: Path) -> None:
    job = start("complete", tmp_path, "stage=range", "stage.index=2", "stage.of=2")
    _, said = job.communicate(timeout=100)
    assert job.returncode == 2
    assert "0 <= stage.index < stage.of" in said
