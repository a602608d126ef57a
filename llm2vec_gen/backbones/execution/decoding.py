"""One new token per row and step, over keys and values that are kept between the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from llm2vec_gen.backbones.kv_prefix import Prefix

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Decoder(Protocol):
    """Decoding steps of B rows after their prefixes; every runner's `decoder` returns one."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """Input vectors (B, D) of the next position -> its states after the final norm (B, D)."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, indices (b,) in the present batch."""


class PackedDecoder:
    """Steps over buffers that are allocated once: (B, key/value heads, capacity, head size) per layer, nothing copied.

    Prompts lie at the right end of their region, so that the new tokens of all rows share one column; a mask hides
    the empty columns of shorter rows. The object is its own attention layout (see attention.py).
    """

    def __init__(self, lm: PreTrainedModel, prefix: Prefix, capacity: int):
        self.lm = lm
        lengths, self.column = prefix.lengths, max(prefix.lengths)
        device = prefix.keys[0].device
        self.positions = torch.tensor(lengths, device=device)[:, None]
        valid = torch.arange(self.column, device=device) >= self.column - self.positions
        self.keys = [_buffer(packed, valid, capacity) for packed in prefix.keys]
        self.values = [_buffer(packed, valid, capacity) for packed in prefix.values]
        self.attention_mask = None
        if min(lengths) < self.column:
            self.attention_mask = self.keys[0].new_zeros((len(lengths), 1, 1, self.column + capacity))
            self.attention_mask[:, 0, 0, : self.column].masked_fill_(~valid, float("-inf"))

    def __call__(self, vectors: Tensor) -> Tensor:
        """Input vectors (B, D) of the next position -> its states after the final norm (B, D)."""
        untouched = vectors.new_zeros((1, 1, 1, 1))
        output = self.lm.base_model(
            inputs_embeds=vectors[:, None], position_ids=self.positions, attention_mask=untouched,
            use_cache=False, layout=self,
        )  # fmt: skip
        self.column += 1
        self.positions = self.positions + 1
        return output.last_hidden_state[:, 0]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Write the new token's key and value into this column and look at everything up to it."""
        keys, values, end = self.keys[layer], self.values[layer], self.column + 1
        keys[:, :, self.column], values[:, :, self.column] = key[:, :, 0], value[:, :, 0]
        mask = None if self.attention_mask is None else self.attention_mask[..., :end]
        rows, heads, _, size = query.shape
        grouped = query.reshape(rows, keys.shape[1], heads // keys.shape[1], size)  # a group of heads shares its keys
        keys, values = keys[:, :, :end], values[:, :, :end]  # (B, key/value heads, end, size)
        output = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
        return output.reshape(rows, 1, heads, -1)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.keys, self.values = [key[rows] for key in self.keys], [value[rows] for value in self.values]
        self.positions = self.positions[rows]
        self.attention_mask = None if self.attention_mask is None else self.attention_mask[rows]


class PaddedDecoder:
    """The same for models whose attention cannot be replaced: a growing cache and a 2-D mask."""

    def __init__(self, lm: PreTrainedModel, prefix: Prefix, capacity: int):
        from transformers import DynamicCache

        self.lm, self.cache = lm, DynamicCache()
        device = prefix.keys[0].device
        self.positions = torch.tensor(prefix.lengths, device=device)[:, None]
        self.mask = torch.zeros((len(prefix), 0), dtype=torch.bool, device=device)
        if max(prefix.lengths):
            self.mask = prefix.fill(self.cache)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Input vectors (B, D) of the next position -> its states after the final norm (B, D)."""
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(vectors), 1))], dim=1)
        output = self.lm.base_model(
            inputs_embeds=vectors[:, None], position_ids=self.positions, attention_mask=self.mask.long(),
            past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        self.positions = self.positions + 1
        return output.last_hidden_state[:, 0]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.cache.batch_select_indices(rows)
        self.positions, self.mask = self.positions[rows], self.mask[rows]


def _buffer(packed: Tensor, valid: Tensor, capacity: int) -> Tensor:
    rows, width = valid.shape
    buffer = packed.new_zeros((rows, packed.shape[1], width + capacity, packed.shape[2]))
    buffer.transpose(1, 2)[:, :width][valid] = packed
    return buffer
