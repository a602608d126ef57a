"""Callbacks of Lightning that watch, save and stop: what they see, and what counts as a finished training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, RichProgressBar, Timer

from llm2vec_gen.config import compose
from llm2vec_gen.training.callbacks import EndedEarly, ProgressBar
from llm2vec_gen.training.metrics_file import MetricsFile
from llm2vec_gen.types import InputError
from tests.training.worker import train


class Stop(lightning.Callback):
    """Asks the trainer to stop, as any callback may."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


class DeclaredStop(Stop):
    stops_training = True


@pytest.mark.parametrize(("callback", "step"), [(Stop(1), 1), (Stop(7), 7), (Stop(10), 10)])
def test_an_early_end_is_not_a_finished_training(tmp_path: Path, callback: Any, step: int) -> None:
    with pytest.raises(EndedEarly, match=f"ended after step {step} of 17"):
        train(tmp_path / "a", [callback])
    assert torch.load(tmp_path / "a/resume/last.ckpt", weights_only=True)["global_step"] == step
    resumed, counts = train(tmp_path / "a")
    direct, _ = train(tmp_path / "b")
    assert counts["steps"] == 17
    assert all(torch.equal(value, direct.state_dict()[name]) for name, value in resumed.state_dict().items())


@pytest.mark.parametrize(
    "callback",
    [
        DeclaredStop(5),
        EarlyStopping("train/loss", patience=0, min_delta=100.0),
        Timer(duration={"milliseconds": 1}, interval="step"),
    ],
)
def test_a_stop_rule_of_the_config_finishes_it(tmp_path: Path, callback: Any) -> None:
    _, counts = train(tmp_path, [callback])
    assert 0 < counts["steps"] < 17 and "loss" in counts


def test_stop_rules_are_in_the_digest_and_observers_are_not(tmp_path: Path) -> None:
    def digest(*overrides: str, step: str = "train") -> str:
        return compose(f"paths.outputs={tmp_path}", *overrides).artifact(step).digest

    plain = digest()
    watching = "callbacks=[default,learning_rate_monitor,model_checkpoint,rich_progress_bar]"
    assert digest(watching) == digest("callbacks=none") == plain
    found = [
        digest("callbacks=[default,early_stopping]"),
        digest("callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=9"),
        digest("callbacks=[default,timer]"),
        digest("+callbacks.own._target_=tests.training.test_stopping.DeclaredStop", "+callbacks.own.step=3"),
    ]
    assert len({plain, *found}) == 5
    assert digest("callbacks=[timer]", step="teach") != digest(step="teach")


def test_the_metrics_of_the_curve_can_be_monitored(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []

    class See(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step % 3 == 0:
                seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    train(tmp_path, [See()])
    rows = MetricsFile(tmp_path / "metrics.csv").rows()
    for row, metrics in zip(rows, seen, strict=False):
        assert {name: pytest.approx(value, rel=1e-6) for name, value in row.items() if name != "step"} == metrics


def test_the_best_state_is_kept_and_holds_what_is_trained(tmp_path: Path) -> None:
    keeper = ModelCheckpoint(monitor="train/loss", every_n_train_steps=3)
    train(tmp_path, [keeper])
    rows = MetricsFile(tmp_path / "metrics.csv").rows()
    best = min((row for row in rows if row["step"] % 3 == 0), key=lambda row: row["train/loss"])
    assert Path(keeper.best_model_path).parent == tmp_path / "checkpoints"
    saved = torch.load(keeper.best_model_path, weights_only=True)
    assert saved["global_step"] == best["step"]
    assert not any("frozen" in name for name in saved["state_dict"]) and len(saved["state_dict"]) == 5


def test_early_stopping_counts_rows_of_the_curve(tmp_path: Path) -> None:
    _, counts = train(tmp_path, [EarlyStopping("train/loss", patience=2, min_delta=100.0)])
    assert counts["steps"] == 9  # the first row is the best, the rows of steps 6 and 9 are no better


def test_a_run_that_ends_before_its_first_step_is_not_finished(tmp_path: Path) -> None:
    class AtOnce(Timer):
        def on_train_start(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = True

    with pytest.raises((EndedEarly, InputError)):
        train(tmp_path, [AtOnce(duration={"hours": 1})])


@pytest.mark.parametrize(
    "callback", [EarlyStopping("val/los"), ModelCheckpoint(monitor="loss"), EarlyStopping("train/losss")]
)
def test_a_metric_that_is_not_logged_is_named_before_training(tmp_path: Path, callback: Any) -> None:
    with pytest.raises(InputError, match=f"{type(callback).__name__} monitors '.*', which is not logged.*train/loss"):
        train(tmp_path, [callback])
    assert not (tmp_path / "metrics.csv").exists()


def test_columns_of_other_callbacks_come_and_go(tmp_path: Path) -> None:
    with pytest.raises(EndedEarly):
        train(tmp_path, [Stop(7), LearningRateMonitor("step")])
    _, counts = train(tmp_path)  # continues without it
    rows = MetricsFile(tmp_path / "metrics.csv").rows()
    assert [row["step"] for row in rows if "train/loss" in row] == [3, 6, 9, 12, 15, 17]
    assert any("lr-AdamW" in row for row in rows)
    assert counts["loss"] == rows[-1]["train/loss"]


def test_a_bar_of_lightning_takes_the_place_of_ours(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    _, counts = train(tmp_path, [ProgressBar(), RichProgressBar()])
    assert counts["steps"] == 17
    assert "17/17" not in capfd.readouterr().err.replace("\r", "")  # ours has nothing to say beside it
