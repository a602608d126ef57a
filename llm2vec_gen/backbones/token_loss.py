"""Cross entropy of the language model's head without ever holding the logits of all positions.

One call, `token_loss`, picks the best implementation there is: liger's fused kernel on CUDA where installed, torch's
own `linear_cross_entropy` where this torch has it, else a chunk loop. They agree; the tests hold them to it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 256  # positions whose logits exist at the same time


def token_loss(states: Tensor, targets: Tensor, head: nn.Module, adjust: Callable[[Tensor], Tensor] | None = None,
               implementation: str | None = None) -> Tensor:  # fmt: skip
    """Sum over positions of -log p(target): states (n, D), targets (n,) -> scalar, at least fp32.

    `adjust` is what the model does to its logits after the head (soft capping, scaling). With it, with a bias or with a
    quantised head only the chunk loop applies. The head is frozen: no gradient flows into it.
    """
    chosen = implementation or best_implementation(states, head, adjust)
    if chosen in ("liger", "torch"):
        weight: Any = head.weight
        return (_liger if chosen == "liger" else _torch)(states, targets, weight)
    return _ChunkLoop.apply(states, targets, head, adjust)


def best_implementation(states: Tensor, head: nn.Module, adjust: Callable[[Tensor], Tensor] | None) -> str:
    """ "liger", "torch" or "chunks", for this head on this device."""
    weight: Any = getattr(head, "weight", None)
    plain = type(head) is nn.Linear and head.bias is None and type(weight) in (nn.Parameter, Tensor)
    if not plain or adjust is not None or weight.dtype != states.dtype:
        return "chunks"
    if states.device.type == "cuda":
        return "liger" if _has_liger() else "chunks"
    return "torch" if hasattr(F, "linear_cross_entropy") and states.dtype == torch.float32 else "chunks"


@cache
def _has_liger() -> bool:
    return find_spec("liger_kernel") is not None


def _liger(states: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    loss = liger_fused_linear_cross_entropy(states, weight.detach(), targets, reduction="sum")
    return (loss[0] if isinstance(loss, tuple) else loss).float()


def _torch(states: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    options: Any = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK, chunking_method=None)
    return F.linear_cross_entropy(states, weight.detach(), targets, reduction="sum", options=options)


class _ChunkLoop(torch.autograd.Function):
    """The gradient of the states is worked out chunk by chunk beside the loss: two matmuls, nothing is kept."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, head: nn.Module, adjust: Any) -> Tensor:
        wide = torch.float64 if states.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=wide, device=states.device)
        gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for start in range(0, len(states), CHUNK):
            part = slice(start, start + CHUNK)
            if gradient is None:
                total += _chunk(states[part], targets[part], head, adjust)
                continue
            with torch.enable_grad():
                leaf = states[part].detach().requires_grad_()
                loss = _chunk(leaf, targets[part], head, adjust)
                gradient[part] = torch.autograd.grad(loss, leaf)[0]
            total += loss.detach()
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        gradient, ctx.gradient = ctx.gradient, None
        return gradient * outer[0].to(gradient.dtype), None, None, None


def _chunk(states: Tensor, targets: Tensor, head: nn.Module, adjust: Any) -> Tensor:
    logits = head(states)
    logits = logits if adjust is None else adjust(logits)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide, targets, reduction="sum")
