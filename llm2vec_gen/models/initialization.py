"""Initialization: the suffix near the mean of the word vectors, the projections as usual or from the targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.query_pass import QueryPass
from llm2vec_gen.types import TargetMoments

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

PROJECTION_INITS = ("default", "identity", "targets")
INITIAL_SPREAD = 0.1  # of the targets': more learns slower, because what is spread at the start is noise


@torch.no_grad()
def suffix(backbone: Backbone, rows: int) -> Tensor:
    """(rows, D) fp32: the mean input vector of the vocabulary plus normal noise of its spread, per dimension.

    Input vectors, not embedding rows: some models multiply the rows (Gemma by the square root of D). Drawn from torch's
    global generator on the CPU, so that a seed gives the same suffix on every device.
    """
    mean, spread = _moments(backbone)
    return (mean + spread * torch.randn(rows, len(mean))).to(backbone.device)


def _moments(backbone: Backbone, part: int = 16384) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) of all input vectors, part by part: the table may have a billion numbers."""
    count, device = len(backbone.lm.get_input_embeddings().weight), backbone.device
    total, squares = (torch.zeros(backbone.hidden_size, dtype=torch.float64) for _ in range(2))
    for start in range(0, count, part):
        vectors = backbone.embed(torch.arange(start, min(start + part, count), device=device))
        wide = vectors.to("cpu", torch.float64)
        total, squares = total + wide.sum(0), squares + wide.square().sum(0)
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()


def projection(inputs: int, outputs: int, init: str) -> nn.Linear:
    """A linear layer in fp32. "identity" starts as the identity where the sizes agree, else as usual.

    "targets" starts as usual too; `match_targets` then moves the alignment projection.
    """
    if init not in PROJECTION_INITS:
        raise InputError(f"model.projection_init is {init!r}; expected {' or '.join(PROJECTION_INITS)}")
    layer = nn.Linear(inputs, outputs, dtype=torch.float32)
    if init == "identity" and inputs == outputs:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


@torch.no_grad()
def match_targets(model: LLM2VecGen, texts: Sequence[str], moments: TargetMoments) -> None:
    """Start embeddings at the targets' mean with a tenth of their spread, by W_align and b_align alone.

    With p a text's features (readouts/base.py), c their mean, a = W_align (p - c), V the targets' variance summed over
    E and s = INITIAL_SPREAD:

        W_align <- W_align * s sqrt(V / sum_d Var(a_d)),    b_align <- mean(targets) - W_align c

    so the alignment loss of reduction "variance" starts at about 1 + s^2. Deterministic; the same on every rank.
    """
    layer, training = model.alignment_projection, model.training
    model.eval()
    read = partial(model.readout.features_of_states, project=model.project)
    query_pass = QueryPass.of(model, texts, None, 32, None, False)
    features = query_pass.collect(read, (layer.in_features,)).to(layer.weight)  # (N, F)
    model.train(training)
    centre = features.mean(dim=0)
    spread = ((features - centre) @ layer.weight.T).var(dim=0, unbiased=False).sum()  # over E
    if spread > 0:
        layer.weight.mul_(INITIAL_SPREAD * (moments.variance / spread).sqrt())
    layer.bias.copy_(moments.mean.to(layer.bias) - layer.weight @ centre)
