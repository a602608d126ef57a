"""The frozen keys and values of queries: computed once, never part of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm2vec_gen.backbones.batching import offsets


@dataclass(slots=True)
class Prefix:
    """Keys and values of B queries, per layer (total tokens, key/value heads, head size), rows end to end.

    `lengths` says how many tokens each row has (0 is allowed). Nothing here carries a gradient.
    """

    lengths: list[int]
    keys: list[Tensor]
    values: list[Tensor]

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, chosen: Sequence[int]) -> Prefix:
        """The chosen rows, in the order given; a row may be named several times."""
        starts = offsets(self.lengths)
        pieces = [torch.arange(starts[row], starts[row + 1]) for row in chosen]
        index = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.long)
        lengths = [self.lengths[row] for row in chosen]
        if self.keys:
            index = index.to(self.keys[0].device)
        return Prefix(lengths, [key[index] for key in self.keys], [value[index] for value in self.values])

    @staticmethod
    def extend(first: Prefix, second: Prefix) -> Prefix:
        """Row by row, the tokens of `first` followed by those of `second`."""
        ends = offsets(first.lengths), offsets(second.lengths)
        pieces = []
        for row in range(len(first)):
            pieces.append(torch.arange(ends[0][row], ends[0][row + 1]))
            pieces.append(torch.arange(ends[1][row], ends[1][row + 1]) + ends[0][-1])
        index = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.long)
        if first.keys:
            index = index.to(first.keys[0].device)
        return Prefix(
            [a + b for a, b in zip(first.lengths, second.lengths, strict=True)],
            [torch.cat(pair)[index] for pair in zip(first.keys, second.keys, strict=True)],
            [torch.cat(pair)[index] for pair in zip(first.values, second.values, strict=True)],
        )

    @staticmethod
    def concatenate(parts: Sequence[Prefix]) -> Prefix:
        """All rows of the parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        return Prefix(
            [length for part in parts for length in part.lengths],
            [torch.cat(layer) for layer in zip(*(part.keys for part in parts), strict=True)],
            [torch.cat(layer) for layer in zip(*(part.values for part in parts), strict=True)],
        )
