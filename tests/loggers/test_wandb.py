"""What wandb wrote offline: one run per job, own x-axes, finished whatever ends the job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm2vec_gen import artifacts
from llm2vec_gen.artifacts import Artifact
from llm2vec_gen.errors import InputError
from llm2vec_gen.loggers.base import Job, job_logging, log_artifact
from llm2vec_gen.loggers.wandb import Wandb
from tests.builders import tiny_backbone_folder
from tests.loggers.wandb_file import config, history, only, records, runs

ROOT = Path(__file__).parents[2]


def job(outputs: Path, step: str = "run", group: str | None = "sweep-7") -> Job:
    return Job("abc-seed1", step, "student", {"training": {"max_steps": 5}}, outputs, group)


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test finds a login, and none leaves files at home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "staged"))


def test_a_job_is_one_run_with_its_own_axes(tmp_path: Path) -> None:
    embedded = Artifact(tmp_path, "embed", "a+b", {}, {"complete": "123"})
    embedded.write_file("x.txt", "x")
    embedded.finish(rows=3)
    logger = Wandb(tags=["ablation"], offline=True)
    with job_logging([logger], lambda: job(tmp_path)):
        for step in (10, 20, 15, 20):  # a resumed training steps back
            logger.log_metrics({"train/loss": step / 10}, step)
        logger.log_metrics({"evaluate/m/e/t/f": 0.5}, 5)
        logger.log_table("interpret/readings", ["query", "text"], [["why", None], ["how", "so"]], 5)
        logger.log_histogram("train/suffix_norms", [1.0, 2.0, 2.0], 20)
        log_artifact([logger], artifacts, embedded.folder, 5)
    (folder,) = runs(tmp_path)
    found = records(folder)
    (run,) = only(found, "run")
    assert (run.run_id, run.run_group, run.job_type, list(run.tags)) == ("abc-seed1", "sweep-7", "run", ["ablation"])
    assert config(run)["training"] == {"max_steps": 5}
    rows = history(found)
    steps = [(row["train/step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert steps == [(10, 1.0), (20, 2.0), (15, 1.5), (20, 2.0)]
    assert {"evaluate/step": 5, "evaluate/m/e/t/f": 0.5}.items() <= rows[4].items()
    axes = {metric.glob_name: metric.step_metric for metric in only(found, "metric") if metric.glob_name}
    assert axes == {f"{part}/*": f"{part}/step" for part in ("train", "evaluate", "interpret")}
    (reference,) = [artifact for artifact in only(found, "artifact") if artifact.type == "embed"]
    assert (embedded.folder / "x.txt").as_uri() in [entry.ref for entry in reference.manifest.contents]
    (table,) = (folder / "files").rglob("*.table.json")
    assert json.loads(table.read_text())["data"] == [["why", None], ["how", "so"]]
    assert [end.exit_code for end in only(found, "exit")] == [0]


def test_jobs_of_one_process_are_runs_of_their_own(tmp_path: Path) -> None:
    for number in range(2):
        logger = Wandb(offline=True)
        with job_logging([logger], lambda number=number: Job(f"id{number}", "train", "n", {}, tmp_path)):  # type: ignore
            logger.log_metrics({"train/loss": float(number)}, 1)
    found = [records(folder) for folder in runs(tmp_path)]
    assert {only(rows, "run")[0].run_id for rows in found} == {"id0", "id1"}
    assert all(len(history(rows)) == 1 and len(only(rows, "exit")) == 1 for rows in found)


def test_nothing_is_opened_before_there_is_something_to_log(tmp_path: Path) -> None:
    with pytest.raises(InputError), job_logging([Wandb(offline=True)], lambda: job(tmp_path)):
        raise InputError("a wrong config")
    assert not runs(tmp_path)


def test_without_a_login_the_error_names_what_to_do(tmp_path: Path) -> None:
    """In a process of its own, since wandb reads its settings once."""
    script = f"""
import pathlib
from llm2vec_gen.loggers.base import Job
from llm2vec_gen.loggers.wandb import Wandb
Wandb().start(Job("a", "run", "n", {{}}, pathlib.Path({str(tmp_path)!r})))
"""
    free = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    done = subprocess.run([sys.executable, "-c", script], env=free, capture_output=True, text=True, timeout=120)
    assert "InputError: logger=wandb, but nobody is logged in" in done.stderr
    assert "offline=true" in done.stderr and "logger=csv" in done.stderr
    for mode in ("offline", "disabled"):
        env = free | {"WANDB_MODE": mode}
        assert subprocess.run([sys.executable, "-c", script], env=env, timeout=120).returncode == 0


# ---- complete jobs


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small query log, answered by replay, over a tiny backbone; scored by exact decoding of a few queries."""
    folder = tmp_path_factory.mktemp("world")
    backbone = tiny_backbone_folder(folder, family="qwen3")
    rows = [{"query": f"what is {n} and {n * 7 % 13}?", "answer": f"it is {n * n % 97}."} for n in range(60)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "experiment=smoke", "data=query_log", f"data.path={folder / 'log.jsonl'}", "data.answer_column=answer",
        "generator=replay", f"backbone.path={backbone}", "training.max_steps=6", "training.schedule_steps=6",
        "training.checkpoint_every_n_steps=2", "trainer.log_every_n_steps=1", "training.prefetch_batches=0",
        "evaluation=[decoding]", "evaluation.decoding.limit=3", "evaluation.decoding.max_new_tokens=4",
        "instruction=none", "interpreter.decoding.max_new_tokens=4", "interpret.limit=2",
        "callbacks.snapshots.max_new_tokens=4", "callbacks.snapshots.queries=2",
        "logger=wandb", "callbacks.snapshots.every_n_steps=3",
    ]  # fmt: skip


def start(outputs: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *arguments, f"paths.outputs={outputs}"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=env | {"WANDB_MODE": "offline"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_each_job_of_a_sweep_is_one_run_of_its_first_rank(tmp_path: Path, overrides: list[str]) -> None:
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.device=cpu"]
    sweep = start(tmp_path, "-m", "_wandb.cli_version=0", "seed=1,2", *ranks, *overrides)
    _, output = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, output
    found = [records(folder) for folder in runs(tmp_path)]
    assert len(found) == 2
    (sweep_folder,) = (tmp_path / "sweeps").iterdir()
    for rows, seed in zip(found, (1, 2), strict=True):
        (run,) = only(rows, "run")
        assert run.run_id.endswith(f"-seed{seed}")
        assert (run.run_group, run.job_type, config(run)["loss"]["alignment"]["weight"]) == (
            sweep_folder.name,
            "run",
            1.0,
        )
        logged = history(rows)
        assert [row["train/step"] for row in logged if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
        assert [row["train/step"] for row in logged if "train/examples/nrows" in row] == [3, 6]
        assert [row["train/step"] for row in logged if "train/suffix_norms/values" in row] == [3, 6]
        assert any("evaluate/llm2vec_gen/decoding/decode_exact/exact" in row for row in logged)
        assert any("interpret/readings/nrows" in row for row in logged)
        kinds = [artifact.type for artifact in only(rows, "artifact")]
        assert {"complete", "embed", "train", "evaluate", "interpret", "tabulate"} <= set(kinds)
        assert [end.exit_code for end in only(rows, "exit")] == [0]
    assert not (Path.home() / ".local" / "share" / "wandb").exists()


@pytest.mark.slow
def test_a_stopped_job_ends_its_run_and_continues_it(tmp_path: Path, overrides: list[str]) -> None:
    long = [*overrides, "training.max_steps=2000", "training.schedule_steps=2000", "trainer.device=cpu"]
    first = start(tmp_path, *long)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("train/*/resume/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    _, output = first.communicate(timeout=120)
    assert first.returncode == 143, output
    (curve,) = tmp_path.glob("train/*/metrics.csv")
    saved = len(curve.read_text().splitlines())
    again = start(tmp_path, *long)
    while len(curve.read_text().splitlines()) < saved + 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    again.send_signal(signal.SIGTERM)
    _, output = again.communicate(timeout=120)
    assert again.returncode == 143, output
    one, two = (records(folder) for folder in runs(tmp_path))
    assert only(one, "run")[0].run_id == only(two, "run")[0].run_id
    assert [[end.exit_code for end in only(rows, "exit")] for rows in (one, two)] == [[143], [143]]
