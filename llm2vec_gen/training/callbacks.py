"""What happens around the steps: metrics are logged, a bar moves, the state is saved so that a stop costs little."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from tqdm import tqdm

from llm2vec_gen.artifacts.files import replacing
from llm2vec_gen.training import ranks
from llm2vec_gen.training.metrics_file import MetricsFile


class Stopped(SystemExit):
    """A signal stopped the run after its state was saved; exit status 128 + the signal's number, as in shells."""

    def __init__(self, signum: int, step: int):
        super().__init__(128 + signum)
        self.signum, self.step = signum, step


class MetricLog(Callback):
    """Every `every_n_steps` steps, and after the last one, one row of metrics to each logger of the trainer.

    Between them nothing waits for the device. `steps_before`: those of earlier lessons in the same job, after which
    loggers that know one run go on counting.
    """

    def __init__(self, every_n_steps: int, steps_before: int = 0):
        self.every_n_steps, self.steps_before = every_n_steps, steps_before

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.keep_until(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.remember(batch)
        step = trainer.global_step
        if step % self.every_n_steps == 0 or step == trainer.max_steps:
            readings = pl_module.readings()
            for logger in trainer.loggers:
                logger.log_metrics(readings, step if isinstance(logger, MetricsFile) else self.steps_before + step)


class ProgressBar(Callback):
    """Steps, rate and loss on standard error of the first rank, if that is a terminal; silent otherwise."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero and sys.stderr.isatty():
            self._bar = tqdm(desc="train", total=trainer.max_steps, initial=trainer.global_step, unit="step")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._bar is not None:
            loss = pl_module.latest.get("train/loss")
            if loss is not None:
                self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._bar.update()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


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
        self._asked: int | None = None
        self._random: dict[str, torch.Tensor] = {}
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # Here and not before: Lightning's own handler of SIGTERM, installed by now, talks to other ranks inside of it.
        self._asked = None
        _set_random_state(self._random)
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._ask) for number in self.SIGNALS}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, asked = trainer.global_step, self.asked()
        if asked or step % self.every_n_steps == 0 or step == trainer.max_steps:
            self._save(trainer)
        if asked and step < trainer.max_steps:
            raise Stopped(asked, step)

    def asked(self) -> int:
        """The signal that asks the run to stop, on all ranks alike though it may have reached one alone; 0: none."""
        return ranks.largest(self._asked or 0)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["identity"] = self._identity
        checkpoint["random"] = ranks.gather(_random_state())

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["random"]
        self._random = states[ranks.own() % len(states)]

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._give_back()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _ask(self, number: int, frame: Any) -> None:
        """A signal's handler: the step is finished first. A second Ctrl-C does not wait."""
        if self._asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number

    def _save(self, trainer: Any) -> None:
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.path)  # every rank takes part, the first one writes
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for torn in self.path.parent.glob(".tmp-*"):  # by a kill while it was written
            torn.unlink()
        with replacing(self.path) as temporary:
            trainer.save_checkpoint(temporary)


def _random_state() -> dict[str, torch.Tensor]:
    """Of what draws random numbers in a step (dropout in adapters)."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else state


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    if "cpu" in state:
        torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
