"""States after every layer of the language model, for readers of its inner layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llm2vec_gen.backbones.batching import micro_batches
from llm2vec_gen.backbones.execution.packed import PackedRunner
from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone


def number_of_layers(backbone: Backbone) -> int:
    """Return how many layers the language model has: states are numbered 0 (input vectors) to this (final norm)."""
    return int(backbone.lm.config.get_text_config().num_hidden_layers)


@torch.no_grad()
def layer_states(backbone: Backbone, rows: Sequence[Tensor], layers: Sequence[int]) -> list[dict[int, Tensor]]:
    """Return the states (L_i, D) of each row after the given layers, numbered as transformers' `hidden_states`.

    `rows` are ids (L_i,) or input vectors (L_i, D). Layer 0 is the input vectors, the last is after the final norm.
    """
    last = number_of_layers(backbone)
    for layer in layers:
        if not 0 <= layer <= last:
            raise InputError(f"layer {layer}: the language model has layers 0 (its input vectors) to {last}")
    blocks = _blocks(backbone.lm, last)
    lengths = [len(row) for row in rows]
    packs = isinstance(backbone.runner, PackedRunner)  # other runners pad rows that run together
    batches = (
        micro_batches(lengths, backbone.max_tokens_per_micro_batch) if packs else [[row] for row in range(len(rows))]
    )
    found: list[dict[int, Tensor]] = [{} for _ in rows]
    for batch in batches:
        kept: dict[int, Tensor] = {}
        packed = torch.cat([backbone.vectors(rows[row]) for row in batch])  # (T, D)
        with ExitStack() as hooks:
            for layer in set(layers) - {0, last}:
                handle = blocks[layer - 1].register_forward_hook(_keep(kept, layer))
                hooks.callback(handle.remove)
            states = backbone.runner.run(packed, [lengths[row] for row in batch])
        kept |= {layer: vectors for layer, vectors in ((0, packed), (last, states)) if layer in layers}
        for layer, vectors in kept.items():
            parts = vectors.split([lengths[row] for row in batch])
            for row, part in zip(batch, parts, strict=True):
                found[row][layer] = part.clone()
    return found


def _keep(kept: dict[int, Tensor], layer: int) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output  # (1, T, D)
        kept[layer] = states.reshape(-1, states.shape[-1])

    return hook


def _blocks(lm: Any, count: int) -> nn.ModuleList:
    """The model's layers, in order."""
    for module in lm.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise InputError(f"{type(lm).__name__} has no list of {count} layers; only its last states can be read")
