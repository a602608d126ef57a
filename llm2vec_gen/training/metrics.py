"""Training metrics: means over a logging interval, kept on the device by torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torchmetrics
from torch import Tensor


class IntervalMeans(torchmetrics.Metric):
    """Means of several named values over the steps (and ranks) since the last reset; one tensor, no synchronisation."""

    full_state_update = False
    total: Tensor
    steps: Tensor

    def __init__(self, names: tuple[str, ...]):
        super().__init__()
        self.names = names
        self.add_state("total", torch.zeros(len(names)), dist_reduce_fx="sum")
        self.add_state("steps", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add one step: a scalar tensor for each name."""
        self.total += torch.stack([values[name].float() for name in self.names])
        self.steps += 1

    def compute(self) -> Tensor:
        """(number of names,), in their order."""
        return self.total / self.steps

    def saved(self) -> dict[str, Tensor]:
        """The sums over all ranks, for a checkpoint taken in the middle of an interval."""
        with self.sync_context():
            return {"total": self.total.clone(), "steps": self.steps.clone()}

    def restore(self, state: Mapping[str, Tensor], keep: bool) -> None:
        """Take up saved sums; only one rank keeps them, for they are sums over all."""
        self.reset()
        if keep:
            self.total += state["total"].to(self.total.device)
            self.steps += state["steps"].to(self.steps.device)
            self._update_count = 1  # torchmetrics warns about a compute before any update
