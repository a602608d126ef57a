"""Everything that is faster on a CPU than the model's own modules, behind one switch: `backbone.cpu_kernels`.

auto uses both parts where each has agreed with the plain way on a small sample; none runs the model as it is.

- The fp32 products of linear layers through oneDNN (a private torch op), forward and for the gradient of the input:
  on one thread at SmolLM2-135M's shapes a training step takes 0.65 of the processor time, encoding 0.57.
- One decoding step with the layers of Llama, Qwen2 and Qwen3 (and whatever is built like them) written out as
  functions, since module calls dominate the time of few rows of a small model: 0.67 of the time of the pocket, 0.9 of
  SmolLM2-135M's. It serves on every device.

benchmarks/cpu_kernels.py measures both against none.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm2vec_gen.backbones.execution.decoding import PackedDecoder
from llm2vec_gen.backbones.fallbacks import warn_once
from llm2vec_gen.backbones.inputs import embedding_weight
from llm2vec_gen.backbones.kv_prefix import Prefix
from llm2vec_gen.errors import InputError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODES = ("auto", "none")


def check_mode(mode: str) -> None:
    """Raise InputError unless the value of `backbone.cpu_kernels` is known."""
    if mode not in MODES:
        raise InputError(f"backbone.cpu_kernels={mode!r}: expected {' or '.join(MODES)}")


# ---- products of linear layers

FEWEST_INPUTS = 512  # narrower layers lose: one row through 416 inputs takes 1.2 times as long as by default


class FrozenLinear(nn.Linear):
    """nn.Linear as it is, but for fp32 products on the CPU."""

    def forward(self, states: Tensor) -> Tensor:
        """states (..., in) -> (..., out)."""
        return linear(states, self.weight, self.bias)


def linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """states (..., in) @ weight (out, in)^T + bias by the faster product."""
    wide = weight.shape[1] >= FEWEST_INPUTS and states.numel() > 0 and not torch.compiler.is_compiling()
    fp32 = states.dtype == weight.dtype == torch.float32 and states.device.type == "cpu"
    if not (wide and fp32) or weight.requires_grad or not _available():
        return F.linear(states, weight, bias)
    if not (states.requires_grad and torch.is_grad_enabled()):
        return product(states, weight, bias)
    return _Product.apply(states, weight, bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return product(states, weight, bias)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return product(outer[0].contiguous(), ctx.weight.t(), None), None, None


def product(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """states @ weight^T + bias by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


def freeze_linears(lm: nn.Module) -> None:
    """Let the plain fp32 linear layers of a frozen model take the faster product, where this torch has it."""
    plain = [module for module in lm.modules() if type(module) is nn.Linear and module.weight.dtype == torch.float32]
    if not _available():
        if any(one.weight.device.type == "cpu" and one.in_features >= FEWEST_INPUTS for one in plain):
            warn_once(f"fp32 linear layers run by torch's default products instead of oneDNN's: {_missing()}")
        return
    for module in plain:
        module.__class__ = FrozenLinear


def _available() -> bool:
    return _missing() is None


@cache
def _missing() -> str | None:
    """Why the product cannot serve, or None: it agrees with the default one, forward and for the gradient."""
    if not torch.backends.mkldnn.is_available():
        return "this torch is built without it"
    generator = torch.Generator().manual_seed(0)
    states, weight, bias = (torch.randn(shape, generator=generator) for shape in ((64, 48), (80, 48), (80,)))
    try:
        forward = product(states, weight, bias) - F.linear(states, weight, bias)
        backward = product(F.linear(states, weight), weight.t(), None) - F.linear(states, weight) @ weight
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {one_line(error):.200}"
    errors = float(forward.abs().max()), float(backward.abs().max())
    return None if errors[0] < 1e-3 and errors[1] < 1e-2 else f"its results differ by {max(errors):.2g}"


# ---- decoding with the layers written out


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

    def __init__(self, lm: PreTrainedModel, prefix: Prefix, capacity: int, layers: list[Layer]):
        super().__init__(lm, prefix, capacity)
        self.layers = layers
        body: Any = lm.base_model  # built as `decoder_layers` expects
        self.norm, self.epsilon, self.rotary = body.norm.weight, body.norm.variance_epsilon, body.rotary_emb

    def __call__(self, vectors: Tensor) -> Tensor:
        """Input vectors (B, D) of the next position -> its states after the final norm (B, D)."""
        self._begin(vectors)
        cos, sin = (part.transpose(0, 1) for part in self.rotary(vectors, self.positions.T))
        states = vectors
        for number, layer in enumerate(self.layers):
            states = states + self._attention(number, layer, self._normed(states, layer.before_attention), cos, sin)
            inner = self._normed(states, layer.before_feed_forward)
            inner = F.silu(linear(inner, *layer.gate)).mul_(linear(inner, *layer.up))
            states = states + linear(inner, *layer.down)
        self._advance()
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


def decoder_layers(lm: PreTrainedModel) -> list[Layer]:
    """The layers' tensors; TypeError or AttributeError with the reason where a layer is built otherwise."""
    body: Any = lm.base_model
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
def agrees(lm: PreTrainedModel, layers: list[Layer], prefix: Prefix) -> bool:
    """Whether two fast steps after a small prefix give the states of the model's own modules."""
    rows = embedding_weight(lm)[: len(prefix)]
    fast, full = FastDecoder(lm, prefix, 2, layers), PackedDecoder(lm, prefix, 2)
    for _ in range(2):
        found, expected = fast(rows).float(), full(rows).float()
        scale = expected.abs().max().clamp_min(1e-6)
        if not bool((found - expected).abs().max() <= (1e-4 if rows.dtype == torch.float32 else 0.02) * scale):
            return False
    return True
