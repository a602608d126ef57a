"""A model and its losses as one Lightning module: what a step does, what is optimised, what a checkpoint holds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.callbacks.finite import FiniteGuard
from llm2vec_gen.training.metrics import OBSERVED, IntervalMeans, observe
from llm2vec_gen.training.settings import TrainingSettings, check_losses, weight_of
from llm2vec_gen.types import Batch

log = logging.getLogger(__name__)

MIN_LOSS_FRACTION = 0.02  # of the largest weighted loss


class TrainingModule(lightning.LightningModule):
    """Holds a model (`forward(batch) -> EncoderOutput`) and named losses (`loss(model, output, batch) -> scalar`).

    One batch is one effective batch and one optimizer step; micro-batches are the backbone's business. A loss of
    weight 0 is never called. Only parameters with `requires_grad` are optimised and saved.
    """

    def __init__(self, model: nn.Module, losses: Mapping[str, Any], settings: TrainingSettings):
        super().__init__()
        check_losses(losses)
        self.model = model
        self.settings = settings
        self.losses = {name: loss for name, loss in losses.items() if weight_of(loss) > 0}
        self._loss_modules = nn.ModuleList(loss for loss in self.losses.values() if isinstance(loss, nn.Module))
        self.running_means = IntervalMeans((*OBSERVED, *self.losses))
        self.guard = FiniteGuard()
        self.latest: dict[str, float] = {}
        self.strict_loading = False  # `on_load_checkpoint` is stricter
        self._step: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] | None = None
        self._tokens = self._steps_timed = 0
        self._since = time.perf_counter()
        self._compared = False
        self.initialize: Callable[[], None] = lambda: None

    # ---- a step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Weighted sum of the losses over the effective batch."""
        output = self.model(batch)
        values = {name: loss(self.model, output, batch) for name, loss in self.losses.items()}
        if collectives.world_size() > 1:
            values = {name: value * self._rank_scale(self.losses[name], batch, value) for name, value in values.items()}
        total = torch.stack([weight_of(self.losses[name]) * value for name, value in values.items()]).sum()
        own = {name: value.detach() for name, value in values.items()}
        self._step = {"loss": total.detach(), **own, **observe(output, batch.targets)}
        self._tokens += sum(map(len, batch.queries)) + sum(map(len, batch.completions))
        return total

    def _rank_scale(self, loss: Any, batch: Batch, value: Tensor) -> Tensor | float:
        """Return the factor for this rank's mean, so that the mean over ranks is the mean over the effective batch.

        `loss.terms(batch) -> int` is the number of terms of its mean (completion tokens, for example); without it the
        mean is over queries, of which each rank has equally many.
        """
        if not hasattr(loss, "terms"):
            return 1.0
        terms = torch.tensor(loss.terms(batch), dtype=value.dtype, device=value.device)
        return terms * collectives.world_size() / collectives.all_reduce_sum(terms)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip all trainables together at `gradient_clip`; the logged norm is that before clipping."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._step["gradient_norm"] = nn.utils.clip_grad_norm_(parameters, self.settings.gradient_clip).detach()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Forget the batch; the callbacks have logged and saved by now."""
        self._step = {}

    def update(self, batch: Batch) -> None:
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
        suffix = getattr(self.model, "suffix", None)
        self.latest = {
            **{f"train/{name}": value for name, value in means.items()},
            "train/suffix_norm": float("nan") if suffix is None else suffix.detach().norm(dim=-1).mean().item(),
            "train/learning_rate": self.settings.rate(self.global_step - 1),
            "train/seconds_per_step": seconds / max(1, self._steps_timed),
            "train/tokens_per_second": tokens / seconds,
        }
        self._start_interval()
        if len(self.losses) > 1 and not self._compared:
            self._compare_losses()
        return self.latest

    def _compare_losses(self) -> None:
        """Warn once if one weighted loss starts so small that the others dominate the training."""
        self._compared = True
        weighted = {name: weight_of(loss) * abs(self.latest[f"train/{name}"]) for name, loss in self.losses.items()}
        largest = max(weighted, key=lambda name: weighted[name])
        for name, value in weighted.items():
            if value < MIN_LOSS_FRACTION * weighted[largest]:
                log.warning(
                    "loss.%s.weight x loss is %.3g at the start, %s's %.3g: below %d%%, so it will hardly be learnt; "
                    "raise loss.%s.weight, or use loss.alignment.reduction=variance",
                    name, value, largest, weighted[largest], round(100 * MIN_LOSS_FRACTION), name,
                )  # fmt: skip

    def metric_names(self) -> list[str]:
        """Return the names of the logged metrics, which callbacks may monitor."""
        clock = ("learning_rate", "seconds_per_step", "tokens_per_second")
        suffix = ["suffix_norm"] if hasattr(self.model, "suffix") else []
        return [f"train/{name}" for name in (*self.running_means.names, *suffix, *clock)]

    def _start_interval(self) -> None:
        self._tokens = self._steps_timed = 0
        self._since = time.perf_counter()

    # ---- what is optimised

    def trainables(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by their name in this module."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def configure_optimizers(self) -> Any:
        """AdamW over the trainables alone, its rate laid out over `schedule_steps`."""
        settings, parameters = self.settings, list(self.trainables().values())
        optimizer = AdamW(
            parameters,
            lr=settings.peak_rate,
            weight_decay=settings.weight_decay,
            fused=all(value.device.type in ("cpu", "cuda") for value in parameters),
        )
        schedule = LambdaLR(optimizer, settings.rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- what a checkpoint holds

    def on_train_start(self) -> None:
        """Initialise the model from its data, or take up the interval that was cut by the last stop."""
        if self.trainer.global_step == 0:
            self.initialize()
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
        self._compared = True  # by the run that is continued
        scale = collectives.world_size() / checkpoint.get(
            "ranks", 1
        )  # sums over all ranks, of which there may be more now
        self._restored = {name: value * scale for name, value in checkpoint["interval"].items()}
