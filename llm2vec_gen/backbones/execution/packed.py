"""The passes of the frozen language model without any padding: rows lie end to end in one (1, T, D) sequence."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm2vec_gen.backbones.execution.attention import ATTENTION, Layout, PrefixDone, register
from llm2vec_gen.backbones.execution.checkpointing import checkpointed
from llm2vec_gen.backbones.execution.cpu_kernels import FastDecoder, agrees, decoder_layers
from llm2vec_gen.backbones.execution.decoding import Decoder, PackedDecoder
from llm2vec_gen.backbones.execution.rope import RenewedDecoder, renewed
from llm2vec_gen.backbones.fallbacks import warn_once
from llm2vec_gen.backbones.inputs import embedding_weight
from llm2vec_gen.backbones.kv_prefix import Prefix
from llm2vec_gen.errors import one_line
from llm2vec_gen.rotary import row_lengths, rows_apart

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PackedRunner:
    """Linear layers see exactly the tokens there are; attention is per row. Exact, and free of leaks between rows."""

    def __init__(self, lm: PreTrainedModel):
        register()
        lm.set_attn_implementation(ATTENTION)
        self.lm, self.ropes = lm, rows_apart(lm)
        self._fast_is_exact: dict[tuple[torch.device, torch.dtype], bool] = {}
        self.layers = lm.config.get_text_config().num_hidden_layers
        self.stops_early = True
        self.fast_decoding = True  # decode by cpu_kernels.py where that is exact

    def run(self, vectors: Tensor, lengths: Sequence[int], prefix: Prefix | None = None,
            checkpointing: bool = False) -> Tensor:  # fmt: skip
        """Input vectors (T, D), rows of `lengths` end to end -> states after the final norm (T, D)."""
        if len(vectors) == 0:
            return vectors
        prefix = prefix if self.ropes is None else renewed(self, prefix, lengths)
        layout = Layout(lengths, prefix, vectors)
        with checkpointed(self.lm) if checkpointing else nullcontext():
            return self._forward(vectors, layout)

    @torch.no_grad()
    def prefill(self, vectors: Tensor, lengths: Sequence[int], prefix: Prefix | None = None,
               ahead: Sequence[int] | None = None) -> Prefix:  # fmt: skip
        """Return the rows' keys and values without those of `prefix`; the last layer's states are never computed.

        `ahead` tokens will follow each row (0): their number matters to some rotary positions (rope.py).
        """
        stop = self.layers if self.stops_early else None
        ahead = [0] * len(lengths) if ahead is None else ahead
        if self.ropes is not None:
            prefix = renewed(self, prefix, [a + b for a, b in zip(lengths, ahead, strict=True)])
        layout = Layout(lengths, prefix, vectors, prefill=True, stop_after=stop)
        if len(vectors) == 0:
            return self._empty(lengths)
        with suppress(PrefixDone):  # raised by the last layer's attention, whose output nobody reads
            self._forward(vectors, layout, ahead)
        found = layout.prefilled
        assert found is not None and len(found.keys) == self.layers
        if self.ropes is not None:
            found.inputs, found.spans = vectors.detach(), layout.spans(ahead)
        return found

    def decoder(self, prefix: Prefix, capacity: int) -> Decoder:
        """Return a decoder over the prefix for at most `capacity` more tokens per row: the fast one where it is
        exact."""
        return (
            self._decoder(prefix, capacity)
            if self.ropes is None
            else RenewedDecoder(self, prefix, capacity, self._decoder)
        )

    def _decoder(self, prefix: Prefix, capacity: int) -> Decoder:
        if not self.fast_decoding:
            return PackedDecoder(self.lm, prefix, capacity)
        try:
            layers = decoder_layers(self.lm)
            key = prefix.like.device, prefix.like.dtype
            if key not in self._fast_is_exact:
                self._fast_is_exact[key] = agrees(self.lm, layers, prefix.rows(range(min(2, len(prefix)))))
            if self._fast_is_exact[key]:
                return FastDecoder(self.lm, prefix, capacity, layers)
            reason = "fast decoding gives other states than its own modules"
        except (AttributeError, TypeError) as error:
            reason = one_line(error)
        warn_once(f"{type(self.lm).__name__} decodes through its own modules, which is slower for few rows: {reason}")
        return PackedDecoder(self.lm, prefix, capacity)

    def _forward(self, vectors: Tensor, layout: Layout, ahead: Sequence[int] | None = None) -> Tensor:
        # A 4-D mask is handed through as it is: transformers then builds none over the packed rows, and the layout
        # replaces it.
        untouched = vectors.new_zeros((1, 1, 1, 1))
        with nullcontext() if self.ropes is None else row_lengths(layout.lengths(ahead)):
            output = self.lm.base_model(
                inputs_embeds=vectors[None], position_ids=layout.positions, attention_mask=untouched,
                use_cache=False, layout=layout,
            )  # fmt: skip
        return output.last_hidden_state[0]  # (1, T, D) -> (T, D)

    def _empty(self, lengths: Sequence[int]) -> Prefix:
        """Return a prefix without tokens; the shapes of keys and values are those of one token's."""
        none = self.prefill(embedding_weight(self.lm)[:1], [1]).rows([])
        none.lengths, none.spans = list(lengths), None if none.spans is None else list(lengths)
        return none
