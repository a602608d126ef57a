"""Fast decoding: the layers are called as plain functions, since module calls dominate the time of one row.

The layers of Llama, Qwen2 and Qwen3 (and whatever is built like them) are a handful of products, norms and a rotation.
`decoder_layers` reads these tensors from the modules; `agrees` checks that a step gives the model's own states.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm2vec_gen.backbones.execution.decoding import PackedDecoder
from llm2vec_gen.backbones.frozen_linear import linear
from llm2vec_gen.backbones.kv_prefix import Prefix


class Layer(NamedTuple):
    """The frozen tensors of one decoder layer: (weight, bias) pairs, norm weights, and the sizes of its heads."""

    query: tuple[Tensor, Tensor | None]
    key: tuple[Tensor, Tensor | None]
    value: tuple[Tensor, Tensor | None]
    output: tuple[Tensor, Tensor | None]
    gate: tuple[Tensor, Tensor | None]
    up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]
    before_attention: Tensor
    before_feed_forward: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None
    scaling: float
    head_size: int


class FastDecoder(PackedDecoder):
    """PackedDecoder with the layers written out. `layers` are those of `decoder_layers(lm)`."""

    def __init__(self, lm: Any, prefix: Prefix, capacity: int, layers: list[Layer]):
        super().__init__(lm, prefix, capacity)
        self.layers = layers
        self.norm, self.epsilon = lm.base_model.norm.weight, lm.base_model.norm.variance_epsilon

    def __call__(self, vectors: Tensor) -> Tensor:
        """Input vectors (B, D) of the next position -> its states after the final norm (B, D)."""
        cos, sin = (part.transpose(0, 1) for part in self.lm.base_model.rotary_emb(vectors, self.positions.T))
        states = vectors
        for number, layer in enumerate(self.layers):
            states = states + self._attention(number, layer, self._normed(states, layer.before_attention), cos, sin)
            inner = self._normed(states, layer.before_feed_forward)
            inner = F.silu(linear(inner, *layer.gate)).mul_(linear(inner, *layer.up))
            states = states + linear(inner, *layer.down)
        self.column += 1
        self.positions = self.positions + 1
        return self._normed(states, self.norm)

    def _normed(self, states: Tensor, weight: Tensor) -> Tensor:
        wide = states.float()
        return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(self.epsilon))).to(states.dtype)

    def _attention(self, number: int, layer: Layer, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads = (-1, layer.head_size)
        query = linear(states, *layer.query).unflatten(-1, heads)
        key = linear(states, *layer.key).unflatten(-1, heads)
        value = linear(states, *layer.value).unflatten(-1, heads)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = self._normed(query, layer.query_norm), self._normed(key, layer.key_norm)
        query, key = (_rotated(part, cos, sin)[:, :, None] for part in (query, key))
        seen = self.attend(number, query, key, value[:, :, None], layer.scaling)
        return linear(seen.flatten(1), *layer.output)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of (B, heads, size) by (B, 1, size) each."""
    first, second = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat((-second, first), dim=-1), sin)


def decoder_layers(lm: Any) -> list[Layer]:
    """The layers' tensors; TypeError or AttributeError with the reason where a layer is built otherwise."""
    body = lm.base_model
    layers = [_layer(module) for module in body.layers]
    parts = {name for name, _ in body.named_children()}
    if parts != {"embed_tokens", "layers", "norm", "rotary_emb"}:
        raise TypeError(f"its body consists of {', '.join(sorted(parts))}")
    if not isinstance(body.norm.variance_epsilon, float):
        raise TypeError("its last norm has no epsilon")
    return layers


def _layer(module: Any) -> Layer:
    attention, inner = module.self_attn, module.mlp
    names = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, inner.gate_proj, inner.up_proj
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    fields: list[Any] = [_pair(part) for part in (*names, inner.down_proj)]
    fields += [module.input_layernorm.weight, module.post_attention_layernorm.weight]
    fields += [None if norm is None else norm.weight for norm in norms]
    fields += [float(attention.scaling), int(attention.head_dim)]
    return Layer(*fields)


def _pair(part: Any) -> tuple[Tensor, Tensor | None]:
    if not isinstance(part, nn.Linear) or type(part.weight) is not nn.Parameter or part._forward_hooks:
        raise TypeError("not a plain linear layer")
    return part.weight, part.bias


@torch.no_grad()
def agrees(lm: Any, layers: list[Layer], prefix: Prefix) -> bool:
    """Whether two fast steps after a small prefix give the states of the model's own modules."""
    rows = lm.get_input_embeddings().weight[: len(prefix)]
    fast, full = FastDecoder(lm, prefix, 2, layers), PackedDecoder(lm, prefix, 2)
    for _ in range(2):
        found, expected = fast(rows).float(), full(rows).float()
        scale = expected.abs().max().clamp_min(1e-6)
        if not bool((found - expected).abs().max() <= (1e-4 if rows.dtype == torch.float32 else 0.02) * scale):
            return False
    return True
