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
from llm2vec_gen.backbones.execution.varlen import varlen_attention
from llm2vec_gen.backbones.kv_prefix import Prefix

QUERY_TILE = 64  # queries of one CPU call: its kernel does not skip the keys after them
NOT_PACKED = ("softcap", "s_aux", "sliding_window", "position_bias")  # what some models hand to their attention
MIXED_AREA = 128 * 128  # rows of different lengths use one masked call up to this many scores


class PrefixDone(Exception):
    """The last layer's keys and values are recorded; the rest of that layer is unused."""


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
    """The attention's name in a model's config: unpickling it registers the attention, in any process."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return _registered, ()


def _registered() -> str:
    register()
    return ATTENTION


ATTENTION = _Name("llm2vec_gen_packed")


class Block:
    """One attention call: `rows` samples of equal shape, or one masked call over rows of different lengths."""

    __slots__ = ("mask", "past_length", "past_start", "query_length", "query_start", "rows", "tile")

    def __init__(
        self,
        query_start: int,
        past_start: int,
        rows: int,
        query_length: int,
        past_length: int,
        mask: Tensor | None,
        tile: int | None = None,
    ):
        self.query_start, self.past_start, self.rows = query_start, past_start, rows
        self.query_length, self.past_length, self.mask, self.tile = query_length, past_length, mask, tile


class Layout:
    """The attention pattern of one packed pass: each row attends to its own prefix and, causally, to itself.

    `query_lengths` holds the rows' lengths in this pass; `prefix` their earlier keys and values. With `prefill` the
    pass's own keys and values are kept (`prefilled`), and with `stop_after` = number of layers the pass ends at the
    last of them.
    """

    def __init__(self, query_lengths: Sequence[int], prefix: Prefix | None, like: Tensor, prefill: bool = False,
                 stop_after: int | None = None):  # fmt: skip
        self.query_lengths = list(query_lengths)
        self.past_lengths = list(prefix.lengths) if prefix is not None else [0] * len(self.query_lengths)
        self.prefix = prefix if prefix is not None and any(prefix.lengths) else None
        self.prefilled: Prefix | None = Prefix(self.query_lengths, [], []) if prefill else None
        self.stop_after = stop_after
        device = like.device
        positions = [
            torch.arange(past, past + length)
            for past, length in zip(self.past_lengths, self.query_lengths, strict=True)
        ]
        self.positions = torch.cat(positions)[None].to(device) if positions else torch.empty((1, 0), dtype=torch.long)
        self.varlen = varlen_attention(device, like.dtype) if device.type == "cuda" else None
        if self.varlen is None:
            self.blocks = blocks(self.query_lengths, self.past_lengths, like)
        else:
            self._index(device)

    def spans(self, ahead: Sequence[int] | None = None) -> list[int]:
        """Tokens of each row's text when `ahead` more (0) have followed this pass."""
        more = ahead or [0] * len(self.query_lengths)
        return [sum(parts) for parts in zip(self.past_lengths, self.query_lengths, more, strict=True)]

    def lengths(self, ahead: Sequence[int] | None = None) -> Tensor:
        """The same per position, (1, T)."""
        per_row = torch.tensor(self.spans(ahead), dtype=torch.long)
        return torch.repeat_interleave(per_row, torch.tensor(self.query_lengths, dtype=torch.long))[None]

    def _index(self, device: torch.device) -> None:
        """Cumulative lengths for the variable-length kernel, and the order that puts each prefix before its row."""
        query_ends, past_ends = offsets(self.query_lengths), offsets(self.past_lengths)
        key_ends = offsets(a + b for a, b in zip(self.query_lengths, self.past_lengths, strict=True))
        self.query_ends = torch.tensor(query_ends, dtype=torch.int32, device=device)
        self.key_ends = torch.tensor(key_ends, dtype=torch.int32, device=device)
        self.longest = (
            max(self.query_lengths, default=0),
            max((b - a for a, b in zip(key_ends, key_ends[1:], strict=False)), default=0),
        )
        pieces = []
        for row in range(len(self.query_lengths)):
            pieces.append(torch.arange(past_ends[row], past_ends[row + 1]))
            pieces.append(torch.arange(query_ends[row], query_ends[row + 1]) + past_ends[-1])
        self.order = torch.cat(pieces).to(device) if self.prefix is not None else None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Attention of one layer; heads stand before tokens on the way in, after them on the way out."""
        queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (T, heads, size)
        if self.prefilled is not None:
            self.prefilled.keys.append(keys.detach())
            self.prefilled.values.append(values.detach())
            if layer + 1 == self.stop_after:
                raise PrefixDone
        if self.varlen is None:
            return self._by_blocks(layer, queries, keys, values, scaling)[None]
        if self.prefix is not None:
            keys = torch.cat([self.prefix.keys[layer], keys])[self.order]
            values = torch.cat([self.prefix.values[layer], values])[self.order]
        return self.varlen(queries, keys, values, self.query_ends, self.key_ends, *self.longest, scaling)[None]

    def _by_blocks(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float | None) -> Tensor:
        outputs = []
        grouped = queries.shape[1] != keys.shape[1]
        for block in self.blocks:
            span = slice(block.query_start, block.query_start + block.rows * block.query_length)
            past_span = slice(block.past_start, block.past_start + block.rows * block.past_length)
            split = [tensor[span].unflatten(0, (block.rows, block.query_length)) for tensor in (queries, keys, values)]
            if block.past_length and self.prefix is not None:
                for place, earlier in ((1, self.prefix.keys), (2, self.prefix.values)):
                    before = earlier[layer][past_span].unflatten(0, (block.rows, block.past_length))
                    split[place] = torch.cat([before, split[place]], dim=1)
            query, key, value = (tensor.transpose(1, 2) for tensor in split)
            output = _in_tiles(query, key, value, block, scale=scaling, enable_gqa=grouped)
            outputs.append(output.transpose(1, 2).flatten(0, 1))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _in_tiles(query: Tensor, key: Tensor, value: Tensor, block: Block, **settings: Any) -> Tensor:
    """Return causal attention of a block, (rows, heads, queries, size); each tile attends to the keys up to its end."""
    if block.tile is None:
        causal = block.mask is None and block.query_length > 1
        return scaled_dot_product_attention(query, key, value, attn_mask=block.mask, is_causal=causal, **settings)
    parts = []
    assert block.mask is not None
    for start in range(0, block.query_length, block.tile):
        span = slice(start, min(start + block.tile, block.query_length))
        seen = block.past_length + span.stop
        parts.append(
            scaled_dot_product_attention(
                query[:, :, span], key[:, :, :seen], value[:, :, :seen], attn_mask=block.mask[span, :seen], **settings
            )
        )
    return torch.cat(parts, dim=2)


def blocks(query_lengths: Sequence[int], past_lengths: Sequence[int], like: Tensor) -> list[Block]:
    """Group neighbouring rows into few attention calls: equal shapes together, short rows of different lengths in
    masked calls."""
    groups: list[list[int]] = []
    for row in range(len(query_lengths)):
        if query_lengths[row] == 0:
            if groups:
                groups.append([])  # its prefix lies between its neighbours' and must not be read as theirs
            continue
        if groups and groups[-1] and _fits(groups[-1], row, query_lengths, past_lengths):
            groups[-1].append(row)
        else:
            groups.append([row])
    query_starts, past_starts = offsets(query_lengths), offsets(past_lengths)
    return [_block(group, query_lengths, past_lengths, query_starts, past_starts, like) for group in groups if group]


def _fits(group: list[int], row: int, query_lengths: Sequence[int], past_lengths: Sequence[int]) -> bool:
    # Rows come sorted by length: the first and the last of a group stand for all of it.
    alike = all(
        query_lengths[other] == query_lengths[row] and past_lengths[other] == past_lengths[row]
        for other in (group[0], group[-1])
    )
    width, height = (
        sum(query_lengths[r] for r in group) + query_lengths[row],
        sum(query_lengths[r] + past_lengths[r] for r in group) + query_lengths[row] + past_lengths[row],
    )
    return width * height <= MIXED_AREA or (alike and _uniform(group, query_lengths, past_lengths))


def _uniform(group: list[int], query_lengths: Sequence[int], past_lengths: Sequence[int]) -> bool:
    return all(
        query_lengths[row] == query_lengths[group[0]] and past_lengths[row] == past_lengths[group[0]] for row in group
    )


def _block(
    group: list[int],
    query_lengths: Sequence[int],
    past_lengths: Sequence[int],
    query_starts: list[int],
    past_starts: list[int],
    like: Tensor,
) -> Block:
    first = group[0]
    starts = query_starts[first], past_starts[first]
    if _uniform(group, query_lengths, past_lengths):
        tile = QUERY_TILE if like.device.type == "cpu" and query_lengths[first] > 2 * QUERY_TILE else None
        mask = (
            _mask([query_lengths[first]], [past_lengths[first]], like)
            if (past_lengths[first] and query_lengths[first] > 1) or tile
            else None
        )
        return Block(*starts, len(group), query_lengths[first], past_lengths[first], mask, tile)
    widths, heights = [query_lengths[row] for row in group], [past_lengths[row] for row in group]
    return Block(*starts, 1, sum(widths), sum(heights), _mask(widths, heights, like))


def _mask(query_lengths: list[int], past_lengths: list[int], like: Tensor) -> Tensor:
    """0 where a position may look, -inf elsewhere: (queries, all rows' earlier tokens and then all rows' queries)."""
    rows = torch.arange(len(query_lengths))
    query_row = torch.repeat_interleave(rows, torch.tensor(query_lengths))
    past_row = torch.repeat_interleave(rows, torch.tensor(past_lengths))
    total = len(query_row)
    causal = torch.arange(total)[:, None] >= torch.arange(total)[None, :]
    seen = torch.cat([query_row[:, None] == past_row, (query_row[:, None] == query_row) & causal], dim=1)
    mask = torch.zeros(seen.shape, dtype=like.dtype)
    return mask.masked_fill_(~seen, float("-inf")).to(like.device)
