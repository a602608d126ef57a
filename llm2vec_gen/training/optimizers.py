"""Optimizers beside those of torch (conf/optimizer), and the check that one can train fp32 parameters.

How to add one: a class or function that takes the parameters first and returns a `torch.optim.Optimizer`, and a yaml in
conf/optimizer with `_partial_: true`. `lr: null` takes the rate that training.learning_rate=null derives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from llm2vec_gen.errors import InputError, one_line

MakeOptimizer = Callable[..., Optimizer]


class MuonWithAdamW(Optimizer):
    """Muon for matrices, AdamW for all other parameters, in one optimizer.

    Muon's updates are scaled to the root mean square of AdamW's, so that one learning rate fits both.

    params: tensors. lr, weight_decay: of both. momentum: Muon's. betas, eps: AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        params = list(params)
        matrices, others = [p for p in params if p.ndim == 2], [p for p in params if p.ndim != 2]
        self._parts: list[Optimizer] = []
        if matrices:
            scaled: Any = {"adjust_lr_fn": "match_rms_adamw"}
            self._parts.append(Muon(matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, **scaled))
        if others:
            self._parts.append(AdamW(others, lr=lr, weight_decay=weight_decay, betas=(betas[0], betas[1]), eps=eps))
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step of both; returns what `closure`, which computes the gradients, does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state  # schedules and saved states replace the groups
            part.step()
        return loss


def adamw_8bit(
    params: Iterable[Tensor],
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    """Return bitsandbytes' AdamW, whose state takes 2 bytes a parameter instead of 8; it needs a GPU."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError(
            "optimizer=adamw_8bit needs the package bitsandbytes: pip install 'llm2vec-gen-lightning[quantization]'"
        ) from error
    return AdamW8bit(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay)


def check_optimizer(make: MakeOptimizer, parameters: Iterable[Tensor]) -> None:
    """Raise InputError unless the optimizer takes a step on parameters of the kinds of these, which are fp32.

    The step is that of small copies: one for each number of dimensions.
    """
    kinds = {(value.ndim, value.dtype, value.device): value for value in parameters}
    copies = [nn.Parameter(torch.ones((2,) * ndim, dtype=dtype, device=at)) for ndim, dtype, at in kinds]
    for copy in copies:
        copy.grad = torch.ones_like(copy)
    try:
        make(copies, lr=1e-3).step()
    except InputError:
        raise
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"this optimizer cannot train fp32 parameters of 1 and 2 dimensions, one step per batch "
            f"({one_line(error)}); choose optimizer=adamw or muon"
        ) from error
    if not all(copy.isfinite().all() for copy in copies):
        raise InputError("this optimizer's first step is not finite; choose optimizer=adamw or muon")
