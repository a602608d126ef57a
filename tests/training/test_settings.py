from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from llm2vec_gen.training.settings import TrainerSettings, TrainingSettings, check_losses
from llm2vec_gen.types import InputError


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.0), (1, 0.01), (99, 0.99), (100, 1.0), (101, 19899 / 19900), (5000, 15000 / 19900), (20000, 0), (20001, 0)],
)
def test_the_rate_warms_up_then_falls_linearly_over_the_schedule(step: int, factor: float) -> None:
    settings = TrainingSettings(max_steps=5000, schedule_steps=20000, warmup_steps=100, learning_rate=3e-4)
    assert settings.rate_factor(step) == pytest.approx(factor, abs=1e-15)
    assert settings.rate(step) == pytest.approx(3e-4 * factor, abs=1e-18)


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert TrainingSettings(warmup_steps=0).rate_factor(0) == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_steps": 0}, "training.max_steps=0"),
        ({"max_steps": 2.5}, "training.max_steps=2.5"),
        ({"batch_size": -1}, "training.batch_size=-1"),
        ({"learning_rate": 0}, "training.learning_rate=0"),
        ({"learning_rate": math.nan}, "training.learning_rate=nan"),
        ({"learning_rate": "3e-4"}, "training.learning_rate=3e-4"),
        ({"weight_decay": -0.1}, "training.weight_decay=-0.1"),
        ({"max_steps": 30000}, "raise training.schedule_steps"),
        ({"warmup_steps": 20000}, "training.warmup_steps=20000"),
        ({"prefetch_batches": -1}, "training.prefetch_batches=-1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        TrainingSettings(**changes)


def test_more_devices_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert TrainerSettings().ranks == 1
    with pytest.raises(InputError, match=r"trainer\.devices=2"):
        TrainerSettings(devices=2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert TrainerSettings(devices=2, num_nodes=2).ranks == 4
    with pytest.raises(InputError, match="4 are running"):
        TrainerSettings()


@pytest.mark.parametrize("kind", [SimpleNamespace, dict], ids=["built", "config"])
def test_a_loss_must_be_left(kind: type) -> None:
    check_losses({"alignment": kind(weight=0), "reconstruction": kind(weight=0.5)})
    check_losses({"alignment": kind()})  # a weight of 1 where none is named
    for losses in (None, {}, {"alignment": kind(weight=0), "reconstruction": kind(weight=0.0)}):
        with pytest.raises(InputError, match="no loss is left"):
            check_losses(losses)
    for weight in (-1, math.inf, math.nan):
        with pytest.raises(InputError, match=r"loss\.alignment\.weight"):
            check_losses({"alignment": kind(weight=weight), "reconstruction": kind(weight=1)})
