"""The state from which a stopped or killed run continues bit for bit."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from llm2vec_gen.atomic_files import replacing
from llm2vec_gen.distributed import collectives
from llm2vec_gen.training.callbacks.metric_log import MetricLog
from llm2vec_gen.training.callbacks.stopping import Stopped, ended_by_rule


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
        self._due = False  # whether this step is to be saved
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
        self._due = bool(stop_signal or trainer.should_stop or step % self.every_n_steps == 0)
        self._due = self._due or step == trainer.max_steps
        if not _validates_now(trainer):
            self._save_and_stop(trainer, stop_signal)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Save what is due after the validation of the same step: one that comes after it would be left out by the run
        that continues."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self._finish(trainer, pl_module)
        self._save_and_stop(trainer, self.stop_signal())

    def _save_and_stop(self, trainer: Any, stop_signal: int) -> None:
        if stop_signal or trainer.should_stop or self._due:
            self._save(trainer)
        if stop_signal and trainer.global_step < trainer.max_steps:
            raise Stopped(stop_signal, trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._saved != trainer.global_step:  # stopped at the end of an epoch
            self._finish(trainer, pl_module)
            self._save(trainer)

    def _finish(self, trainer: Any, pl_module: Any) -> None:
        """Log the last row before the state is saved, since logging resets the interval."""
        if ended_by_rule(trainer):
            for callback in trainer.callbacks:
                if isinstance(callback, MetricLog):
                    callback.finish(trainer, pl_module)

    def stop_signal(self) -> int:
        """Return the signal that asks the run to stop, the same on all ranks even if one alone received it; 0: none."""
        return collectives.all_reduce_max(self._signal or 0)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["identity"] = self._identity
        checkpoint["ended"] = ended_by_rule(trainer)
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


def _validates_now(trainer: Any) -> bool:
    """Whether Lightning validates after the training step that just ended; it has no public way to ask."""
    loop = trainer.fit_loop
    return bool(sum(trainer.num_val_batches)) and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def _random_state() -> dict[str, torch.Tensor]:
    """Of what draws random numbers in a step (dropout in adapters)."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else state


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    if "cpu" in state:
        torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
