"""How a training ends before its last step: by a signal, by a rule of the config, or by anything else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from llm2vec_gen.errors import InputError, Unfinished


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


def check_monitors(callbacks: Iterable[Any], known: Iterable[str], validation: Iterable[str] = ()) -> None:
    """Raise InputError where a callback monitors a metric that nothing logs, with those that are logged.

    validation: the metrics that a validation would log, which has no data where they are not among the known ones.
    """
    known = list(known)
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in known and getattr(callback, "strict", True):
            without = [name for name in validation if name not in known]
            hint = ""
            if without and monitor.startswith("val"):
                hint = f"; {', '.join(without)} need data.validation over 0, and trainer.limit_val_batches too"
            raise InputError(
                f"{type(callback).__name__} monitors {monitor!r}, which is not logged; expected one of "
                f"{', '.join(known)}{hint}"
            )


def ended_by_rule(trainer: Any) -> bool:
    """Whether a stop rule has ended the run; a trainer that stops otherwise will go on."""
    return bool(trainer.should_stop) and any(map(has_ended, trainer.callbacks))
