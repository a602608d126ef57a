"""metrics.csv, wandb and TensorBoard tell the same of a training: every metric, every step, every value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm2vec_gen.loggers.base import Job, job_logging
from llm2vec_gen.loggers.tensorboard import TensorBoard
from llm2vec_gen.loggers.wandb import Wandb
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.metrics_file import MetricsFile
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.loggers.wandb_file import history, records, runs
from tests.training.stubs import StubModel, stub_data, stub_losses


def test_all_loggers_carry_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("HOME", str(tmp_path))
    data, loggers = stub_data(), [Wandb(offline=True), TensorBoard(str(tmp_path / "events"))]
    settings = TrainingSettings(max_steps=6, schedule_steps=6, warmup_steps=1, batch_size=4, log_every_n_steps=2)
    with job_logging(loggers, lambda: Job("abc-seed3", "train", "student", {}, tmp_path)):
        fit(
            StubModel(), stub_losses(), data.completions, data.targets, settings,
            TrainerSettings(val_check_interval=3), tmp_path / "run",
            seed=3, loggers=loggers, validation=8,
        )  # fmt: skip
    rows = MetricsFile(tmp_path / "run" / "metrics.csv").rows()
    assert [(row["step"], "val/retrieval" in row) for row in rows] == [(2, 0), (3, 1), (4, 0), (6, 0), (6, 1)]
    (folder,) = runs(tmp_path)
    for row, logged in zip(rows, history(records(folder)), strict=True):
        metrics = {name: value for name, value in logged.items() if not name.startswith("_")}
        assert row | {"train/step": row["step"]} == pytest.approx(metrics | {"step": row["step"]})
    events = accumulators.EventAccumulator(str(tmp_path / "events" / "student-abc-seed3")).Reload()
    assert set(events.Tags()["scalars"]) == {*rows[0], *rows[1]} - {"step"}
    for name in events.Tags()["scalars"]:
        wanted: list[Any] = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows if name in row]
        assert [(event.step, event.value) for event in events.Scalars(name)] == wanted
