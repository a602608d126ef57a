"""The passes of a model that keeps more than keys and values (recurrent or convolution layers): no prefix cache.

A prefix is the rows' input vectors, and every pass runs them again before the new ones. Rows are padded on the right
alone, which no earlier position of a causal model sees. Gradient reaches the new vectors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm2vec_gen.backbones.execution.decoding import Decoder
from llm2vec_gen.backbones.execution.padded import PaddedRunner
from llm2vec_gen.backbones.kv_prefix import Prefix

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class UncachedRunner(PaddedRunner):
    """The same results as PaddedRunner, for any causal LM that takes input vectors."""

    def __init__(self, lm: PreTrainedModel):
        super().__init__(lm)
        self.stateful = False  # set where decoding with the model's own cache has proved exact

    def run(self, vectors: Tensor, lengths: Sequence[int], prefix: Prefix | None = None,
            checkpointing: bool = False) -> Tensor:  # fmt: skip
        """Input vectors (T, D), rows of `lengths` end to end -> states after the final norm (T, D)."""
        if len(vectors) == 0 or prefix is None or prefix.inputs is None or not any(prefix.lengths):
            return super().run(vectors, lengths, None, checkpointing)
        rows = zip(prefix.inputs.split(prefix.lengths), vectors.split(list(lengths)), strict=True)
        # (all rows' earlier and new tokens, D), each row in one piece
        joined = torch.cat([part for row in rows for part in row])
        key_lengths = [past + new for past, new in zip(prefix.lengths, lengths, strict=True)]
        states = super().run(joined, key_lengths, None, checkpointing).split(key_lengths)
        return torch.cat([row[past_length:] for row, past_length in zip(states, prefix.lengths, strict=True)])

    def prefill(self, vectors: Tensor, lengths: Sequence[int], prefix: Prefix | None = None,
               ahead: Sequence[int] | None = None) -> Prefix:  # fmt: skip
        """Return the rows' input vectors (T, D) as their prefix; nothing is computed."""
        return Prefix(list(lengths), [], [], vectors.detach())

    def decoder(self, prefix: Prefix, capacity: int) -> Decoder:
        """Return a decoder with the model's own cache where that is exact (see `stateful`), else one without a
        cache."""
        return StatefulDecoder(self, prefix) if self.stateful else UncachedDecoder(self, prefix)


class UncachedDecoder:
    """Each step is a pass over the complete rows: exact for every causal LM, and slow."""

    def __init__(self, runner: UncachedRunner, prefix: Prefix):
        self.runner, self.prefix = runner, prefix

    def __call__(self, vectors: Tensor) -> Tensor:
        """Input vectors (B, D) of the next position -> its states after the final norm (B, D)."""
        ones = [1] * len(vectors)
        states = self.runner.run(vectors, ones, self.prefix)
        self.prefix = Prefix.extend(self.prefix, self.runner.prefill(vectors, ones))
        return states

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.prefix = self.prefix.rows(rows.tolist())

    def join(self, prefix: Prefix, capacity: int) -> None:
        """Add the prefix's rows behind the present ones."""
        self.prefix = Prefix.concatenate([self.prefix, prefix])


class StatefulDecoder:
    """Steps over the model's own cache, one cache per length of row: nothing is padded, so nothing leaks into a state.

    `groups` holds [places of the rows in the batch, their tokens so far, their cache].
    """

    def __init__(self, runner: UncachedRunner, prefix: Prefix):
        self.lm, self.rows = runner.lm, 0
        self.groups: list[list[Any]] = []
        self.join(prefix, 0)

    def join(self, prefix: Prefix, capacity: int) -> None:
        """Add the prefix's rows behind the present ones, in groups of their own."""
        inputs = prefix.like.split(prefix.lengths)
        for length in sorted(set(prefix.lengths)):
            rows = [row for row, other in enumerate(prefix.lengths) if other == length]
            cache = None  # an empty cache has no shape yet; the first step makes it
            if length:
                _, cache = self._step(torch.stack([inputs[row] for row in rows]), 0, None)
            self.groups.append([torch.tensor(rows, device=prefix.like.device) + self.rows, length, cache])
        self.rows += len(prefix)

    def _step(self, vectors: Tensor, past_length: int, cache: Any) -> tuple[Tensor, Any]:
        """Input vectors (b, n, D) after `past_length` tokens -> states of the last position (b, D), and the cache."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.lm.config) if cache is None else cache
        positions = torch.arange(past_length, past_length + vectors.shape[1], device=vectors.device).expand(
            len(vectors), -1
        )
        output = self.lm.base_model(
            inputs_embeds=vectors, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return output.last_hidden_state[:, -1], output.past_key_values

    def __call__(self, vectors: Tensor) -> Tensor:
        """Input vectors (B, D) of the next position -> its states after the final norm (B, D)."""
        result = torch.empty_like(vectors)
        for group in self.groups:
            places, length, cache = group
            result[places], group[2] = self._step(vectors[places][:, None], length, cache)
            group[1] += 1
        return result

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        kept = []
        for places, length, cache in self.groups:
            chosen = (places[None] == rows[:, None]).nonzero()  # (new place, place within the group)
            if len(chosen):
                if cache is not None:
                    cache.reorder_cache(chosen[:, 1])
                kept.append([chosen[:, 0], length, cache])
        self.groups, self.rows = kept, len(rows)
