"""Where training starts: the suffix inside the cloud of word vectors, the projections near nothing in particular."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm2vec_gen.backbones.base import Backbone
from llm2vec_gen.types import InputError

PROJECTION_INITS = ("default", "identity")


@torch.no_grad()
def suffix(backbone: Backbone, rows: int) -> Tensor:
    """(rows, D) fp32: the vocabulary's mean vector plus normal noise of its standard deviation, per dimension.

    Drawn from torch's global generator on the CPU, so that a seed gives the same suffix on every device.
    """
    words = backbone.lm.get_input_embeddings().weight
    mean, spread = _moments(words)
    return (mean + spread * torch.randn(rows, words.shape[1])).to(words.device)


def _moments(words: Tensor, part: int = 16384) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the rows, part by part: the table may have a billion numbers."""
    total, squares = (torch.zeros(words.shape[1], dtype=torch.float64) for _ in range(2))
    for rows in words.split(part):
        wide = rows.detach().to("cpu", torch.float64)
        total, squares = total + wide.sum(0), squares + wide.square().sum(0)
    mean = total / len(words)
    return mean.float(), (squares / len(words) - mean.square()).clamp_min(0).sqrt().float()


def projection(inputs: int, outputs: int, init: str) -> nn.Linear:
    """A linear layer in fp32. "identity" starts as the identity where the sizes agree, else as usual."""
    if init not in PROJECTION_INITS:
        raise InputError(f"model.projection_init is {init!r}; expected {' or '.join(PROJECTION_INITS)}")
    layer = nn.Linear(inputs, outputs, dtype=torch.float32)
    if init == "identity" and inputs == outputs:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer
