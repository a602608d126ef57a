"""The reconstruction pass: the loss of completions given soft prompts, and its gradient.

The pass is an autograd function that does its backward while it goes forward: each micro-batch runs, returns the
gradient of its soft prompts (B x K x D numbers) and frees its activations. Memory is that of one micro-batch, and the
result is that of one big batch, for any micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.profiler import record_function

from llm2vec_gen.backbones.token_loss import token_loss

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone


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
