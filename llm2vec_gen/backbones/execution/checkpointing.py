"""Gradient checkpointing of the decoder layers for the length of one pass, without putting the model into train()."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch.utils.checkpoint import checkpoint

from llm2vec_gen.backbones.fallbacks import warn_once

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def checkpointed(lm: PreTrainedModel) -> Iterator[None]:
    """Inside, each decoder layer keeps its input only and computes itself again in the backward pass.

    The flags are set on the layers alone, not on their parts, so that dropout stays off as in eval().
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        warn_once(f"gradient checkpointing finds no decoder layers in {type(lm).__name__}; all activations are kept")
    before = [(layer.training, layer.gradient_checkpointing) for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.gradient_checkpointing = True, True
            setattr(layer, "_gradient_checkpointing_func", partial(checkpoint, use_reentrant=False))  # noqa: B010
        yield
    finally:
        for layer, (training, checkpointing) in zip(layers, before, strict=True):
            layer.training, layer.gradient_checkpointing = training, checkpointing
