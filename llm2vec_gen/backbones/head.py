"""What a model does to its logits after the output embedding, checked against the model itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm2vec_gen.backbones.inputs import embedding_weight
from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adjustment(lm: PreTrainedModel) -> Callable[[Tensor], Tensor] | None:
    """None for a plain head; else the soft capping or scaling that the config names.

    InputError where neither gives the model's own logits: its head is of a kind that the losses cannot split off.
    """
    config = lm.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    divide, multiply = getattr(config, "logits_scaling", None), getattr(config, "logit_scale", None)
    adjust: Callable[[Tensor], Tensor] | None = None
    if cap:
        adjust = partial(_capped, cap=cap)
    elif divide and divide != 1:
        adjust = partial(_scaled, factor=1 / divide)
    elif multiply and multiply != 1:
        adjust = partial(_scaled, factor=multiply)
    _check(lm, adjust)
    return adjust


def _capped(logits: Tensor, cap: float) -> Tensor:
    return torch.tanh(logits / cap) * cap


def _scaled(logits: Tensor, factor: float) -> Tensor:
    return logits * factor


@torch.no_grad()
def _check(lm: PreTrainedModel, adjust: Callable[[Tensor], Tensor] | None) -> None:
    ids = torch.arange(3, device=embedding_weight(lm).device)[None]
    expected = lm(input_ids=ids, use_cache=False).logits.float()
    if not bool(expected.isfinite().all()):
        raise InputError(
            f"{type(lm).__name__} gives logits that are not finite (NaN or infinite); load it in a wider dtype "
            "(backbone.dtype=float32)"
        )
    states = lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
    logits = lm.get_output_embeddings()(states)
    logits = (logits if adjust is None else adjust(logits)).float()
    scale = expected.abs().max().clamp_min(1e-6)
    if not bool((logits - expected).abs().max() <= 0.02 * scale):
        raise InputError(
            f"the output head of {type(lm).__name__} is neither a plain linear layer nor one with soft capping or "
            "scaling; such a backbone is not supported"
        )
