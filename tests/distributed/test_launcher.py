"""Jobs on two real processes over gloo, through the scripts: started by the job or by torchrun, stopped, continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from llm2vec_gen.distributed.launcher import RankError, _failure
from llm2vec_gen.errors import InputError
from tests.builders import tiny_backbone_folder

slow = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TWO = ("trainer.accelerator=cpu", "trainer.devices=2")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides for replayed answers over a tiny backbone; completions and targets are there."""
    folder = tmp_path_factory.mktemp("world")
    backbone = tiny_backbone_folder(folder, family="qwen3")
    rows = [{"query": f"what is {n} and {n * 7 % 13}?", "answer": f"it is {n * n % 97}."} for n in range(64)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = (
        "experiment=smoke", "data=query_log", f"data.path={folder / 'log.jsonl'}", "data.answer_column=answer",
        "generator=replay", f"backbone.path={backbone}", "evaluation=[]", "interpreter=[]", "instruction=none",
        "training.batch_size=4", "trainer.log_every_n_steps=1", "training.checkpoint_every_n_steps=1000",
        f"paths.outputs={folder / 'outputs'}",
    )  # fmt: skip
    folders_of("run", overrides)  # by one process
    return overrides


def begin(step: str, *overrides: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    clean = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    python = [sys.executable, *launcher] if launcher else [sys.executable]
    command = [*python, str(ROOT / "experiments" / f"{step}.py"), *overrides]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=clean | {"OMP_NUM_THREADS": "1"}, stdout=pipe, stderr=pipe, text=True)


def folders_of(step: str, overrides: tuple[str, ...], *more: str, launcher: tuple[str, ...] = ()) -> list[Path]:
    """The folders printed, one line each: nobody but the first rank prints."""
    output, errors = (process := begin(step, *overrides, *more, launcher=launcher)).communicate(timeout=300)
    assert process.returncode == 0, errors
    return [Path(line) for line in output.splitlines() if line and Path(line).is_dir()]


def ranks_of(folder: Path) -> list[int]:
    """The processes of ranks whose job stands in a folder that is gone or not, by the name of their module."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = place.read_bytes().split(b"\0")
            settings = json.loads(Path(command[3].decode()).read_text())["settings"]
        except (OSError, IndexError, ValueError, KeyError):
            continue
        if b"llm2vec_gen.distributed.worker" in command and settings["paths"]["outputs"] == str(folder):
            found.append(int(place.parent.name))
    return found


def wait_for(condition: Any, seconds: float = 90) -> Any:
    """What the condition gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return found


def gone(pids: list[int]) -> bool:
    """Whether none of the processes runs any more (one that nobody waits for may still be listed)."""
    states = []
    for pid in pids:
        try:
            states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue
    return all(state == "Z" for state in states)


@slow
def test_a_multirun_of_two_by_two_on_two_ranks(world: tuple[str, ...]) -> None:
    more = ("trainer=ddp", *TWO, "seed=1,2", "loss.alignment.weight=0,0.5")
    folders = folders_of("train", (*world, *more), "-m")
    assert len(set(folders)) == len(folders) == 4
    for folder in folders:
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["counts"]["samples"] == 5 * 4
        assert manifest["settings"]["trainer"]["devices"] == 2
        assert not (folder / "resume").exists()


@slow
def test_torchrun_starts_the_whole_chain(world: tuple[str, ...], tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    more = ("trainer=fsdp", *TWO, f"paths.outputs={tmp_path}")
    (folder,) = folders_of("run", world, *more, launcher=launcher)
    assert (folder / "manifest.json").is_file()
    outputs = Path(next(text for text in world if text.startswith("paths.outputs=")).partition("=")[2])
    (two,), (one, *_) = tmp_path.glob("train/*-seed42-*"), outputs.glob("train/*-seed42-*")
    assert two.name == one.name
    ours, theirs = load_file(two / "model.safetensors"), load_file(one / "model.safetensors")
    assert all(float((ours[name] - theirs[name]).abs().mean()) < 1e-4 for name in theirs)


@slow
def test_a_multirun_under_torchrun_has_one_folder_and_one_table(world: tuple[str, ...], tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    more = ("trainer=ddp", *TWO, "seed=11,12", f"hydra.sweep.dir={tmp_path}", "-m")
    process = begin("train", *world, *more, launcher=launcher)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert len(output.splitlines()) == 2
    assert errors.count("jobs done") == 1
    assert "2 of 2 jobs done" in errors
    states = [json.loads((tmp_path / number / "status.json").read_text())["state"] for number in "01"]
    assert states == ["done", "done"]


@slow
def test_a_stopped_job_stops_its_ranks_and_goes_on(world: tuple[str, ...], tmp_path: Path) -> None:
    """SIGTERM to the job under ddp, SIGKILL of the job under fsdp, the end by one process."""
    outputs = Path(next(text for text in world if text.startswith("paths.outputs=")).partition("=")[2])
    long = (*world, "training.max_steps=600", "training.schedule_steps=600", "seed=7")
    saved: list[tuple[int, int]] = []
    for strategy, number, code in (("ddp", signal.SIGTERM, 143), ("ddp", signal.SIGINT, 130), ("fsdp", 9, -9)):
        process = begin("train", *long, f"trainer={strategy}", *TWO)
        before = saved[-1][1] if saved else -1
        wait_for(lambda before=before: rows(outputs) > before + 2 or process.poll() is not None)  # noqa: B023
        assert process.poll() is None, process.communicate()[1]
        pids = wait_for(lambda: ranks_of(outputs))
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        wait_for(lambda pids=pids: gone(pids))
        place = wait_for(lambda: list(outputs.glob("train/*-seed7-*/resume/last.ckpt")))[0]
        saved.append((place.stat().st_mtime_ns, rows(outputs)))
        assert "Traceback" not in errors
        assert errors.count("the same command continues") == 1
    assert saved == sorted(set(saved))  # each stop saved a later step
    (folder,) = folders_of("train", long)
    assert json.loads((folder / "manifest.json").read_text())["counts"]["samples"] == 600 * 4
    assert rows(outputs) == 600


def rows(outputs: Path) -> int:
    """Steps logged so far."""
    files = list(outputs.glob("train/*-seed7-*/metrics.csv"))
    return len(files[0].read_text().splitlines()) - 1 if files else 0


LATE = """
import os, signal
from llm2vec_gen.distributed.launcher import handle_sigterm
from llm2vec_gen.distributed import collectives
signal.signal(signal.SIGTERM, handle_sigterm)
collectives.init_process_group(gpu=False)
end = collectives.dist.destroy_process_group
collectives.dist.destroy_process_group = lambda: (os.kill(os.getpid(), signal.SIGTERM), end(), print("left"))
"""


def test_a_rank_that_leaves_ignores_a_late_signal() -> None:
    """Another rank stopped it; its own SIGTERM comes while it leaves the group."""
    alone = os.environ | {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", LATE], env=alone, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "codes", "kind", "text"),
    [
        ({"1": {"error": "connection closed"}, "0": {"wrong": "no such loss"}}, {0: 2, 1: 1}, InputError, "no such"),
        ({"1": {"error": "connection closed"}}, {0: -9, 1: 1}, RankError, "rank 0 was ended by SIGKILL; was there"),
        ({"0": {"error": "Traceback a"}, "1": {"error": "Traceback b"}}, {0: 1, 1: 1}, RankError, "Traceback a"),
        ({"0": {}}, {0: 143}, SystemExit, "143"),
    ],
)
def test_what_went_wrong_is_said_once(tmp_path: Path, words: dict, codes: dict, kind: type, text: str) -> None:
    for number, word in words.items():
        (tmp_path / f"rank-{number}.json").write_text(json.dumps(word))
    error = _failure(tmp_path, codes)
    assert type(error) is kind
    assert text in str(error)
