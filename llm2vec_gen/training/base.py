"""The part of a training that does not depend on what is trained: optimisation, metrics, checkpoints."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import lightning
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.callbacks.finite import FiniteGuard
from llm2vec_gen.training.callbacks.metric_log import MetricLog
from llm2vec_gen.training.metrics import IntervalMeans
from llm2vec_gen.training.optimizers import MakeOptimizer, check_optimizer
from llm2vec_gen.training.settings import TrainingSettings


class ResumableModule(lightning.LightningModule):
    """A LightningModule whose runs can be stopped anywhere and continued bit for bit.

    One batch is one effective batch and one optimizer step. Only parameters with `requires_grad` are optimised and
    saved. How to write one: `training_step` returns the loss and calls `record` with the values that `averaged` names.

    model: what is trained. losses: the names of the losses, whose values a non-finite step reports. averaged: the
    names of all metrics of a step, in their order; "gradient_norm" is added here. optimizer(parameters, lr=...) and
    scheduler(optimizer): AdamW and linear with warm-up where they are None.
    """

    shards_backbone = False  # whether its model runs over a `backbone` that trainer=fsdp may shard

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingSettings,
        losses: Mapping[str, Any],
        averaged: list[str],
        optimizer: MakeOptimizer | None = None,
        scheduler: Callable[..., Any] | None = None,
    ):
        super().__init__()
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self._rate = math.nan  # of the last step
        self.model = model
        self.settings = settings
        self.losses = dict(losses)
        self.running_means = IntervalMeans(tuple(averaged))
        self.guard = FiniteGuard()
        self.latest: dict[str, float] = {}
        self.strict_loading = False  # `on_load_checkpoint` is stricter
        self._step: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] | None = None
        self._resumed = False
        self._tokens = self._steps_timed = 0
        self._since = time.perf_counter()
        self._paused = 0.0  # when the validation began that the interval's clock leaves out
        self.validated: dict[str, float] = {}  # val/* of the last validation

    def cpu(self) -> Self:
        """Stay on the device: Lightning calls this when a fit ends, but the model is still used then."""
        return self

    # ---- a step

    def record(self, values: dict[str, Tensor], tokens: int) -> None:
        """Keep the metrics of the step that is computed: detached scalars; tokens: how many this rank read."""
        self._step = values
        self._tokens += tokens

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip all trainables together at `gradient_clip`; the logged norm is that before clipping."""
        self._rate = float(optimizer.param_groups[0]["lr"])
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._step["gradient_norm"] = nn.utils.clip_grad_norm_(parameters, self.settings.gradient_clip).detach()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Forget the batch; the callbacks have logged and saved by now."""
        self._step = {}

    def update(self, batch: Any) -> None:
        """Add the finished step to the interval's means and to the guard; no device synchronisation."""
        names = ("loss", *self.losses, "gradient_norm")
        self.guard.update(self.global_step, batch.ids, {name: self._step[name] for name in names})
        self.running_means.update(self._step)
        self._steps_timed += 1

    # ---- what is logged

    def interval_metrics(self) -> dict[str, float]:
        """Return the metrics of the interval since the last call; waits for the device and checks that all are
        finite."""
        self.guard.check()
        means = dict(zip(self.running_means.names, self.running_means.compute().tolist(), strict=True))
        self.running_means.reset()
        seconds = time.perf_counter() - self._since
        tokens = sum(collectives.all_gather(self._tokens))
        values = means | self.state_metrics() | {
            "learning_rate": self._rate,
            "seconds_per_step": seconds / max(1, self._steps_timed),
            "tokens_per_second": tokens / seconds,
        }  # fmt: skip
        self.latest = {f"train/{name}": value for name, value in values.items()}
        self._start_interval()
        return self.latest

    def state_metrics(self) -> dict[str, float]:
        """Return metrics of the weights as they are at the end of an interval; none by default."""
        return {}

    def metric_names(self) -> list[str]:
        """Return the names of the logged metrics, which callbacks may monitor."""
        clock = ("learning_rate", "seconds_per_step", "tokens_per_second")
        return [f"train/{name}" for name in (*self.running_means.names, *self.state_metrics(), *clock)]

    def validation_names(self) -> list[str]:
        """Return the names of the validation's metrics; none where a module has no validation."""
        return []

    def on_validation_start(self) -> None:
        """Stop the clock of the training's interval."""
        self._paused = time.perf_counter()

    def on_validation_end(self) -> None:
        """Let the clock go on."""
        self._since += time.perf_counter() - self._paused

    def _start_interval(self) -> None:
        self._tokens = self._steps_timed = 0
        self._since = time.perf_counter()

    def configure_callbacks(self) -> list[lightning.Callback]:
        """Return the callback that logs the metrics, for a trainer that was built by hand."""
        if any(isinstance(callback, MetricLog) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            return []
        return [MetricLog(self.trainer.log_every_n_steps)]  # type: ignore[attr-defined]

    # ---- what is optimised

    def trainables(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by their name in this module."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def configure_optimizers(self) -> Any:
        """Return the optimizer of the trainables alone, and its schedule, which is stepped with it."""
        settings, parameters = self.settings, list(self.trainables().values())
        make = self._make_optimizer or functools.partial(AdamW, weight_decay=settings.weight_decay, fused=True)
        named = getattr(make, "keywords", {}).get("lr")
        rate = settings.peak_rate if named is None else named
        check_optimizer(make, parameters)
        optimizer = make(parameters, lr=rate)
        schedule = (self._make_scheduler or functools.partial(LambdaLR, lr_lambda=settings.rate_factor))(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- what a checkpoint holds

    def on_train_start(self) -> None:
        """Take up the interval that was cut by the last stop."""
        if self._restored is not None:
            self.running_means.restore(self._restored, keep=collectives.rank() == 0)
            self._restored = None
        self._start_interval()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trainables alone, and refuse to save what is not finite."""
        self.guard.check()
        trainables = self.trainables()
        checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in trainables}
        checkpoint["interval"], checkpoint["ranks"] = self.running_means.saved(), collectives.world_size()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises InputError unless the checkpoint holds exactly the trainables of this module, in their shapes."""
        given = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        expected = {name: tuple(value.shape) for name, value in self.trainables().items()}
        if given != expected:
            differing = sorted(name for name in given | expected if given.get(name) != expected.get(name))
            parts = (f"{name} {given.get(name, 'missing')}, not {expected.get(name, 'expected')}" for name in differing)
            raise InputError(
                f"the saved state is of another model ({'; '.join(parts)}); train into another folder, or remove its "
                "`resume` folder to start anew"
            )
        self._resumed = True
        # Saved sums are over all ranks, of which there may be more now.
        scale = collectives.world_size() / checkpoint.get("ranks", 1)
        self._restored = {name: value * scale for name, value in checkpoint["interval"].items()}
