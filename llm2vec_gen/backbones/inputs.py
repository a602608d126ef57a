"""What a model makes of a token id before its first layer, and what of an embedding row: the factors in between.

Some models multiply inside their embedding module (Gemma 3), some in forward for ids and vectors alike (Granite), some
in forward for ids alone (Falcon-H1). The suffix consists of input vectors as forward takes them, so that the vector of
an id is `input_scale` times what the embedding module gives, and `row_scale` times its row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llm2vec_gen.backbones.backbone import Backbone


class _Seen(Exception):
    """The first layer has been reached; its input is all that was wanted."""


def embedding_weight(lm: PreTrainedModel) -> Tensor:
    """Return the weight of the input embedding, (V, D)."""
    weight: Any = lm.get_input_embeddings().weight
    return weight


@torch.no_grad()
def input_scale(lm: PreTrainedModel) -> float:
    """Factor by which the model multiplies the embeddings of token ids, but not input vectors that it is given; 1.0.

    Read off the input of the first layer. 1.0 also where no single factor explains it; the passes are checked against
    the model's states (execution/select.py), whatever is found here.
    """
    embedding, weight = lm.get_input_embeddings(), embedding_weight(lm)
    ids = torch.arange(1, 9, device=weight.device) % len(weight)
    try:
        of_ids, of_vectors = _first_input(lm, input_ids=ids[None]), _first_input(lm, inputs_embeds=embedding(ids)[None])
    except Exception:  # whatever a model's own code raises; select.py reports it
        return 1.0
    if of_ids is None or of_vectors is None or of_ids.shape != of_vectors.shape:
        return 1.0
    return _factor(of_ids, of_vectors) or 1.0


def row_scale(backbone: Backbone) -> float | None:
    """The factor between an embedding row and the input vector of its id; None where no single factor explains it."""
    weight = embedding_weight(backbone.lm)
    ids = torch.linspace(0, len(weight) - 1, 64).long().unique().to(weight.device)
    return _factor(backbone.embed(ids), weight[ids])


def _first_input(lm: PreTrainedModel, **inputs: Any) -> Tensor | None:
    """What the first layer is given, (1, L, D)."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    seen: list[Tensor] = []

    def stop(layer: Any, args: Any, kwargs: Any) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])
        raise _Seen

    layers = [module for module in lm.base_model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        return None
    handle = layers[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        lm.base_model(**inputs, use_cache=False)
    except _Seen:
        return seen[0]
    finally:
        handle.remove()
    return None


def _factor(scaled: Tensor, plain: Tensor) -> float | None:
    """The number f with scaled = f * plain, exactly 1.0 where they are equal; None where there is none."""
    if torch.equal(scaled, plain):
        return 1.0
    wide, base = scaled.double(), plain.double()
    factor = float((wide * base).sum() / base.square().sum().clamp_min(1e-300))
    error = (wide - factor * base).abs().max() / wide.abs().max().clamp_min(1e-300)
    tolerance = 1e-5 if scaled.dtype in (torch.float32, torch.float64) else 0.01
    return factor if factor and bool(error <= tolerance) else None
