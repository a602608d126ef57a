"""torch.compile for the parts of a decoder layer that are many small kernels: the norms and the feed-forward part.

Attention stays as it is (its layout is plain Python), so nothing depends on how rows are packed; the number of tokens
is a symbolic size, so that varying lengths do not compile again.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import silu

from llm2vec_gen.backbones.inputs import embedding_weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def compile_parts(lm: PreTrainedModel) -> int:
    """Compile the norms and feed-forward parts of every decoder layer; returns how many were.

    One warning, and nothing compiled, where this machine cannot compile (no C++ compiler on a CPU, no triton).
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    reason = _cannot(embedding_weight(lm).device)
    if reason is not None:
        warnings.warn(f"torch.compile does not work here ({reason}); the model runs as it is", stacklevel=2)
        return 0
    count = 0
    for layer in lm.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            for part in layer.children():
                if not any(hasattr(inner, "layer_idx") for inner in part.modules()):  # attention knows its layer
                    part.compile(dynamic=True)
                    count += 1
    if not count:
        warnings.warn(f"compile=True finds no decoder layers in {type(lm).__name__}; it runs as it is", stacklevel=2)
    return count


def _cannot(device: torch.device) -> str | None:
    try:
        fused = torch.compile(lambda states: silu(states) * states.mean(-1, keepdim=True), dynamic=True)
        fused(torch.zeros(2, 4, device=device))
    except Exception as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"
    finally:
        torch._dynamo.reset()
    return None
