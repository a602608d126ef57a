"""Attention over rows laid end to end, plugged into transformers' own attention interface.

A pass hands a `Layout` through the language model as the keyword `layout`; without one the attention is transformers'
usual sdpa, so that the same model also generates and serves as an ordinary causal LM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from llm2vec_gen.backbones.batching import offsets
from llm2vec_gen.backbones.prefix import Prefix
from llm2vec_gen.backbones.varlen import varlen_attention

STRIP = 64  # queries of one CPU call: its kernel does not skip the keys after them
NOT_PACKED = ("softcap", "s_aux", "sliding_window", "position_bias")  # what some models hand to their attention
MIXED_AREA = 128 * 128  # rows of unlike lengths share one masked call up to this many scores


class PrefixDone(Exception):
    """The last layer's keys and values stand recorded; the rest of that layer would be computed for nobody."""


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(1, heads, T, head size) -> (1, T, heads, head size) by the pass's layout; plain sdpa where there is none."""
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    foreign = sorted(name for name in NOT_PACKED if kwargs.get(name) is not None)
    if foreign:
        raise NotImplementedError(f"packed attention has no {', '.join(foreign)}")
    return layout.attend(module.layer_idx, query, key, value, scaling), None


def register() -> None:
    """Make the attention known to transformers; masks for passes without a layout are those of sdpa."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class _Name(str):
    """The attention's name in a model's config: whoever unpickles it, in whatever process, registers the attention."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return _registered, ()


def _registered() -> str:
    register()
    return ATTENTION


ATTENTION = _Name("llm2vec_gen_packed")


class Block:
    """One attention call: `rows` samples of equal shape, or one mixed strip of unlike samples under a mask."""

    __slots__ = ("mask", "own", "own_start", "past", "past_start", "rows", "strip")

    def __init__(self, own_start: int, past_start: int, rows: int, own: int, past: int, mask: Tensor | None,
                 strip: int | None = None):  # fmt: skip
        self.own_start, self.past_start, self.rows = own_start, past_start, rows
        self.own, self.past, self.mask, self.strip = own, past, mask, strip


class Layout:
    """Who attends to whom in one packed pass: each row to its own prefix and, causally, to itself. Nobody else.

    `own` holds the rows' lengths in this pass; `prefix` their earlier keys and values. With `record` the pass's own
    keys and values are kept (`recorded`), and with `stop_after` = number of layers the pass ends at the last of them.
    """

    def __init__(self, own: Sequence[int], prefix: Prefix | None, like: Tensor, record: bool = False,
                 stop_after: int | None = None):  # fmt: skip
        self.own = list(own)
        self.past = list(prefix.lengths) if prefix is not None else [0] * len(self.own)
        self.prefix = prefix if prefix is not None and any(prefix.lengths) else None
        self.recorded: Prefix | None = Prefix(self.own, [], []) if record else None
        self.stop_after = stop_after
        device = like.device
        steps = [torch.arange(past, past + own) for past, own in zip(self.past, self.own, strict=True)]
        self.positions = torch.cat(steps)[None].to(device) if steps else torch.empty((1, 0), dtype=torch.long)
        self.varlen = varlen_attention(device, like.dtype) if device.type == "cuda" else None
        if self.varlen is None:
            self.blocks = blocks(self.own, self.past, like)
        else:
            self._index(device)

    def spans(self, ahead: Sequence[int] | None = None) -> list[int]:
        """Tokens of each row's text when `ahead` more (0) have followed this pass."""
        more = ahead or [0] * len(self.own)
        return [sum(parts) for parts in zip(self.past, self.own, more, strict=True)]

    def lengths(self, ahead: Sequence[int] | None = None) -> Tensor:
        """The same per position, (1, T)."""
        per_row = torch.tensor(self.spans(ahead), dtype=torch.long)
        return torch.repeat_interleave(per_row, torch.tensor(self.own, dtype=torch.long))[None]

    def _index(self, device: torch.device) -> None:
        """Cumulative lengths for the variable-length kernel, and the order that puts each prefix before its row."""
        own, past = offsets(self.own), offsets(self.past)
        both = offsets(a + b for a, b in zip(self.own, self.past, strict=True))
        self.own_ends = torch.tensor(own, dtype=torch.int32, device=device)
        self.both_ends = torch.tensor(both, dtype=torch.int32, device=device)
        self.longest = max(self.own, default=0), max((b - a for a, b in zip(both, both[1:], strict=False)), default=0)
        pieces = []
        for row in range(len(self.own)):
            pieces.append(torch.arange(past[row], past[row + 1]))
            pieces.append(torch.arange(own[row], own[row + 1]) + past[-1])
        self.order = torch.cat(pieces).to(device) if self.prefix is not None else None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Attention of one layer; heads stand before tokens on the way in, after them on the way out."""
        queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        if self.recorded is not None:
            self.recorded.keys.append(keys.detach())
            self.recorded.values.append(values.detach())
            if layer + 1 == self.stop_after:
                raise PrefixDone
        if self.varlen is None:
            return self._by_blocks(layer, queries, keys, values, scaling)[None]
        if self.prefix is not None:
            keys = torch.cat([self.prefix.keys[layer], keys])[self.order]
            values = torch.cat([self.prefix.values[layer], values])[self.order]
        return self.varlen(queries, keys, values, self.own_ends, self.both_ends, *self.longest, scaling)[None]

    def _by_blocks(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float | None) -> Tensor:
        outputs = []
        grouped = queries.shape[1] != keys.shape[1]
        for block in self.blocks:
            own = slice(block.own_start, block.own_start + block.rows * block.own)
            past = slice(block.past_start, block.past_start + block.rows * block.past)
            split = [tensor[own].unflatten(0, (block.rows, block.own)) for tensor in (queries, keys, values)]
            if block.past and self.prefix is not None:
                for place, earlier in ((1, self.prefix.keys), (2, self.prefix.values)):
                    before = earlier[layer][past].unflatten(0, (block.rows, block.past))
                    split[place] = torch.cat([before, split[place]], dim=1)
            query, key, value = (tensor.transpose(1, 2) for tensor in split)
            output = _in_strips(query, key, value, block, scale=scaling, enable_gqa=grouped)
            outputs.append(output.transpose(1, 2).flatten(0, 1))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _in_strips(query: Tensor, key: Tensor, value: Tensor, block: Block, **settings: Any) -> Tensor:
    """Causal attention of a block, (rows, heads, own, size); each strip of queries looks at the keys up to its end."""
    if block.strip is None:
        causal = block.mask is None and block.own > 1
        return scaled_dot_product_attention(query, key, value, attn_mask=block.mask, is_causal=causal, **settings)
    parts = []
    assert block.mask is not None
    for start in range(0, block.own, block.strip):
        own = slice(start, min(start + block.strip, block.own))
        seen = block.past + own.stop
        parts.append(
            scaled_dot_product_attention(
                query[:, :, own], key[:, :, :seen], value[:, :, :seen], attn_mask=block.mask[own, :seen], **settings
            )
        )
    return torch.cat(parts, dim=2)


def blocks(own: Sequence[int], past: Sequence[int], like: Tensor) -> list[Block]:
    """Neighbouring rows in as few attention calls as pay: equal shapes together, short unlike rows in masked strips."""
    groups: list[list[int]] = []
    for row in range(len(own)):
        if own[row] == 0:
            if groups:
                groups.append([])  # its prefix lies between its neighbours' and must not be read as theirs
            continue
        if groups and groups[-1] and _fits(groups[-1], row, own, past):
            groups[-1].append(row)
        else:
            groups.append([row])
    own_starts, past_starts = offsets(own), offsets(past)
    return [_block(group, own, past, own_starts, past_starts, like) for group in groups if group]


def _fits(group: list[int], row: int, own: Sequence[int], past: Sequence[int]) -> bool:
    alike = all(own[other] == own[row] and past[other] == past[row] for other in (group[0], group[-1]))
    width, height = sum(own[r] for r in group) + own[row], sum(own[r] + past[r] for r in group) + own[row] + past[row]
    return width * height <= MIXED_AREA or (alike and _uniform(group, own, past))


def _uniform(group: list[int], own: Sequence[int], past: Sequence[int]) -> bool:
    return all(own[row] == own[group[0]] and past[row] == past[group[0]] for row in group)


def _block(group: list[int], own: Sequence[int], past: Sequence[int], own_starts: list[int], past_starts: list[int],
           like: Tensor) -> Block:  # fmt: skip
    first = group[0]
    starts = own_starts[first], past_starts[first]
    if _uniform(group, own, past):
        strip = STRIP if like.device.type == "cpu" and own[first] > 2 * STRIP else None
        mask = _mask([own[first]], [past[first]], like) if (past[first] and own[first] > 1) or strip else None
        return Block(*starts, len(group), own[first], past[first], mask, strip)
    widths, heights = [own[row] for row in group], [past[row] for row in group]
    return Block(*starts, 1, sum(widths), sum(heights), _mask(widths, heights, like))


def _mask(own: list[int], past: list[int], like: Tensor) -> Tensor:
    """0 where a position may look, -inf elsewhere: (own, all pasts end to end followed by all owns end to end)."""
    rows = torch.arange(len(own))
    row_own = torch.repeat_interleave(rows, torch.tensor(own))
    row_past = torch.repeat_interleave(rows, torch.tensor(past))
    total = len(row_own)
    causal = torch.arange(total)[:, None] >= torch.arange(total)[None, :]
    seen = torch.cat([row_own[:, None] == row_past[None, :], (row_own[:, None] == row_own[None, :]) & causal], dim=1)
    mask = torch.zeros(seen.shape, dtype=like.dtype)
    return mask.masked_fill_(~seen, float("-inf")).to(like.device)
