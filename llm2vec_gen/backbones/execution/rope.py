"""Keys and values under rotary positions that depend on the length of the text (rotary.py): never two kinds in a cache.

Keys that are kept from an earlier pass are computed again where the longer text has other frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm2vec_gen.backbones.kv_prefix import Prefix
from llm2vec_gen.rotary import row_lengths

if TYPE_CHECKING:
    from llm2vec_gen.backbones.execution.decoding import Decoder
    from llm2vec_gen.backbones.execution.select import Runner


def renewed(runner: Runner, prefix: Prefix | None, ahead: Sequence[int]) -> Prefix | None:
    """The prefix, its keys computed again in rows that have other frequencies once `ahead` tokens follow."""
    if runner.ropes is None or prefix is None or prefix.spans is None or prefix.inputs is None:
        return prefix
    spans = [length + more for length, more in zip(prefix.lengths, ahead, strict=True)]
    changed = zip(prefix.lengths, prefix.spans, spans, strict=True)
    stale = [row for row, (length, old, new) in enumerate(changed) if length and runner.ropes.differ(old, new)]
    parts, order = [prefix], list(range(len(prefix)))
    for row in stale:
        one = prefix.rows([row])
        assert one.inputs is not None
        order[row] = len(prefix) + len(parts) - 1
        parts.append(runner.prefill(one.inputs, one.lengths, ahead=[ahead[row]]))
    return Prefix.concatenate(parts).rows(order) if stale else prefix


class RenewedDecoder:
    """Decoding steps of a model whose keys depend on the length of the text: they start again where those change.

    Beyond the length from which every token changes the frequencies (dynamic NTK) each step is a complete pass, as
    decoding without a cache is. `build(prefix, capacity)` returns the runner's decoder.
    """

    def __init__(self, runner: Runner, prefix: Prefix, capacity: int, build: Callable[[Prefix, int], Decoder]):
        assert runner.ropes is not None
        self.runner, self.ropes, self.capacity, self.build = runner, runner.ropes, capacity, build
        self.prefix = prefix
        self.decoder: Decoder | None = None
        self.since: list[Tensor] = []

    def __call__(self, vectors: Tensor) -> Tensor:
        """Input vectors (B, D) of the next position -> its states after the final norm (B, D)."""
        lengths = [length + len(self.since) for length in self.prefix.lengths]
        spans = self.prefix.spans or lengths
        stale = any(self.ropes.differ(old, new + 1) for old, new in zip(spans, lengths, strict=True))
        if self.decoder is None or stale:
            self._restart(lengths)
        with row_lengths(torch.tensor(lengths, device=vectors.device)[:, None] + 1):
            states = self.decoder(vectors)  # type: ignore[misc]
        self.since.append(vectors)
        self.capacity -= 1
        return states

    def _restart(self, lengths: list[int]) -> None:
        """Start a decoder whose keys are those of a text of one token more."""
        if self.since:
            self._include_new_tokens()
        else:
            self.prefix = renewed(self.runner, self.prefix, [1] * len(lengths)) or self.prefix
            self.prefix.spans = [length + 1 for length in lengths]
        self.decoder = self.build(self.prefix, self.capacity)

    def _include_new_tokens(self) -> None:
        """Lay the tokens since the last start behind the prefix, with keys for a text of one token more."""
        inputs = self.prefix.inputs
        assert inputs is not None
        new = torch.stack(self.since, dim=1)  # (B, tokens since, D)
        rows = [torch.cat(pair) for pair in zip(inputs.split(self.prefix.lengths), new, strict=True)]
        self.prefix = Prefix.concatenate([self.runner.prefill(row, [len(row)], ahead=[1]) for row in rows])
        self.since = []

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.prefix = self.prefix.rows(rows.tolist())
        self.since = [vectors[rows] for vectors in self.since]
        if self.decoder is not None:
            self.decoder.keep(rows)

    def join(self, prefix: Prefix, capacity: int) -> None:
        """Add the prefix's rows behind the present ones; the next step starts a decoder for all of them."""
        if self.since:
            self._include_new_tokens()
        self.prefix = Prefix.concatenate([self.prefix, prefix])
        self.capacity, self.decoder = max(self.capacity, capacity), None
