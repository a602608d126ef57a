"""Batched decoding: prompts of like length together, one key/value cache per batch, stops per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm2vec_gen.backbones.batching import micro_batches
from llm2vec_gen.backbones.sampling import Sampler
from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone

Generated = tuple[Tensor, str]


def generate(backbone: Backbone, prompts: Sequence[Tensor], max_new_tokens: int, sampling: Mapping[str, Any] | None,
             seed: int | Sequence[int] | None, stop: bool) -> list[Generated]:  # fmt: skip
    """Continuations of prompts (ids or input vectors), in order; batches hold rows of similar length."""
    sampler = Sampler(sampling, seed, len(prompts))
    finished: list[Generated] = [(torch.empty(0, dtype=torch.long), "length")] * len(prompts)
    if max_new_tokens < 1:
        return finished
    for row, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise InputError(f"prompt {row} has no token to start from; give at least one token or vector")
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]
    for rows in micro_batches(lengths, max_tokens_in_cache(backbone)):
        results = _DecodingBatch(backbone, [prompts[row] for row in rows], rows, max_new_tokens, sampler, stop).run()
        for row, result in zip(rows, results, strict=True):
            finished[row] = result
    return finished


def max_tokens_in_cache(backbone: Backbone) -> int:
    """Return how many tokens' keys and values may exist at a time: 1 GB of them on the CPU, 8 GB on a GPU."""
    config = backbone.lm.config.get_text_config()
    all_heads = getattr(config, "num_attention_heads", None) or 1  # models without attention name none
    heads = getattr(config, "num_key_value_heads", None) or all_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // all_heads
    per_token = 2 * config.num_hidden_layers * heads * size * backbone.dtype.itemsize
    return max(1, (8 if backbone.device.type == "cuda" else 1) * 2**30 // per_token)


class _DecodingBatch:
    """Rows decoded side by side. `places` maps the rows still computed to their place in the batch."""

    def __init__(
        self, backbone: Backbone, prompts: list[Tensor], rows: list[int], limit: int, sampler: Sampler, stop: bool
    ):
        self.backbone, self.prompts, self.rows, self.limit, self.sampler = backbone, prompts, rows, limit, sampler
        self.stops = torch.tensor(backbone.stop_ids if stop else (), dtype=torch.long, device=backbone.device)
        self.out = torch.zeros((len(rows), limit), dtype=torch.long, device=backbone.device)
        self.ends: dict[int, int] = {}
        self.places = list(range(len(rows)))

    @torch.no_grad()
    def run(self) -> list[Generated]:
        """Prefill all but the last prompt position, then one token per row and step until every row has stopped."""
        vectors = [self.backbone.vectors(prompt) for prompt in self.prompts]
        decoder = self.backbone.runner.decoder(self.backbone.prefix_pass([row[:-1] for row in vectors]), self.limit)
        inputs = torch.stack([row[-1] for row in vectors])
        for position in range(self.limit):
            tokens = self._choose(self.backbone.logits(decoder(inputs)), position)
            self.out[self.places, position] = tokens
            alive = self._mark_stops(tokens, position)
            if not alive:
                break
            if len(alive) <= 0.75 * len(self.places):
                kept = torch.tensor(alive, device=tokens.device)
                decoder.keep(kept)
                tokens, self.places = tokens[kept], [self.places[index] for index in alive]
            inputs = self.backbone.embed(tokens)
        out = self.out.cpu()
        ends = [self.ends.get(place, self.limit) for place in range(len(self.rows))]
        return [(out[i, :end].clone(), "stop" if i in self.ends else "length") for i, end in enumerate(ends)]

    def _choose(self, logits: Tensor, position: int) -> Tensor:
        seen = []
        if self.sampler.penalty != 1.0:
            for place in self.places:
                prompt = self.prompts[place]
                known = prompt[:0].long() if prompt.is_floating_point() else prompt
                seen.append(torch.cat([known.flatten().to(self.out.device), self.out[place, :position]]))
        return self.sampler.choose(logits, [self.rows[place] for place in self.places], seen)

    def _mark_stops(self, tokens: Tensor, position: int) -> list[int]:
        """Note where rows met a stop id; returns the indices (among the computed rows) that have not."""
        if len(self.stops):
            for index in torch.isin(tokens, self.stops).nonzero().flatten().tolist():
                self.ends.setdefault(self.places[index], position)
        return [index for index, place in enumerate(self.places) if place not in self.ends]
