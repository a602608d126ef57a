"""Offline runs of wandb after a kill: their files end well, and every step of the training stands there once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from llm2vec_gen import artifacts
from llm2vec_gen.artifacts import Artifact
from llm2vec_gen.loggers import wandb_files
from llm2vec_gen.loggers.base import Job, job_logging, log_artifact
from llm2vec_gen.loggers.wandb import Wandb
from llm2vec_gen.training.callbacks import MetricLog
from llm2vec_gen.training.metrics_file import MetricsFile
from tests.loggers.wandb_file import history, only, records, runs
from tests.loggers.wandb_server import serving

ROOT = Path(__file__).parents[2]
RUN = "abc-seed1"
WORKER = """
import os, pathlib, signal, sys, time
from tests.loggers.test_wandb_files import log, row
out, first, last, kill = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "kill"
log(out, first, last, lambda: (time.sleep(1), os.killpg(0, signal.SIGKILL)) if kill else None)
"""


def row(step: int) -> dict[str, float]:
    return {"train/loss": 10 / step, **{f"train/metric_{number}": number / 7 for number in range(12)}}


def log(outputs: Path, first: int, last: int, then: Any = lambda: None) -> None:
    """One process of a training that logs these steps; `metrics.csv` has the steps before."""
    logger = Wandb(offline=True)
    with job_logging([logger], lambda: Job(RUN, "train", "student", {}, outputs)):
        logger.resume({step: row(step) for step in range(1, first)}, first - 1)
        for step in range(first, last + 1):
            logger.log_metrics(row(step), step)
        then()


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "staged"))


def steps(outputs: Path) -> list[int]:
    rows = [row for folder in runs(outputs) if list(folder.glob("*.wandb")) for row in history(records(folder))]
    return [row["train/step"] for row in rows if "train/loss" in row]


def file_of(folder: Path) -> Path:
    return folder / f"run-{RUN}.wandb"


# ---- files


def test_records_of_any_length_are_read_back_from_every_cut(tmp_path: Path) -> None:
    """Across the borders of blocks, where the last bytes of a block hold no header too."""
    chance, file = random.Random(0), tmp_path / "x.wandb"
    lengths = [0, 1, 32768 - 7 - 7, 0, *(chance.randrange(40000) for _ in range(6)), 32768 - 14 - 3, 70000, 5]
    written = [chance.randbytes(length) for length in lengths]
    wandb_files.write(file, b":W&B\xe1\xbe\x00", written)
    content = file.read_bytes()
    assert wandb_files.read(file) == (content[:7], written, True)
    for cut in sorted(chance.randrange(7, len(content)) for _ in range(60)):
        file.write_bytes(content[:cut])
        _, kept, complete = wandb_files.read(file)
        assert kept == written[: len(kept)] and len(kept) < len(written)
        wandb_files.write(file, content[:7], kept)
        assert wandb_files.read(file)[1:] == (kept, True)
        assert content.startswith(file.read_bytes()), "a rewritten file is a beginning of the old one"
        assert complete == (file.stat().st_size == cut)


def test_the_files_of_wandb_are_written_as_wandb_does(tmp_path: Path) -> None:
    log(tmp_path, 1, 80)
    (folder,) = runs(tmp_path)
    content = file_of(folder).read_bytes()
    assert len(content) > 32768
    header, found, complete = wandb_files.read(file_of(folder))
    assert complete and [Record.FromString(record) for record in found] == records(folder)
    wandb_files.write(file_of(folder), header, found)
    assert file_of(folder).read_bytes() == content


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The folder of a process that logged steps 1 to 60 and was cut off within the record of a later step."""
    log(tmp_path, 1, 60)
    (folder,) = runs(tmp_path)
    content = file_of(folder).read_bytes()
    file_of(folder).write_bytes(content[: len(content) * 3 // 4])
    assert not wandb_files.read(file_of(folder))[2]
    return folder


@pytest.mark.parametrize("first", [1, 11, 58])
def test_every_step_stands_there_once(tmp_path: Path, killed: Path, first: int) -> None:
    """Steps that are logged again are forgotten, and those that were never written are added (first = 58)."""
    log(tmp_path, first, 70)
    assert sorted(steps(tmp_path)) == list(range(1, 71))
    assert all(wandb_files.read(file_of(folder))[2] for folder in runs(tmp_path))
    log(tmp_path, 65, 72)  # and once more
    assert sorted(steps(tmp_path)) == list(range(1, 73))


@pytest.mark.parametrize("size", [0, 3, 7, 60])
def test_a_file_without_its_run_is_put_aside(tmp_path: Path, killed: Path, size: int) -> None:
    """`wandb sync` fails at it, and uploads no later file of the run."""
    file_of(killed).write_bytes(file_of(killed).read_bytes()[:size])
    log(tmp_path, 11, 20)
    assert [file.name for file in killed.glob("*.wandb*")] == [f"run-{RUN}.wandb.cut"]
    assert sorted(steps(tmp_path)) == list(range(1, 21))


def test_a_file_that_a_living_process_writes_is_left_alone(tmp_path: Path, killed: Path) -> None:
    before = file_of(killed).read_bytes()
    with wandb_files.in_use(killed):
        log(tmp_path, 11, 12)
    assert file_of(killed).read_bytes() == before
    file_of(killed).with_name(f"run-{RUN}.wandb.synced").touch()  # nor one that was uploaded
    log(tmp_path, 11, 12)
    assert file_of(killed).read_bytes() == before


def test_the_files_of_other_runs_are_left_alone(tmp_path: Path, killed: Path) -> None:
    other = killed.with_name(killed.name.replace(RUN, f"x-{RUN}"))
    shutil.copytree(killed, other)
    file_of(other).rename(other / f"run-x-{RUN}.wandb")
    before = {file: file.read_bytes() for file in other.rglob("*.wandb")}
    log(tmp_path, 11, 12)
    assert {file: file.read_bytes() for file in other.rglob("*.wandb")} == before


def test_a_job_killed_after_its_training_has_the_complete_curve(tmp_path: Path, killed: Path) -> None:
    """The same command finds the model finished and trains nothing."""
    trained = Artifact(tmp_path, "train", "student", {}, {})
    curve = MetricsFile(trained.folder / "metrics.csv")
    trained.folder.mkdir(parents=True)
    for step in range(1, 61):
        curve.log_metrics(row(step), step)
    trained.finish(steps=60)
    for _ in range(2):
        logger = Wandb(offline=True)
        with job_logging([logger], lambda: Job(RUN, "run", "student", {}, tmp_path)):
            log_artifact([logger], artifacts, trained.folder, 60)
        assert sorted(steps(tmp_path)) == list(range(1, 61))


def test_a_resumed_training_has_the_rows_of_its_validations_once(tmp_path: Path) -> None:
    """A killed process had logged the first validation, and lost the second; that of step 6 comes again."""
    rows = {
        step: row(step) | ({"val/loss": step / 7, "val/retrieval": 0.5} if step % 2 == 0 else {})
        for step in range(1, 7)
    }

    def logged(step: int, part: str) -> dict[str, float]:
        return {name: value for name, value in rows[step].items() if name.startswith(part)}

    for first, last, lost in ((1, 6, 4), (6, 6, 0)):
        logger = Wandb(offline=True)
        with job_logging([logger], lambda: Job(RUN, "train", "student", {}, tmp_path)):
            logger.resume({step: rows[step] for step in range(1, first)}, first - 1)
            for step in range(first, last + 1):
                logger.log_metrics(logged(step, "train"), step)
                if step % 2 == 0 and step != lost:
                    logger.log_metrics(logged(step, "val"), step)
    found = [row for folder in runs(tmp_path) for row in history(records(folder))]
    assert sorted(row["train/step"] for row in found if "train/loss" in row) == [1, 2, 3, 4, 5, 6]
    assert sorted((row["train/step"], row["val/loss"]) for row in found if "val/loss" in row) == [
        (step, pytest.approx(step / 7)) for step in (2, 4, 6)
    ]


def test_a_resumed_training_calls_resume_of_its_loggers(tmp_path: Path) -> None:
    """Steps of the second objective come after those of the first."""
    logged_step: list[Any] = []
    logger = SimpleNamespace(resume=lambda rows, step: logged_step.append((rows, step)))
    curve = MetricsFile(tmp_path / "metrics.csv")
    for step in (2, 4, 6):
        curve.log_metrics({"train/loss": 1 / step}, step)
    curve.log_metrics({"val/loss": 0.5}, 4)
    curve.log_metrics({"lr-AdamW": 0.5}, 4)
    trainer = SimpleNamespace(global_step=5, loggers=[logger, curve])
    MetricLog(2, steps_before=100).on_train_start(trainer, None)
    assert logged_step == [({102: {"train/loss": 0.5}, 104: {"train/loss": 0.25, "val/loss": 0.5}}, 105)]


# ---- axes


def test_metrics_of_other_callbacks_are_on_the_axis_of_training(tmp_path: Path) -> None:
    logger = Wandb(offline=True)
    with job_logging([logger], lambda: Job(RUN, "train", "student", {}, tmp_path)):
        logger.log_metrics({"lr-AdamW": 0.5, "Monitor.start/cpu": 3.0}, 9)
        logger.log_metrics({"lr-AdamW": 0.25}, 19)
        logger.log_metrics({"own": 1.0})
    (folder,) = runs(tmp_path)
    found = records(folder)
    rows = [{name: value for name, value in row.items() if not name.startswith("_")} for row in history(found)]
    assert rows == [
        {"train/step": 9, "lr-AdamW": 0.5, "Monitor.start/cpu": 3.0},
        {"train/step": 19, "lr-AdamW": 0.25},
        {"train/step": 19, "own": 1.0},  # wandb's own doing: the last value of its axis
    ]
    axes = {metric.name: metric.step_metric for metric in only(found, "metric") if metric.step_metric}
    assert axes.items() >= {"lr-AdamW": "train/step", "Monitor.start/cpu": "train/step"}.items()


# ---- wandb's own command


def worker(outputs: Path, first: int, last: int, end: str = "") -> int:
    free = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment = free | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(outputs), str(first), str(last), end]
    return subprocess.run(command, env=environment, timeout=120, start_new_session=True, capture_output=True).returncode


@pytest.mark.slow
def test_wandb_sync_uploads_every_step_once(tmp_path: Path) -> None:
    """kill -9 of the process and of wandb's own, which has not written the last steps; then a resumed process."""
    outputs = tmp_path / "outputs"
    assert worker(outputs, 1, 300, "kill") == -signal.SIGKILL
    (cut,) = runs(outputs)
    assert len(wandb_files.read(file_of(cut))[1]) > 100
    assert worker(outputs, 251, 320) == 0
    command = [Path(sys.executable).with_name("wandb"), "sync", outputs / "wandb"]
    with serving() as server:
        environment = os.environ | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "a" * 40}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    output = done.stdout + done.stderr
    assert done.returncode == 0 and "ERROR" not in output, output
    uploaded = [row["train/step"] for row in server.history[RUN] if "train/loss" in row]
    assert sorted(uploaded) == list(range(1, 321)), output
