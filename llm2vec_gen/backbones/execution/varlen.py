"""The variable-length attention kernel of CUDA devices, trusted only after it has agreed with sdpa once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.backbones.batching import offsets
from llm2vec_gen.backbones.fallbacks import warn_once

Kernel = Callable[..., Tensor]


@cache
def varlen_attention(device: torch.device, dtype: torch.dtype) -> Kernel | None:
    """Return the kernel, called as (queries, keys, values, query_ends, key_ends, longest_query, longest_key, scaling),
    or None.

    Queries are (T, heads, head size), keys and values (all keys, key/value heads, head size), rows end to end; the ends
    are cumulative lengths, int32 (rows + 1,).

    None where this torch has no such kernel, the dtype is not a half precision, or no way of calling it agrees with
    sdpa on a small causal sample with prefixes (forward and backward); sdpa then serves row by row.
    """
    if device.type != "cuda":
        return None
    slower = "packed passes attend row by row instead of by torch's variable-length attention"
    if dtype not in (torch.bfloat16, torch.float16):
        warn_once(f"{slower}: it takes bfloat16 and float16, the backbone is in {dtype}")
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        warn_once(f"{slower}: torch {torch.__version__} has none ({error})")
        return None
    reasons = []
    for make in (_window_gqa, _window_repeat, _causal_flag):
        kernel = make(varlen_attn)
        try:
            _check(kernel, device, dtype)
        except Exception as error:
            reasons.append(f"{make.__name__}: {type(error).__name__}: {error}")
        else:
            return kernel
    warn_once(f"{slower}: it does not agree with sdpa here ({'; '.join(reasons)[:400]})")
    return None


def _window_gqa(varlen_attn: Any) -> Kernel:
    """torch 2.13: a window of (everything before, nothing after) is causal, aligned to the last query and key."""

    def attend(
        q: Tensor, k: Tensor, v: Tensor, ends: Tensor, key_ends: Tensor, n: int, m: int, scale: float | None
    ) -> Any:
        grouped = q.shape[1] != k.shape[1]
        return varlen_attn(q, k, v, ends, key_ends, n, m, scale=scale, window_size=(-1, 0), enable_gqa=grouped)

    return attend


def _window_repeat(varlen_attn: Any) -> Kernel:
    """As above for releases without grouped heads: keys and values are repeated."""

    def attend(
        q: Tensor, k: Tensor, v: Tensor, ends: Tensor, key_ends: Tensor, n: int, m: int, scale: float | None
    ) -> Any:
        k, v = _repeated(q, k, v)
        return varlen_attn(q, k, v, ends, key_ends, n, m, scale=scale, window_size=(-1, 0))

    return attend


def _causal_flag(varlen_attn: Any) -> Kernel:
    """The first releases: a causal flag and no scale, so that the scale goes into the queries."""

    def attend(
        q: Tensor, k: Tensor, v: Tensor, ends: Tensor, key_ends: Tensor, n: int, m: int, scale: float | None
    ) -> Any:
        k, v = _repeated(q, k, v)
        if scale is not None:
            q = q * (scale * q.shape[-1] ** 0.5)
        return varlen_attn(q, k, v, ends, key_ends, n, m, is_causal=True)

    return attend


def _repeated(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    times = q.shape[1] // k.shape[1]
    return (k, v) if times == 1 else (k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1))


def _check(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> None:
    """Raise unless outputs and gradients of two unlike rows with prefixes equal those of masked sdpa."""
    query_lengths, key_lengths, heads, key_heads, size = [5, 3], [9, 12], 4, 2, 64
    generator = torch.Generator().manual_seed(0)
    shapes = (sum(query_lengths), heads, size), (sum(key_lengths), key_heads, size), (sum(key_lengths), key_heads, size)
    tensors = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    weight = torch.randn(shapes[0], generator=generator).to(device, dtype)
    ends = [torch.tensor(offsets(n), dtype=torch.int32, device=device) for n in (query_lengths, key_lengths)]
    with torch.enable_grad():
        output = kernel(*tensors, *ends, max(query_lengths), max(key_lengths), 0.1)
        gradients = torch.autograd.grad((output * weight).sum(), tensors)
        pieces, start, key_start = [], 0, 0
        for n, m in zip(query_lengths, key_lengths, strict=True):
            q, k, v = (
                tensors[0][start : start + n],
                tensors[1][key_start : key_start + m],
                tensors[2][key_start : key_start + m],
            )
            start, key_start = start + n, key_start + m
            # The last query stands at the last key: query i sees keys up to m - n + i.
            scores = torch.einsum("qhd,khd->hqk", q.float(), k.float().repeat_interleave(2, dim=1)) * 0.1
            future = torch.ones(n, m, dtype=torch.bool, device=device).triu(m - n + 1)
            probability = scores.masked_fill(future, float("-inf")).softmax(-1)
            pieces.append(torch.einsum("hqk,khd->qhd", probability, v.float().repeat_interleave(2, dim=1)))
        expected = torch.cat(pieces)
        expected_gradients = torch.autograd.grad((expected * weight.float()).sum(), tensors)
    for got, wanted in zip((output, *gradients), (expected, *expected_gradients), strict=True):
        error = (got.float() - wanted.float()).abs().max().item()
        if not error < 0.05:
            raise RuntimeError(f"differs from sdpa by {error:.3g}")
