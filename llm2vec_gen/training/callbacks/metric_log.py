"""Rows of metrics at each logging interval, for every logger and for the callbacks that monitor a metric."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from llm2vec_gen.loggers.base import ResumableLogger
from llm2vec_gen.training.callbacks.stopping import check_monitors
from llm2vec_gen.training.metrics_file import MetricsFile

log = logging.getLogger(__name__)


class MetricLog(Callback):
    """Every `every_n_steps` steps, and after the last one, one row of metrics to each logger of the trainer; after each
    validation another one, with val/*.

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
        found: dict[int, dict[str, float]] = {}
        for row in rows:
            if "train/loss" in row or "val/loss" in row:
                metrics = {name: value for name, value in row.items() if name != "step"}
                found.setdefault(self.steps_before + int(row["step"]), {}).update(metrics)
        return found

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.update(batch)
        if trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps:
            self._log(trainer, pl_module)
            for rule in trainer.early_stopping_callbacks:  # a run is one epoch to Lightning: its end would be too late
                if not (rule.monitor or "").startswith("val/"):
                    rule.on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or not pl_module.validated:
            return
        self._to_loggers(trainer, pl_module.validated)
        if trainer.is_global_zero:
            values = ", ".join(f"{name} {value:.4g}" for name, value in pl_module.validated.items())
            log.info("validation after step %d: %s", trainer.global_step, values)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.max_steps == -1:  # a trainer built by hand: the end of its last epoch is that of the run
            self.finish(trainer, pl_module)

    def finish(self, trainer: Any, pl_module: Any) -> None:
        """Log the last row of a run that a stop rule has ended between two rows; one that will go on has none."""
        if self._logged < trainer.global_step:
            self._log(trainer, pl_module)

    def _log(self, trainer: Any, pl_module: Any) -> None:
        step = self._logged = trainer.global_step
        interval_metrics = pl_module.interval_metrics()
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in interval_metrics.items()})
        if not self._checked and step > 1:  # callbacks after this one have logged by the second step
            coming = pl_module.validation_names() if sum(trainer.num_val_batches) else []
            check_monitors(trainer.callbacks, [*trainer.callback_metrics, *coming], pl_module.validation_names())
            self._checked = True
        trainer.progress_bar_metrics["loss"] = interval_metrics["train/loss"]  # of Lightning's own bars
        self._to_loggers(trainer, interval_metrics)

    def _to_loggers(self, trainer: Any, metrics: dict[str, float]) -> None:
        step = trainer.global_step
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step if isinstance(logger, MetricsFile) else self.steps_before + step)
