"""Jobs side by side, each in a process and on a slot of its own; one that dies takes nobody along."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hydra_plugins.llm2vec_gen_sweeps._slots import Slot, slots_of_cores, slots_of_gpus
from hydra_plugins.llm2vec_gen_sweeps.local_pool import LocalPoolLauncher
from llm2vec_gen.errors import InputError
from tests.hydra_plugins.sweeps import runs, start, statuses, sweep, wait_for

POOL = "hydra/launcher=local_pool"
CORES = len(os.sched_getaffinity(0))
pytestmark = pytest.mark.slow


def test_a_job_that_dies_is_marked_and_the_others_go_on(tmp_path: Path) -> None:
    code, out, err = sweep(tmp_path, POOL, "seed=1,104,105,102,8", f"hydra.sweep.dir={tmp_path}/s")
    found = statuses(tmp_path / "s")
    assert code == 1
    assert [status["state"] for status in found] == ["done", "failed", "failed", "failed", "done"]
    assert [status["exit"] for status in found] == [0, 1, 1, 2, 0]
    assert all("process died" in status["error"] for status in found[1:3])
    assert sorted(out.splitlines()) == [str(tmp_path / "work" / seed) for seed in "18"]
    assert "seed 102 is wrong" in (tmp_path / "s" / "3" / "job.log").read_text()
    assert "2 of 5 jobs done" in err
    notes = [runs(tmp_path, seed)[0] for seed in (1, 104, 105, 102, 8)]
    assert len({note["pid"] for note in notes}) == 5
    assert {note["LLM2VEC_GEN_SLOT"] for note in notes} <= {f"cores-{number}" for number in range(CORES)}
    assert {(note["CUDA_VISIBLE_DEVICES"], note["OMP_NUM_THREADS"]) for note in notes} == {("", "1")}


def test_two_sweeps_at_once_never_share_a_slot(tmp_path: Path) -> None:
    jobs = [start(tmp_path / name, POOL, "seed=range(4)", machine=tmp_path / "machine") for name in "ab"]
    ends = [job.communicate(timeout=120) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], ends  # the script fails on a slot that is busy


def test_sigterm_reaches_the_jobs_and_no_other_starts(tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    where = f"hydra.sweep.dir={tmp_path}/s"
    job = start(tmp_path, POOL, "hydra.launcher.slots=1", "seed=106,8", where)
    wait_for(lambda: runs(tmp_path, 106))
    os.kill(job.pid, signal.SIGTERM)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 143
    (stopped,) = statuses(tmp_path / "s")
    assert (stopped["state"], stopped["exit"], stopped["error"]) == ("failed", 143, "stopped by signal 15")
    assert "NOT STARTED" in err
    assert not runs(tmp_path, 8)


def test_a_killed_sweep_takes_its_jobs_along_before_the_slot_is_free(tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    one = ("hydra.launcher.slots=1", f"hydra.sweep.dir={tmp_path}/s")
    sweep_process = start(tmp_path, POOL, "seed=106,8", *one)
    wait_for(lambda: runs(tmp_path, 106))
    pid = runs(tmp_path, 106)[0]["pid"]
    os.kill(sweep_process.pid, signal.SIGKILL)
    sweep_process.wait()
    code, _, _ = sweep(tmp_path, POOL, "seed=9", *one[:1])  # the script fails on a slot that is busy
    assert code == 0
    wait_for(lambda: not _runs(pid))
    (stopped,) = statuses(tmp_path / "s")
    assert (stopped["state"], stopped["exit"], stopped["error"]) == ("failed", 143, "stopped by signal 15")
    assert not runs(tmp_path, 8)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_ends_a_sweep_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    job = start(tmp_path, POOL, "seed=106,8", "hydra.launcher.slots=1")
    wait_for(lambda: runs(tmp_path, 106))
    os.killpg(job.pid, signal.SIGINT)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "interrupted: the same command continues where this one stopped"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (slots_of_gpus(["0", "1"], 2, None)[0], slots_of_gpus(["0", "1"], 1, None)[1]),
        (slots_of_cores(1, CORES)[0], slots_of_cores(CORES, 1)[-1]),
    ],
)
def test_a_gpu_or_core_is_held_once_whatever_the_size_of_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: Slot, other: Slot
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held = one.hold("sweep")
    assert held is not None
    tries = iter([False, True])
    assert other.hold("sweep", lambda: next(tries)) is None
    held.close()
    held = other.hold("sweep")
    assert held is not None
    held.close()


def test_more_slots_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    code, _, err = sweep(tmp_path, POOL, "seed=1,2", "hydra.launcher.slots=1000")
    assert code == 2
    assert f"there are {CORES} cores here" in err
    assert len(err.strip().splitlines()) == 1


def test_gpus_are_dealt_out_by_name() -> None:
    slots = slots_of_gpus(["0", "3", "5", "7", "9"], 2, None)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0,3", "5,7"]
    assert len(slots_of_gpus(["0", "3"], 1, 1)) == 1
    with pytest.raises(InputError, match="slots=3, but there is room for 2 jobs: this machine shows 2 GPUs"):
        slots_of_gpus(["0", "3"], 1, 3)
    for per_gpu in (1, 4):
        with pytest.raises(InputError, match="^trainer.devices=2, but this machine shows 1 GPUs; lower it$"):
            slots_of_gpus(["0"], 2, None, per_gpu)


def test_jobs_share_gpus() -> None:
    slots = slots_of_gpus(["0", "3"], 1, None, 2)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "3", "0", "3"]
    assert len({unit for slot in slots for unit in slot.units}) == len({slot.name for slot in slots}) == 4
    assert slots[0].units == slots_of_gpus(["0", "3"], 1, None)[0].units, "a sweep of one job per GPU waits for it"
    assert {slot.environment["OMP_NUM_THREADS"] for slot in slots} == {str(max(1, CORES // 4))}
    assert "OMP_NUM_THREADS" not in slots_of_gpus(["0"], 1, None)[0].environment
    assert slots_of_gpus(["0"], 1, None, 2, 3)[1].environment["OMP_NUM_THREADS"] == "3"
    assert len(slots_of_gpus(["0", "3"], 2, None, 3)) == 3
    with pytest.raises(InputError, match="room for 4 jobs: .*trainer.devices=1 and hydra.launcher.jobs_per_gpu=2"):
        slots_of_gpus(["0", "3"], 1, 5, 2)


def set_up(devices: object = 1, accelerator: str = "auto", jobs_per_gpu: int = 1) -> list[Slot]:
    launcher = LocalPoolLauncher(jobs_per_gpu=jobs_per_gpu)
    trainer = {"accelerator": accelerator, "device": "cpu" if accelerator == "cpu" else None, "devices": devices}
    config = OmegaConf.create({"trainer": trainer})
    launcher.setup(hydra_context=None, task_function=None, config=config)  # type: ignore[arg-type]
    return launcher.slots


@pytest.mark.parametrize(
    ("accelerator", "reason"),
    [("cpu", "these jobs have trainer=cpu; add trainer=gpu"), ("auto", "there are none; leave it out")],
)
def test_sharing_without_a_gpu_is_refused(accelerator: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hydra_plugins.llm2vec_gen_sweeps.local_pool.visible_gpus", list)
    with pytest.raises(InputError, match=f"^hydra.launcher.jobs_per_gpu=2 needs GPUs, but {reason}$"):
        set_up(accelerator=accelerator, jobs_per_gpu=2)


def test_settings_of_gpus_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = sweep(tmp_path, POOL, "seed=1,2", "hydra.launcher.jobs_per_gpu=0")
    assert code == 2
    assert "hydra.launcher.jobs_per_gpu=0" in err
    monkeypatch.setattr("hydra_plugins.llm2vec_gen_sweeps.local_pool.visible_gpus", lambda: ["0", "3"])
    assert [slot.name for slot in set_up(jobs_per_gpu=2)] == ["gpu-0", "gpu-3", "gpu-0-job1", "gpu-3-job1"]
    for devices in ("auto", "2", 0, -1, [0, 1]):
        with pytest.raises(InputError, match="trainer.devices=.*expected a whole number"):
            set_up(devices)


def test_cores_are_divided() -> None:
    (slot,) = slots_of_cores(1, None)
    assert slot.environment["OMP_NUM_THREADS"] == str(CORES)
    with pytest.raises(InputError, match="cores"):
        slots_of_cores(None, CORES + 1)
