"""What would be submitted to Slurm, what is refused before, and the same jobs through submitit on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hydra_plugins.llm2vec_gen_sweeps.grid import _check_group
from hydra_plugins.llm2vec_gen_sweeps.search import OptunaSweeper
from hydra_plugins.llm2vec_gen_sweeps.slurm import SlurmLauncher
from llm2vec_gen.errors import InputError
from tests.hydra_plugins.sweeps import SCRIPT, runs, statuses, sweep

SLURM = "hydra/launcher=slurm"


def test_dry_prints_the_sbatch_file_and_does_nothing(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    outputs = tmp_path / "outputs"
    options = ["hydra.launcher.mem_gb=16", "hydra.launcher.partition=short", "+hydra.launcher.additional.licenses=x"]
    code, out, err = sweep(outputs, SLURM, "seed=1,2,3", "--dry", "hydra.launcher.tasks_per_node=1", *options)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "#!/bin/bash"
    wanted = ["array=0-2%3", "nodes=1", "ntasks-per-node=1", "mem=16GB", "partition=short", "time=240", "licenses=x"]
    assert {f"#SBATCH --{option}" for option in (*wanted, "signal=TERM@120")} <= set(lines)
    assert not any("gpus" in line for line in lines)
    assert f"srun --unbuffered --output {outputs}" in out
    assert [file.name for file in outputs.iterdir()] == ["machine"]


def test_tasks_per_node_must_equal_devices(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    code, _, err = sweep(tmp_path, SLURM, "seed=1,2", "--dry", "hydra.launcher.tasks_per_node=4")
    assert code == 2
    assert "hydra.launcher.tasks_per_node=4, but job 0" in err
    assert "trainer.devices=1" in err


def test_a_machine_without_slurm_is_reported_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = sweep(tmp_path, SLURM, "seed=1,2")
    assert code == 2
    assert "found no sbatch" in err
    assert not runs(tmp_path, 1)


def test_a_missing_submitit_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    nothing: Any = None
    with pytest.raises(InputError, match=r"pip install 'llm2vec-gen-lightning\[slurm\]'"):
        SlurmLauncher().setup(hydra_context=nothing, task_function=nothing, config=nothing)


def test_a_launcher_needs_no_multirun_flag(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    command = [sys.executable, str(SCRIPT), f"paths.outputs={tmp_path}", SLURM, "--dry", "seed=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --job-name=llm2vec_gen" in done.stdout
    assert not runs(tmp_path, 1)


def test_what_starts_processes_itself_is_refused_in_a_group_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    _check_group("slurm")
    monkeypatch.setenv("WORLD_SIZE", "2")
    _check_group("basic")
    with pytest.raises(InputError, match="hydra/launcher=slurm starts .* without torchrun"):
        _check_group("slurm")
    with pytest.raises(InputError, match="a search starts .* without torchrun"):
        OptunaSweeper("train/loss", n_trials=1, n_jobs=1, study="search", storage="search.db")


@pytest.mark.slow
def test_submitit_runs_the_jobs_and_a_dead_one_is_marked(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    local = [SLURM, "hydra.launcher.cluster=local"]
    first, second = tmp_path / "sweeps" / "a", tmp_path / "sweeps" / "b"
    code, out, _ = sweep(tmp_path, *local, "seed=1,105,103", f"hydra.sweep.dir={first}")
    assert code == 1
    assert [status["state"] for status in statuses(first)] == ["done", "failed", "failed"]
    assert out.splitlines() == [str(tmp_path / "work" / "1")]
    code, _, _ = sweep(tmp_path, *local, "seed=1,103", "sweep.skip_done=true", f"hydra.sweep.dir={second}")
    assert code == 1
    assert [status["skipped"] for status in statuses(second)] == [str(first / "0"), str(first / "2")]
    assert not (second / "slurm").exists()  # nothing was submitted
