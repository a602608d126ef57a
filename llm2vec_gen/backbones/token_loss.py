"""Losses of the frozen language model: of tokens given states, and of completions given soft prompts.

`token_loss` is the cross entropy of the head without ever holding the logits of all positions. It picks the best
implementation there is: liger's fused kernel on CUDA where installed, torch's own `linear_cross_entropy` where this
torch has it, else a chunk loop. They agree; the tests hold them to it.

`reconstruction_loss` is the pass over [soft prompts, completion]: an autograd function that does its backward while it
goes forward. Each micro-batch runs, returns the gradient of its soft prompts (B x K x D numbers) and frees its
activations. Memory is that of one micro-batch, and the result is that of one big batch, for any micro-batches.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from llm2vec_gen.backbones.execution.cpu_kernels import FrozenLinear
from llm2vec_gen.backbones.fallbacks import warn_once
from llm2vec_gen.extras import pip_command

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone

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
    """Return "liger", "torch" or "chunks" for this head on this device.

    One warning where the fused one cannot serve. Chunks are the best there is on a CPU in 16 bits or fp64, and for
    heads whose products oneDNN computes.
    """
    if states.device.type == "cuda":
        fused, missing = "liger", _no_liger()
    elif states.device.type == "cpu" and states.dtype == torch.float32 and type(head) is not FrozenLinear:
        found = hasattr(F, "linear_cross_entropy")
        fused, missing = "torch", None if found else f"torch {torch.__version__} has no linear_cross_entropy"
    else:
        return "chunks"
    reason = missing or _cannot_fuse(states, head, adjust)
    if reason is None:
        return fused
    kernel = "liger's fused kernel" if fused == "liger" else "torch's linear_cross_entropy"
    warn_once(f"the loss over the vocabulary is computed in chunks instead of by {kernel}: {reason}")
    return "chunks"


def _cannot_fuse(states: Tensor, head: nn.Module, adjust: Callable[[Tensor], Tensor] | None) -> str | None:
    weight: Any = getattr(head, "weight", None)
    if adjust is not None:
        return "the model caps or scales its logits"
    if not isinstance(head, nn.Linear) or type(weight) not in (nn.Parameter, Tensor):
        return f"the output head is a {type(head).__name__} with a weight of type {type(weight).__name__}"
    if head.bias is not None:
        return "the output head has a bias"
    if weight.dtype != states.dtype:
        return f"the output head is in {weight.dtype}, the states are in {states.dtype}"
    return None


@cache
def _no_liger() -> str | None:
    try:
        importlib.import_module("liger_kernel.transformers.functional")
    except ImportError as error:
        return f"liger-kernel cannot be imported ({error}); {pip_command('liger_kernel')}"
    return None


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


# ---- completions given soft prompts


def reconstruction_loss(backbone: Backbone, soft_prompts: Tensor, completions: Sequence[Tensor]) -> tuple[Tensor, int]:
    """(sum of -log p over all completion tokens, number of tokens) of [soft prompts (B, K, D), completion].

    The last soft prompt predicts the first completion token. The last token is only predicted, never read, so a row
    costs K + T - 1 positions. Gradient flows to `soft_prompts` alone.
    """
    count = sum(len(completion) for completion in completions)
    return _Reconstruction.apply(soft_prompts, backbone, list(completions), torch.is_grad_enabled()), count


class _Reconstruction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, soft_prompts: Tensor, backbone: Backbone, completions: list[Tensor], grad_enabled: bool
    ) -> Tensor:
        prompts = soft_prompts.shape[1]
        lengths = [prompts + max(len(completion) - 1, 0) for completion in completions]
        wanted = grad_enabled and ctx.needs_input_grad[0]
        gradient = torch.zeros_like(soft_prompts) if wanted else None
        total = soft_prompts.new_zeros((), dtype=torch.promote_types(soft_prompts.dtype, torch.float32))
        with_tokens = [row for row, completion in enumerate(completions) if len(completion)]
        for micro_batch in backbone.micro_batches([lengths[row] for row in with_tokens], strict=True):
            rows = [with_tokens[number] for number in micro_batch]
            # A leaf of its own per micro-batch: its graph is gone before the next one runs.
            index = torch.tensor(rows, device=soft_prompts.device)
            with record_function("reconstruction"), torch.set_grad_enabled(wanted):
                leaf = soft_prompts.detach()[index].requires_grad_(wanted)
                loss = _micro_batch(backbone, leaf, [completions[row].to(leaf.device) for row in rows])
                if gradient is not None:
                    gradient[index] = torch.autograd.grad(loss, leaf)[0]
            total += loss.detach()
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return outer[0].to(ctx.gradient.dtype) * ctx.gradient, None, None, None


def _micro_batch(backbone: Backbone, soft_prompts: Tensor, completions: list[Tensor]) -> Tensor:
    """One micro-batch, forward: rows are [p_1..p_K, r_1..r_T-1]; states from p_K on predict r_1..r_T."""
    prompts = soft_prompts.shape[1]
    lengths = [prompts + len(completion) - 1 for completion in completions]  # T positions in all
    inputs = [backbone.embed(completion[:-1]) for completion in completions]
    pieces = [piece for row, tail in enumerate(inputs) for piece in (soft_prompts[row].to(tail.dtype), tail)]
    states = backbone.runner.run(torch.cat(pieces), lengths, checkpointing=backbone.gradient_checkpointing)
    # of each row the last prompt and all that follow it: (T,), as many as completion tokens
    predicting = torch.cat([torch.arange(n) >= prompts - 1 for n in lengths]).to(states.device)
    return token_loss(states[predicting], torch.cat(completions), backbone.head(), backbone.adjust_logits)
