"""The passes of the frozen language model in padded batches: for models whose attention cannot be packed.

The new rows are padded on the right, their prefixes on the left, so that each row lies in one piece; positions are
counted from the tokens themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llm2vec_gen.backbones.execution.checkpointing import checkpointed
from llm2vec_gen.backbones.execution.decoding import Decoder, PaddedDecoder
from llm2vec_gen.backbones.execution.rope import RenewedDecoder, renewed
from llm2vec_gen.backbones.inputs import embedding_weight
from llm2vec_gen.backbones.kv_prefix import Prefix
from llm2vec_gen.rotary import row_lengths, rows_apart

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PaddedRunner:
    """The same results as PackedRunner, for any causal LM that takes a mask, positions and a cache."""

    stops_early = fast_decoding = False  # as PackedRunner may

    def __init__(self, lm: PreTrainedModel):
        self.lm, self.ropes = lm, rows_apart(lm)

    def run(self, vectors: Tensor, lengths: Sequence[int], prefix: Prefix | None = None,
            checkpointing: bool = False) -> Tensor:  # fmt: skip
        """Input vectors (T, D), rows of `lengths` end to end -> states after the final norm (T, D)."""
        if len(vectors) == 0:
            return vectors
        with checkpointed(self.lm) if checkpointing else nullcontext():
            output, valid, _ = self._forward(vectors, lengths, renewed(self, prefix, lengths), use_cache=False)
        return output.last_hidden_state[valid]

    @torch.no_grad()
    def prefill(self, vectors: Tensor, lengths: Sequence[int], prefix: Prefix | None = None,
               ahead: Sequence[int] | None = None) -> Prefix:  # fmt: skip
        """Return the rows' keys and values without those of `prefix`; `ahead` as in PackedRunner."""
        if len(vectors) == 0:
            none = self.prefill(embedding_weight(self.lm)[:1], [1]).rows([])
            none.lengths, none.spans = list(lengths), None if none.spans is None else list(lengths)
            return none
        ahead = [0] * len(lengths) if ahead is None else ahead
        prefix = renewed(self, prefix, [a + b for a, b in zip(lengths, ahead, strict=True)])
        _, valid, cache = self._forward(vectors, lengths, prefix, True, ahead)
        width = valid.shape[1]  # the cache holds the earlier columns too; the new ones are its last
        # (B, heads, columns, size) -> (B, width, heads, size) -> (T, heads, size), padding dropped
        keys = [layer.keys[:, :, -width:].transpose(1, 2)[valid] for layer in cache.layers]
        values = [layer.values[:, :, -width:].transpose(1, 2)[valid] for layer in cache.layers]
        found = Prefix(list(lengths), keys, values)
        if self.ropes is not None:
            past_lengths = [0] * len(lengths) if prefix is None else prefix.lengths
            found.inputs = vectors.detach()
            found.spans = [sum(parts) for parts in zip(past_lengths, lengths, ahead, strict=True)]
        return found

    def decoder(self, prefix: Prefix, capacity: int) -> Decoder:
        """Return a decoder over the prefix for at most `capacity` more tokens per row."""
        return (
            self._decoder(prefix, capacity)
            if self.ropes is None
            else RenewedDecoder(self, prefix, capacity, self._decoder)
        )

    def _decoder(self, prefix: Prefix, capacity: int) -> Decoder:
        return PaddedDecoder(self.lm, prefix, capacity)

    def _forward(self, vectors: Tensor, lengths: Sequence[int], prefix: Prefix | None, use_cache: bool,
                 ahead: Sequence[int] | None = None) -> Any:  # fmt: skip
        from transformers import DynamicCache

        device = vectors.device
        padded = pad_sequence(list(vectors.split(list(lengths))), batch_first=True)  # (B, width, D)
        query_lengths = torch.tensor(list(lengths), device=device)[:, None]
        valid = torch.arange(padded.shape[1], device=device) < query_lengths  # (B, width)
        # Positions continue each row's prefix, whatever its padding.
        mask, start = valid, torch.zeros(len(valid), 1, dtype=torch.long, device=device)
        cache = DynamicCache() if use_cache else None
        if prefix is not None and any(prefix.lengths):
            cache = DynamicCache()
            earlier = prefix.fill(cache)  # (B, longest prefix)
            mask, start = torch.cat([earlier, valid], dim=1), earlier.sum(1, keepdim=True)
        positions = (start + torch.arange(padded.shape[1], device=device)).expand(len(valid), -1)
        more = 0 if ahead is None else torch.tensor(list(ahead), device=device)[:, None]
        with row_lengths(None if self.ropes is None else (start + query_lengths + more).expand(positions.shape)):
            output = self.lm.base_model(
                inputs_embeds=padded, attention_mask=mask.long(), position_ids=positions, past_key_values=cache,
                use_cache=cache is not None,
            )  # fmt: skip
        return output, valid, cache
