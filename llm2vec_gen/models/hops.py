"""The query pass of a model, once or several times in a row (latent chaining)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.kv_prefix import Prefix

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


def hop_states(model: LLM2VecGen, before: Sequence[Tensor], suffix: Tensor, shared: Prefix | None = None,
               hops: int | None = None, full: bool = False) -> list[Tensor]:  # fmt: skip
    """Return the last states of the compression tokens (B, K, D) at each hop.

        h^1 = M([q, S^1]),   h^{i+1} = M([q, p^i, S^{i+1}]),   p^i = W_recon h^i + b

    Every hop has the query before it once, and the soft prompts of the hop before it alone: its length does not grow.
    The queries' keys and values are computed once for all hops and carry no gradient, unless `full` (LoRA or
    `full_gradient` trains through them); through p^i the last hop trains the suffixes of the others.

    Args:
        model: an LLM2VecGen.
        before: input vectors (L_i, D) of what stands before the suffix.
        suffix: the first hop's (B, S, D).
        shared: keys and values of the tokens that all rows begin with.
        hops: how many are computed; None is all.
        full: whether gradients go through the queries.
    """
    with model.adapted():
        if not model.readout.reads_suffix:
            return [mean_states(model.backbone, before, full)[:, None]]
        if full:
            run = partial(model.backbone.full_pass, before)
        else:
            skip = 0 if shared is None else shared.lengths[0]
            prefix = model.backbone.prefix_pass([row[skip:] for row in before], shared)
            run = partial(model.backbone.suffix_pass, prefix)
        found = [run(suffix)[:, model.num_thought_tokens :]]
        for hop in range(1, model.num_hops if hops is None else hops):
            found.append(run(feed_back(model, found[-1], hop))[:, -model.num_compression_tokens :])
    return found


def feed_back(model: LLM2VecGen, states: Tensor, hop: int) -> Tensor:
    """States (B, K, D) of a hop, counted from 1 -> what stands behind the queries in the next (B, K + S, D)."""
    assert model.hop_suffixes is not None
    own = model.hop_suffixes[hop - 1].expand(len(states), -1, -1)  # (B, S, D)
    return torch.cat([model.project(states), own], dim=1)


def last_tail(model: LLM2VecGen, before: Sequence[Tensor], suffix: Tensor) -> Tensor:
    """Return what stands behind the queries in the last hop: the suffix itself where there is one hop."""
    if model.num_hops == 1:
        return suffix
    return feed_back(model, hop_states(model, before, suffix, hops=model.num_hops - 1)[-1], model.num_hops - 1)


def mean_states(backbone: Backbone, rows: Sequence[Tensor], gradient: bool) -> Tensor:
    """Input vectors of queries (L_i, D) -> the mean of each row's last states (B, D), 0 for a row without tokens."""
    lengths = [len(row) for row in rows]
    kind = torch.promote_types(backbone.dtype, torch.float32)
    found: list[Tensor] = [torch.zeros(backbone.hidden_size, dtype=kind, device=backbone.device)] * len(rows)
    batches = [list(range(len(rows)))] if gradient else backbone.micro_batches(lengths)
    with torch.set_grad_enabled(gradient):
        for batch in batches:
            filled = [row for row in batch if lengths[row]]
            if not filled:
                continue
            packed = torch.cat([backbone.vectors(rows[row]) for row in filled])  # (T, D)
            parts = backbone.runner.run(packed, [lengths[row] for row in filled]).split(
                [lengths[row] for row in filled]
            )
            for row, states in zip(filled, parts, strict=True):
                found[row] = states.to(kind).mean(dim=0)
    return torch.stack(found)
