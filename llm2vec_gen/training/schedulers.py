"""Learning rate schedules over the steps of a run (conf/scheduler), each with a linear warm-up.

How to add one: a function that takes an optimizer first and returns a `torch.optim.lr_scheduler.LRScheduler`, stepped
once per training step, and a yaml in conf/scheduler with `_partial_: true`. torch's own classes need only the yaml.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from llm2vec_gen.training.settings import linear_factor, shortened_warmup


def linear(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, max_steps: int | None = None) -> LambdaLR:
    """Return the schedule of the paper: up over `warmup_steps`, then down to 0 at `total_steps`.

    max_steps: where the run ends; one that would end before its warm-up does warms up for a tenth of its steps.
    """
    warmup = shortened_warmup(warmup_steps, max_steps)
    return LambdaLR(optimizer, lambda step: linear_factor(step, warmup, total_steps))


def cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, max_steps: int | None = None) -> LambdaLR:
    """Return half a cosine from the peak, after the warm-up, down to 0 at `total_steps`; `max_steps` as in `linear`."""
    warmup = shortened_warmup(warmup_steps, max_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (total_steps - warmup))))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, warmup_steps: int = 0, max_steps: int | None = None) -> LambdaLR:
    """Return the peak rate for all steps after the warm-up; `max_steps` as in `linear`."""
    warmup = shortened_warmup(warmup_steps, max_steps)
    return LambdaLR(optimizer, lambda step: step / warmup if step < warmup else 1.0)
