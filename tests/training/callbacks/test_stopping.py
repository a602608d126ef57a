"""Callbacks of Lightning that watch, save and stop: what they see, and what counts as a finished training."""

from __future__ import annotations

import copy
import signal
import socket
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)

from llm2vec_gen.config import compose, config_digest
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.callbacks import EndedEarly, ProgressBar, Stopped
from llm2vec_gen.training.metrics_file import MetricsFile
from tests.training.test_fit import start
from tests.training.worker import Signal, Stop, train


class DeclaredStop(Stop):
    stops_training = True


class Watcher(lightning.Callback):
    only_observes = True


def make_stop(step: int) -> Stop:
    return Stop(step)


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


@pytest.mark.parametrize(
    "rule", [EarlyStopping("train/loss", patience=50), Timer(duration={"hours": 9}), DeclaredStop(99)]
)
def test_the_stop_of_another_callback_is_not_that_of_a_rule(tmp_path: Path, rule: Any) -> None:
    """A class that declares itself is believed; what Lightning's rules have done can be asked."""
    if isinstance(rule, DeclaredStop):
        _, counts = train(tmp_path, [rule, Stop(7)])
        assert counts["steps"] == 7
        return
    with pytest.raises(EndedEarly, match="ended after step 7 of 17"):
        train(tmp_path, [rule, Stop(7)])
    assert [row["step"] for row in MetricsFile(tmp_path / "metrics.csv").rows()] == [3, 6]


@pytest.mark.parametrize("step", [6, 7])
def test_a_run_killed_after_its_stop_rule_trains_no_further(tmp_path: Path, step: int) -> None:
    """The state says that a rule has ended the run; the artifact was not finished yet."""
    rule = EarlyStopping("train/loss", patience=1, min_delta=100.0) if step == 6 else DeclaredStop(step)
    model, counts = train(tmp_path, [copy.deepcopy(rule)])
    assert counts["steps"] == step
    again, recounts = train(tmp_path, [copy.deepcopy(rule)])
    assert recounts["steps"] == step and recounts["loss"] == counts["loss"]
    assert [row["step"] for row in MetricsFile(tmp_path / "metrics.csv").rows()] == [3, 6, 7][: 2 + (step == 7)]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_stop_of_one_rank_is_that_of_all(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "STOP_RANK_1_AT": "7"}
    processes = [start(tmp_path, RANK=str(rank), LOCAL_RANK=str(rank), **both) for rank in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 1 and "ended after step 7 of 17" in said
    assert torch.load(tmp_path / "resume/last.ckpt", weights_only=True)["global_step"] == 7


def test_a_stop_rule_continues_where_it_was(tmp_path: Path) -> None:
    """Its patience is counted over the whole run, not since the last kill."""
    rule = EarlyStopping("train/loss", patience=3, min_delta=100.0)
    whole, counts = train(tmp_path / "a", [copy.deepcopy(rule)])
    assert counts["steps"] == 12
    with pytest.raises(Stopped):
        train(tmp_path / "b", [copy.deepcopy(rule), Signal(7, signal.SIGTERM)])
    resumed, recounts = train(tmp_path / "b", [copy.deepcopy(rule)])
    assert recounts["steps"] == 12
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_a_second_interrupt_is_an_interrupt(tmp_path: Path) -> None:
    class Interrupt(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 6:
                raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, [Interrupt(), DeclaredStop(99)])
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "callbacks",
    [[RichProgressBar(), TQDMProgressBar()], [EarlyStopping("train/loss"), EarlyStopping("train/loss", patience=9)]],
)
def test_callbacks_that_lightning_refuses_are_one_line(tmp_path: Path, callbacks: list[Any]) -> None:
    with pytest.raises(InputError, match=r"^Lightning refuses these arguments or callbacks: .+") as refused:
        train(tmp_path, callbacks)
    assert "\n" not in str(refused.value)


def test_whatever_may_change_the_training_is_in_the_digest(tmp_path: Path) -> None:
    def plan(*overrides: str) -> Any:
        return compose(f"paths.outputs={tmp_path}", *overrides)

    def digests(*overrides: str) -> tuple[str, str]:
        return plan(*overrides).artifact("train").digest, config_digest(plan(*overrides).settings, "train")

    here, lightnings = "+callbacks.own._target_=tests.training.callbacks.test_stopping", "lightning.pytorch.callbacks"
    plain = digests()
    for observer in (f"{here}.Watcher", f"+callbacks.own._target_={lightnings}.DeviceStatsMonitor",
                     f"+callbacks.own._target_={lightnings}.lr_monitor.LearningRateMonitor"):  # fmt: skip
        assert digests(observer) == plain, observer
    averaging = (f"+callbacks.own._target_={lightnings}.StochasticWeightAveraging", "+callbacks.own.swa_lrs=0.1")
    different = [
        digests(*averaging),
        digests(f"{here}.Stop", "+callbacks.own.step=3"),
        digests(f"{here}.make_stop", "+callbacks.own.step=3"),  # a function that returns one
        digests("callbacks=[early_stopping]"),
        digests("callbacks=[early_stopping]", "trainer.log_every_n_steps=5"),  # when it looks
    ]
    for kind in zip(plain, *different, strict=True):
        assert len(set(kind)) == 6
    assert digests("trainer.log_every_n_steps=5") == plain
    assert digests("callbacks.progress_bar=null") == plain


def test_the_artifact_of_an_early_end_is_not_that_of_a_whole_run(tmp_path: Path) -> None:
    """Whatever a config adds, the same command without it must not return what it made."""
    for step in ("train", "teach"):
        plans = [compose(f"paths.outputs={tmp_path}", *own) for own in ((), ("callbacks=[default,timer]",))]
        assert plans[0].artifact(step).folder != plans[1].artifact(step).folder
        assert plans[0].job(step).id != plans[1].job(step).id  # one wandb run each


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
        digest("+callbacks.own._target_=tests.training.callbacks.test_stopping.DeclaredStop", "+callbacks.own.step=3"),
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


def test_a_metric_of_another_callback_can_be_monitored(tmp_path: Path) -> None:
    class Own(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            pl_module.log("own/score", float(trainer.global_step), logger=False)

    keeper = ModelCheckpoint(monitor="own/score", mode="max", every_n_train_steps=5)
    _, counts = train(tmp_path / "a", [Own(), keeper, EarlyStopping("own/score", mode="max", patience=9)])
    assert counts["steps"] == 17 and float(keeper.best_model_score) == 15
    with pytest.raises(InputError, match=r"ModelCheckpoint monitors 'own/scor', which is not logged.*own/score"):
        train(tmp_path / "b", [Own(), ModelCheckpoint(monitor="own/scor")])


def test_the_metrics_that_can_be_monitored_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        train(tmp_path / "a", [EarlyStopping("val/loss")])
    train(tmp_path / "b")
    columns = (tmp_path / "b/metrics.csv").read_text().splitlines()[0].split(",")[1:]
    assert all(column in str(refused.value) for column in columns)


def test_a_checkpoint_without_an_interval_is_that_of_the_end(tmp_path: Path) -> None:
    keeper = ModelCheckpoint(monitor="train/loss")
    train(tmp_path, [keeper])
    assert torch.load(keeper.best_model_path, weights_only=True)["global_step"] == 17


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
