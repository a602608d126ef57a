"""Callbacks: log metrics, show progress, save the state to resume from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from llm2vec_gen.atomic_files import replacing
from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError, Unfinished
from llm2vec_gen.loggers.base import ResumableLogger
from llm2vec_gen.progress import Progress
from llm2vec_gen.training.metrics_file import MetricsFile


class Stopped(SystemExit):
    """A signal stopped the run after its state was saved; exit status 128 + the signal's number, as in shells."""

    def __init__(self, signum: int, step: int):
        super().__init__(128 + signum)
        self.signum, self.step = signum, step


class EndedEarly(Unfinished):
    """Training ended before `max_steps` by a rule that the hashed config does not hold; its state was saved."""


def stops_training(callback: Any) -> bool:
    """Whether a callback (or its class) may end training on purpose: its settings are then part of the digest.

    True for Lightning's EarlyStopping and Timer, and for classes with `stops_training = True`.
    """
    kind = callback if isinstance(callback, type) else type(callback)
    return issubclass(kind, EarlyStopping | Timer) or bool(getattr(kind, "stops_training", False))


def has_ended(callback: Any) -> bool:
    """Whether this stop rule has asked the trainer to stop; True for rules of your own."""
    if isinstance(callback, EarlyStopping):
        return callback.stopping_reason is not EarlyStoppingReason.NOT_STOPPED
    if isinstance(callback, Timer):
        left = callback.time_remaining()
        return left is not None and left <= 0
    return stops_training(callback)


def check_monitors(callbacks: Iterable[Any], known: Iterable[str]) -> None:
    """Raise InputError where a callback monitors a metric that nothing logs, with those that are logged."""
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in known and getattr(callback, "strict", True):
            raise InputError(
                f"{type(callback).__name__} monitors {monitor!r}, which is not logged; expected one of "
                f"{', '.join(known)}"
            )


class MetricLog(Callback):
    """Every `every_n_steps` steps, and after the last one, one row of metrics to each logger of the trainer.

    The same values go to `trainer.callback_metrics`, where EarlyStopping and ModelCheckpoint look for what they watch.
    Between the rows nothing waits for the device. `steps_before`: those of earlier objectives in the same job, after
    which loggers that know one run go on counting.
    """

    def __init__(self, every_n_steps: int, steps_before: int = 0):
        self.every_n_steps, self.steps_before = every_n_steps, steps_before
        self._logged = 0  # the step of the last row
        self._checked = False  # that every monitored metric is logged

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._logged = trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.keep_until(trainer.global_step)
        for logger in trainer.loggers:
            if isinstance(logger, ResumableLogger):
                logger.resume(self._rows(trainer), self.steps_before + trainer.global_step)

    def _rows(self, trainer: Any) -> dict[int, dict[str, float]]:
        """The rows of the curve so far, by the step that loggers of the whole job know."""
        rows = [row for logger in trainer.loggers if isinstance(logger, MetricsFile) for row in logger.rows()]
        return {
            self.steps_before + int(row["step"]): {name: value for name, value in row.items() if name != "step"}
            for row in rows
            if "train/loss" in row
        }

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.update(batch)
        if trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps:
            self._log(trainer, pl_module)
            for rule in trainer.early_stopping_callbacks:  # a run is one epoch to Lightning: its end would be too late
                rule.on_train_epoch_end(trainer, pl_module)

    def finish(self, trainer: Any, pl_module: Any) -> None:
        """Log the last row of a run that a stop rule has ended between two rows; one that will go on has none."""
        if self._logged < trainer.global_step:
            self._log(trainer, pl_module)

    def _log(self, trainer: Any, pl_module: Any) -> None:
        step = self._logged = trainer.global_step
        interval_metrics = pl_module.interval_metrics()
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in interval_metrics.items()})
        if not self._checked and step > 1:  # callbacks after this one have logged by the second step
            check_monitors(trainer.callbacks, trainer.callback_metrics)
            self._checked = True
        trainer.progress_bar_metrics["loss"] = interval_metrics["train/loss"]  # of Lightning's own bars
        for logger in trainer.loggers:
            logger.log_metrics(interval_metrics, step if isinstance(logger, MetricsFile) else self.steps_before + step)


class ProgressBar(Callback):
    """Steps, rate and loss of the first rank: a bar on a terminal, a log line every 30 seconds elsewhere."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            name = f"teach {pl_module.name}" if hasattr(pl_module, "objective") else "train"
            self._progress = Progress(name, trainer.max_steps, "steps", trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._progress is not None:
            losses = ("loss", *pl_module.losses) if len(pl_module.losses) > 1 else ("loss",)
            shown = {name: pl_module.latest[f"train/{name}"] for name in losses if f"train/{name}" in pl_module.latest}
            if "train/tokens_per_second" in pl_module.latest:
                shown["tokens/s"] = pl_module.latest["train/tokens_per_second"]
            self._progress.advance_to(trainer.global_step, **shown)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None


class ResumeCheckpoint(Checkpoint):
    """Saves all that is needed to continue bit for bit as `folder/last.ckpt`: every `every_n_steps` steps, after the
    last one, and when SIGINT or SIGTERM asks the run to stop.

    `identity` is what must be the same for the run to be continued. The file is written beside its place and renamed,
    so a kill or a full disk leaves the one before. Lightning calls this callback after all others.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, folder: Path, every_n_steps: int, identity: dict[str, Any]):
        self.path = folder / "last.ckpt"
        self.every_n_steps = every_n_steps
        self._identity = identity
        self._signal: int | None = None
        self._saved = 0  # the step of the last state
        self._random: dict[str, torch.Tensor] = {}
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # Here and not before: Lightning's own handler of SIGTERM, installed by now, talks to other ranks inside of it.
        self._signal, self._saved = None, trainer.global_step
        _set_random_state(self._random)
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        state = collectives.all_reduce_max(2 * (self._signal or 0) + bool(trainer.should_stop))  # one exchange a step
        step, stop_signal = trainer.global_step, state // 2
        trainer.should_stop = trainer.should_stop or bool(state % 2)  # one rank's stop is that of all
        self._finish(trainer, pl_module)
        if stop_signal or trainer.should_stop or step % self.every_n_steps == 0 or step == trainer.max_steps:
            self._save(trainer)
        if stop_signal and step < trainer.max_steps:
            raise Stopped(stop_signal, step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._saved != trainer.global_step:  # stopped at the end of an epoch
            self._finish(trainer, pl_module)
            self._save(trainer)

    def _finish(self, trainer: Any, pl_module: Any) -> None:
        """Log the last row before the state is saved, since logging resets the interval."""
        if _ended(trainer):
            for callback in trainer.callbacks:
                if isinstance(callback, MetricLog):
                    callback.finish(trainer, pl_module)

    def stop_signal(self) -> int:
        """Return the signal that asks the run to stop, the same on all ranks even if one alone received it; 0: none."""
        return collectives.all_reduce_max(self._signal or 0)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["identity"] = self._identity
        checkpoint["ended"] = _ended(trainer)
        checkpoint["random"] = collectives.all_gather(_random_state())

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        trainer.should_stop = checkpoint.get("ended", False)  # by a stop rule: there is nothing left to train
        states = checkpoint["random"]
        self._random = states[collectives.rank() % len(states)]

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _on_signal(self, number: int, frame: Any) -> None:
        """Handle a signal: finish the training step first. A second Ctrl-C does not wait."""
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def _save(self, trainer: Any) -> None:
        self._saved = trainer.global_step
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.path)  # every rank takes part, the first one writes
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for torn in self.path.parent.glob(".tmp-*"):  # by a kill while it was written
            torn.unlink()
        with replacing(self.path) as temporary:
            trainer.save_checkpoint(temporary)


def _ended(trainer: Any) -> bool:
    """Whether a stop rule has ended the run; a trainer that stops otherwise will go on."""
    return bool(trainer.should_stop) and any(map(has_ended, trainer.callbacks))


def _random_state() -> dict[str, torch.Tensor]:
    """Of what draws random numbers in a step (dropout in adapters)."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else state


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    if "cpu" in state:
        torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
