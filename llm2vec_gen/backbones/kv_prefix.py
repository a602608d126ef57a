"""The frozen keys and values of queries: computed once, never part of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm2vec_gen.backbones.batching import offsets

if TYPE_CHECKING:
    from transformers import DynamicCache


@dataclass(slots=True)
class Prefix:
    """Keys and values of B queries, per layer (total tokens, key/value heads, head size), rows end to end.

    `lengths` is the number of tokens of each row (0 is allowed). `inputs` (total tokens, D) are the rows' input
    vectors, kept only where keys may have to be computed again (rope.py) or where the model has none (uncached.py: no
    layers then). `spans` is the length of text whose rotary frequencies each row's keys were computed with (rope.py).
    Nothing here carries a gradient.
    """

    lengths: list[int]
    keys: list[Tensor]
    values: list[Tensor]
    inputs: Tensor | None = None
    spans: list[int] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def like(self) -> Tensor:
        """A tensor on the device and in the dtype of this prefix."""
        found = self.keys[0] if self.keys else self.inputs
        assert found is not None
        return found

    def rows(self, chosen: Sequence[int]) -> Prefix:
        """Return the chosen rows, in the order given; a row may be named several times."""
        starts = offsets(self.lengths)
        pieces = [torch.arange(starts[row], starts[row + 1]) for row in chosen]
        spans = None if self.spans is None else [self.spans[row] for row in chosen]
        return self._gathered(pieces, [self.lengths[row] for row in chosen], spans)

    def fill(self, cache: DynamicCache) -> Tensor:
        """Lay the rows into an empty cache, padded on the left; return the mask of their tokens (B, longest)."""
        starts, width = offsets(self.lengths), max(self.lengths)
        device = self.keys[0].device
        mask = torch.arange(width, device=device) >= width - torch.tensor(self.lengths, device=device)[:, None]
        source = torch.zeros(mask.shape, dtype=torch.long, device=device)  # padding repeats token 0, which no row sees
        source[mask] = torch.arange(starts[-1], device=device)
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            # (total, heads, size) -> (B, longest, heads, size) -> (B, heads, longest, size)
            cache.update(keys[source].transpose(1, 2), values[source].transpose(1, 2), layer)
        return mask

    @staticmethod
    def extend(first: Prefix, second: Prefix) -> Prefix:
        """Return, row by row, the tokens of `first` followed by those of `second`."""
        ends = offsets(first.lengths), offsets(second.lengths)
        pieces = []
        for row in range(len(first)):
            pieces.append(torch.arange(ends[0][row], ends[0][row + 1]))
            pieces.append(torch.arange(ends[1][row], ends[1][row + 1]) + ends[0][-1])
        lengths = [a + b for a, b in zip(first.lengths, second.lengths, strict=True)]
        return Prefix.concatenate([first, second])._gathered(pieces, lengths, second.spans)

    @staticmethod
    def concatenate(parts: Sequence[Prefix]) -> Prefix:
        """Return all rows of the parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        inputs = [part.inputs for part in parts if part.inputs is not None]
        spans = [part.spans for part in parts if part.spans is not None]
        return Prefix(
            [length for part in parts for length in part.lengths],
            [torch.cat(layer) for layer in zip(*(part.keys for part in parts), strict=True)],
            [torch.cat(layer) for layer in zip(*(part.values for part in parts), strict=True)],
            torch.cat(inputs) if len(inputs) == len(parts) else None,
            [span for part in spans for span in part] if len(spans) == len(parts) else None,
        )

    def _gathered(self, pieces: list[Tensor], lengths: list[int], spans: list[int] | None) -> Prefix:
        index = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.long)
        index = index.to(self.like.device)
        keys, values = [key[index] for key in self.keys], [value[index] for value in self.values]
        return Prefix(lengths, keys, values, None if self.inputs is None else self.inputs[index], spans)
