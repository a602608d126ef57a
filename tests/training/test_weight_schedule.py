"""Scheduled weights in a run: the weighted sum of each step, exact resume, refusals."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.schedule import WeightSchedule
from llm2vec_gen.training.callbacks import Stopped
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.training.stubs import StubModel, stub_data, stub_losses
from tests.training.worker import Signal

RISING = {"kind": "linear", "from": 0.0, "to": 1.0, "start": 1, "end": 6}


def train(folder: Path, schedule: dict | None = RISING, callbacks: Any = ()) -> StubModel:
    model, data, losses = StubModel(), stub_data(22), stub_losses(2.0, 3.0)
    losses["reconstruction"].schedule = WeightSchedule.of(schedule)
    settings = TrainingSettings(8, 12, 2, 4, 0.05, log_every_n_steps=1, checkpoint_every_n_steps=100)
    fit(model, losses, data.completions, data.targets, settings, TrainerSettings(), folder, 3, callbacks=callbacks)
    return model


def rows(folder: Path) -> list[dict[str, float]]:
    header, *lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [{name: float(value) for name, value in zip(header, line, strict=True) if value} for line in lines]


def test_each_step_is_weighted_by_its_place_on_the_schedule(tmp_path: Path) -> None:
    train(tmp_path)
    factors = [0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0]  # of steps 0 to 7
    for row, factor in zip(rows(tmp_path), factors, strict=True):
        assert row["train/weight_reconstruction"] == pytest.approx(3 * factor)
        expected = 2 * row["train/alignment"] + 3 * factor * row["train/reconstruction"]
        assert row["train/loss"] == pytest.approx(expected, rel=1e-5)


def test_a_stopped_run_continues_on_its_schedule(tmp_path: Path) -> None:
    straight = train(tmp_path / "straight")
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", callbacks=[Signal(3, signal.SIGTERM)])
    continued = train(tmp_path / "stopped")
    for one, other in zip(straight.parameters(), continued.parameters(), strict=True):
        assert torch.equal(one, other)
    names = ("train/loss", "train/weight_reconstruction")
    assert [[row[name] for name in names] for row in rows(tmp_path / "stopped")] == [
        [row[name] for name in names] for row in rows(tmp_path / "straight")
    ]


def test_another_schedule_does_not_continue_a_run(tmp_path: Path) -> None:
    schedules = (None, RISING, RISING | {"end": 7})
    for number, first in enumerate(schedules[:2]):
        with pytest.raises(Stopped):
            train(tmp_path / str(number), first, callbacks=[Signal(3, signal.SIGTERM)])
        for other in schedules:
            if other != first:
                with pytest.raises(InputError, match=r"loss\.reconstruction\.schedule"):
                    train(tmp_path / str(number), other)


@pytest.mark.parametrize(
    ("schedule", "weight", "warned"), [(None, 1e-6, True), (RISING, 3.0, False), (RISING | {"from": 1e-6}, 3.0, True)]
)
def test_only_losses_that_count_from_the_start_are_compared(
    tmp_path: Path, schedule: dict | None, weight: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A loss that a schedule brings in later is small at first on purpose."""
    model, data, losses = StubModel(), stub_data(22), stub_losses(2.0, weight)
    losses["reconstruction"].schedule = WeightSchedule.of(schedule)
    settings = TrainingSettings(1, 12, 0, 4, 0.05, log_every_n_steps=1)
    fit(model, losses, data.completions, data.targets, settings, TrainerSettings(), tmp_path, 3)
    assert ("loss.reconstruction.weight x loss" in caplog.text) == warned
