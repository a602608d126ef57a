"""One new token per row and step, over keys and values that are kept between the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

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
        """Go on with these rows only, indices (b,) in the present batch, at least one."""

    def join(self, prefix: Prefix, capacity: int) -> None:
        """Add the prefix's rows behind the present ones, for at most `capacity` more tokens each."""


class PackedDecoder:
    """Steps over buffers (slots, key/value heads, columns, head size) per layer, one slot per row.

    A row's tokens lie at the left of its slot, and each row writes into its own next column. Rows of any length go
    side by side, leave and join, and no other row is copied; a mask hides the columns that a row has not reached. The
    object is its own attention layout (see attention.py).
    """

    def __init__(self, lm: PreTrainedModel, prefix: Prefix, capacity: int):
        self.lm = lm
        self.keys, self.values = ([_no_slots(packed) for packed in layers] for layers in (prefix.keys, prefix.values))
        self.lengths: list[int] = []  # tokens of each row so far
        self.limits: list[int] = []  # tokens that each row may have
        self.positions = torch.empty((0, 1), dtype=torch.long, device=prefix.keys[0].device)
        self.join(prefix, capacity)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Input vectors (B, D) of the next position -> its states after the final norm (B, D)."""
        self._begin(vectors)
        untouched = vectors.new_zeros((1, 1, 1, 1))
        output = self.lm.base_model(
            inputs_embeds=vectors[:, None], position_ids=self.positions, attention_mask=untouched,
            use_cache=False, layout=self,
        )  # fmt: skip
        self._advance()
        return output.last_hidden_state[:, 0]

    def _begin(self, vectors: Tensor) -> None:
        """Set what the layers of one step share: the columns to write to and to look at."""
        self.end = max(self.lengths) + 1
        self.mask = None
        if min(self.lengths) + 1 < self.end:
            self.slots = torch.arange(len(self.lengths), device=vectors.device)
            self.columns = self.positions[:, 0]
            unseen = torch.arange(self.end, device=vectors.device) > self.positions  # (B, end)
            self.mask = vectors.new_zeros(unseen.shape).masked_fill_(unseen, float("-inf"))[:, None, None]

    def _advance(self) -> None:
        self.positions = self.positions + 1
        self.lengths = [length + 1 for length in self.lengths]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Write each row's new key and value into its column and look at everything up to it."""
        rows, heads, _, size = query.shape
        keys, values = self.keys[layer][:rows], self.values[layer][:rows]
        if self.mask is None:
            keys[:, :, self.end - 1], values[:, :, self.end - 1] = key[:, :, 0], value[:, :, 0]
        else:
            keys[self.slots, :, self.columns] = key[:, :, 0]
            values[self.slots, :, self.columns] = value[:, :, 0]
        grouped = query.reshape(rows, keys.shape[1], heads // keys.shape[1], size)  # a group of heads shares its keys
        keys, values = keys[:, :, : self.end], values[:, :, : self.end]  # (B, key/value heads, end, size)
        output = scaled_dot_product_attention(grouped, keys, values, attn_mask=self.mask, scale=scaling)
        return output.reshape(rows, 1, heads, -1)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only; copied are those whose place changes."""
        order = rows.tolist()
        moved = [(to, place) for to, place in enumerate(order) if to != place]
        if moved:
            targets, sources = torch.tensor(moved, device=self.positions.device).T
            for buffer in (*self.keys, *self.values):
                buffer[targets] = buffer[sources]
        self.positions = self.positions[rows]
        self.lengths, self.limits = [self.lengths[row] for row in order], [self.limits[row] for row in order]

    def join(self, prefix: Prefix, capacity: int) -> None:
        """Add the prefix's rows behind the present ones, for at most `capacity` more tokens each."""
        first, rows = len(self.lengths), len(self.lengths) + len(prefix)
        limits = [*self.limits, *(length + capacity for length in prefix.lengths)]
        slots, _, columns, _ = self.keys[0].shape
        if rows > slots or max(limits) > columns or slots * columns > 4 * rows * max(limits):
            spare = rows // 4 if slots else 0  # rows that join one by one do not copy all others each time
            self._resize(rows + spare, max(limits))
        lengths = torch.tensor(prefix.lengths, device=self.positions.device)[:, None]
        valid = torch.arange(max(prefix.lengths), device=lengths.device) < lengths  # (b, longest)
        for buffers, layers in ((self.keys, prefix.keys), (self.values, prefix.values)):
            for buffer, packed in zip(buffers, layers, strict=True):
                # A row that has left may have overflowed: what is masked must be finite all the same.
                new = buffer[first:rows].zero_()
                new.transpose(1, 2)[:, : valid.shape[1]][valid] = packed
        self.positions = torch.cat([self.positions, lengths])
        self.lengths, self.limits = [*self.lengths, *prefix.lengths], limits

    def _resize(self, slots: int, columns: int) -> None:
        rows, longest = len(self.lengths), max(self.lengths, default=0)
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                buffers[layer] = old.new_zeros((slots, old.shape[1], columns, old.shape[3]))
                buffers[layer][:rows, :, :longest] = old[:rows, :, :longest]


class PaddedDecoder:
    """The same for models whose attention cannot be replaced: a growing cache and a 2-D mask."""

    def __init__(self, lm: PreTrainedModel, prefix: Prefix, capacity: int):
        self.lm = lm
        self._load(prefix)

    def _load(self, prefix: Prefix) -> None:
        from transformers import DynamicCache

        self.cache, device = DynamicCache(), prefix.keys[0].device
        self.positions = torch.tensor(prefix.lengths, device=device)[:, None]
        self.mask = torch.zeros((len(prefix), 0), dtype=torch.bool, device=device)
        if max(prefix.lengths):
            self.mask = prefix.fill(self.cache)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Input vectors (B, D) of the next position -> its states after the final norm (B, D)."""
        mask = torch.cat([self.mask, self.mask.new_ones((len(vectors), 1))], dim=1)
        output = self.lm.base_model(
            inputs_embeds=vectors[:, None], position_ids=self.positions, attention_mask=mask.long(),
            past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        self.mask, self.positions = mask, self.positions + 1
        return output.last_hidden_state[:, 0]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.cache.batch_select_indices(rows)
        self.positions, self.mask = self.positions[rows], self.mask[rows]

    def join(self, prefix: Prefix, capacity: int) -> None:
        """Add the prefix's rows behind the present ones."""
        layers: Any = self.cache.layers  # of plain attention: `_load` makes no others
        if self.mask.shape[1]:
            # (B, heads, columns, size) -> (B, columns, heads, size) -> (T, heads, size), padding dropped
            keys = [layer.keys.transpose(1, 2)[self.mask] for layer in layers]
            values = [layer.values.transpose(1, 2)[self.mask] for layer in layers]
        else:
            keys, values = [packed[:0] for packed in prefix.keys], [packed[:0] for packed in prefix.values]
        present = Prefix(self.mask.sum(1).tolist(), keys, values)
        self._load(Prefix.concatenate([present, Prefix(prefix.lengths, prefix.keys, prefix.values)]))


def _no_slots(packed: Tensor) -> Tensor:
    return packed.new_zeros((0, packed.shape[1], 0, packed.shape[2]))
