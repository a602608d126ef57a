"""The passes of the frozen language model in padded batches: for models whose attention cannot be packed.

The new rows are padded on the right, their prefixes on the left, so that each row lies in one piece; positions are
counted from the tokens themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llm2vec_gen.backbones.execution.checkpointing import checkpointed
from llm2vec_gen.backbones.execution.decoding import PaddedDecoder
from llm2vec_gen.backbones.execution.rope import RenewedDecoder, renewed
from llm2vec_gen.backbones.kv_prefix import Prefix
from llm2vec_gen.rotary import row_lengths, rows_apart


class PaddedRunner:
    """The same results as PackedRunner, for any causal LM that takes a mask, positions and a cache."""

    stops_early = fast_decoding = False  # as PackedRunner may

    def __init__(self, lm: Any):
        self.lm, self.ropes = lm, rows_apart(lm)

    def run(self, vectors: Tensor, lengths: Sequence[int], prefix: Prefix | None = None,
            checkpointing: bool = False) -> Tensor:  # fmt: skip
        """Input vectors (T, D), rows of `lengths` end to end -> states after the final norm (T, D)."""
        if len(vectors) == 0:
            return vectors
        with checkpointed(self.lm, checkpointing):
            output, valid, _ = self._forward(vectors, lengths, renewed(self, prefix, lengths), use_cache=False)
        return output.last_hidden_state[valid]

    @torch.no_grad()
    def prefill(self, vectors: Tensor, lengths: Sequence[int], prefix: Prefix | None = None,
               ahead: Sequence[int] | None = None) -> Prefix:  # fmt: skip
        """The rows' own keys and values, those of `prefix` not included; `ahead` as in PackedRunner."""
        if len(vectors) == 0:
            none = self.prefill(self.lm.get_input_embeddings().weight[:1], [1]).rows([])
            none.lengths, none.spans = list(lengths), None if none.spans is None else list(lengths)
            return none
        ahead = [0] * len(lengths) if ahead is None else ahead
        prefix = renewed(self, prefix, [a + b for a, b in zip(lengths, ahead, strict=True)])
        _, valid, cache = self._forward(vectors, lengths, prefix, True, ahead)
        own = [(layer.keys, layer.values) for layer in cache.layers]
        width = valid.shape[1]
        keys, values = ([pair[part][:, :, -width:].transpose(1, 2)[valid] for pair in own] for part in (0, 1))
        found = Prefix(list(lengths), keys, values)
        if self.ropes is not None:
            past = [0] * len(lengths) if prefix is None else prefix.lengths
            found.inputs = vectors.detach()
            found.spans = [sum(parts) for parts in zip(past, lengths, ahead, strict=True)]
        return found

    def decoder(self, prefix: Prefix, capacity: int) -> Any:
        """Return a decoder over the prefix for at most `capacity` more tokens per row."""
        return (
            self._decoder(prefix, capacity)
            if self.ropes is None
            else RenewedDecoder(self, prefix, capacity, self._decoder)
        )

    def _decoder(self, prefix: Prefix, capacity: int) -> Any:
        return PaddedDecoder(self.lm, prefix, capacity)

    def _forward(self, vectors: Tensor, lengths: Sequence[int], prefix: Prefix | None, use_cache: bool,
                 ahead: Sequence[int] | None = None) -> Any:  # fmt: skip
        from transformers import DynamicCache

        device = vectors.device
        padded = pad_sequence(list(vectors.split(list(lengths))), batch_first=True)
        own = torch.tensor(list(lengths), device=device)[:, None]
        valid = torch.arange(padded.shape[1], device=device) < own
        mask, start = valid, torch.zeros(len(valid), 1, dtype=torch.long, device=device)
        cache = DynamicCache() if use_cache else None
        if prefix is not None and any(prefix.lengths):
            cache = DynamicCache()
            earlier = prefix.fill(cache)
            mask, start = torch.cat([earlier, valid], dim=1), earlier.sum(1, keepdim=True)
        positions = (start + torch.arange(padded.shape[1], device=device)).expand(len(valid), -1)
        more = 0 if ahead is None else torch.tensor(list(ahead), device=device)[:, None]
        with row_lengths(None if self.ropes is None else (start + own + more).expand(positions.shape)):
            output = self.lm.base_model(
                inputs_embeds=padded, attention_mask=mask.long(), position_ids=positions, past_key_values=cache,
                use_cache=cache is not None,
            )  # fmt: skip
        return output, valid, cache
