"""Batched decoding: rows side by side over one key/value cache, each with its own limit, sampling and stop.

Rows join and leave between steps. `generate` decodes a list of prompts; the server keeps a `DecodingBatch` running.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm2vec_gen.backbones.batching import SHARED_FROM, common_prefix, micro_batches
from llm2vec_gen.backbones.sampling import Sampler
from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone
    from llm2vec_gen.backbones.kv_prefix import Prefix

Generated = tuple[Tensor, str]


def generate(backbone: Backbone, prompts: Sequence[Tensor], max_new_tokens: int, sampling: Mapping[str, Any] | None,
             seed: int | Sequence[int] | None, stop: bool) -> list[Generated]:  # fmt: skip
    """Continuations of prompts (ids or input vectors), in order; batches hold rows of similar length."""
    sampler = Sampler(sampling, seed, len(prompts))
    if max_new_tokens < 1:
        return [(torch.empty(0, dtype=torch.long), "length")] * len(prompts)
    rows = [DecodingRow(prompt, max_new_tokens, sampler, row, stop) for row, prompt in enumerate(prompts)]
    for row in rows:
        if len(row.prompt) == 0:
            raise InputError(f"prompt {row.number} has no token to start from; give at least one token or vector")
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]
    for places in micro_batches(lengths, max_tokens_in_cache(backbone)):
        batch = DecodingBatch(backbone)
        batch.join([rows[place] for place in places])
        while batch.rows:
            batch.step()
    return [(torch.tensor(row.ids, dtype=torch.long), row.reason or "length") for row in rows]


def max_tokens_in_cache(backbone: Backbone) -> int:
    """Return how many tokens' keys and values may exist at a time: 1 GB of them on the CPU, 8 GB on a GPU."""
    config = backbone.lm.config.get_text_config()
    all_heads = getattr(config, "num_attention_heads", None) or 1  # models without attention name none
    heads = getattr(config, "num_key_value_heads", None) or all_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // all_heads
    per_token = 2 * config.num_hidden_layers * heads * size * backbone.dtype.itemsize
    return max(1, (8 if backbone.device.type == "cuda" else 1) * 2**30 // per_token)


@dataclass(eq=False)
class DecodingRow:
    """One prompt and what has followed it so far.

    `prompt` is ids (P,) or input vectors (P, D); at most `limit` tokens follow. `number` is the row's place in its
    sampler. With `stop` the backbone's stop ids end it. `top_logprobs` n: `logprobs` gets, per token, its log
    probability and the n likeliest (id, log probability) of the model's own distribution (no temperature). `reason` is
    None while it runs, then "stop" or "length".
    """

    prompt: Tensor
    limit: int
    sampler: Sampler
    number: int = 0
    stop: bool = True
    top_logprobs: int | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    reason: str | None = None

    def add(self, token: int, stop_ids: Sequence[int]) -> None:
        """Take the next token: an end, or one more id."""
        if self.stop and token in stop_ids:
            self.reason = "stop"
            return
        self.ids.append(token)
        if len(self.ids) >= self.limit:
            self.reason = "length"

    def seen(self) -> Tensor:
        """Ids of the prompt, where it has any, and of what followed."""
        known = self.prompt[:0].long() if self.prompt.is_floating_point() else self.prompt
        return torch.cat([known.flatten().cpu(), torch.tensor(self.ids, dtype=torch.long)])


class DecodingBatch:
    """Rows decoded side by side; others may join before any step, and a row leaves with its last token.

    What a row gets depends on its prompt and sampler alone, beyond float noise of the logits.
    """

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self.rows: list[DecodingRow] = []
        self.decoder: Any = None
        self.inputs = torch.empty(0)

    @torch.no_grad()
    def join(self, rows: Sequence[DecodingRow]) -> None:
        """Add rows: a prefill of all but their last position. A row that has left before goes on where it was."""
        backbone = self.backbone
        vectors = [backbone.vectors(row.prompt) for row in rows]
        vectors = [
            torch.cat([own, backbone.embed(torch.tensor(row.ids))]) if row.ids else own
            for own, row in zip(vectors, rows, strict=True)
        ]
        prefix = self._prefill([row.prompt for row in rows], vectors)
        capacity = max(row.limit - len(row.ids) for row in rows)
        inputs = torch.stack([row[-1] for row in vectors])
        if self.rows:
            self.decoder.join(prefix, capacity)
            self.inputs = torch.cat([self.inputs, inputs])
        else:
            self.decoder, self.inputs = backbone.runner.decoder(prefix, capacity), inputs
        self.rows = [*self.rows, *rows]

    def _prefill(self, prompts: Sequence[Tensor], vectors: Sequence[Tensor]) -> Prefix:
        """Return the keys and values of all input vectors (P_i, D) but the last of each row.

        The beginning that all prompts of ids have in common (a chat template, its system prompt) is computed once.
        """
        ids = [prompt[:-1] for prompt in prompts if not prompt.is_floating_point()]
        common = common_prefix(ids) if 1 < len(ids) == len(prompts) else 0
        if common < SHARED_FROM:
            return self.backbone.prefix_pass([row[:-1] for row in vectors])
        shared = self.backbone.prefix_pass([vectors[0][:common]])
        return self.backbone.prefix_pass([row[common:-1] for row in vectors], shared)

    @torch.no_grad()
    def step(self) -> list[DecodingRow]:
        """Compute the next token of every row; return these rows, of which those with a `reason` have left."""
        rows = self.rows
        logits = self.backbone.logits(self.decoder(self.inputs))  # (B, V)
        tokens = self._choose(logits)
        chosen = tokens.tolist()
        self._add_logprobs(logits, chosen)
        for row, token in zip(rows, chosen, strict=True):
            row.add(token, self.backbone.stop_ids)
        self.inputs = self.backbone.embed(tokens)
        self.leave([row for row in rows if row.reason])
        return rows

    def leave(self, gone: Sequence[DecodingRow]) -> None:
        """Go on without these rows. The last ones take the free places, so that few are copied."""
        if not gone:
            return
        left = set(map(id, gone))
        places = [place for place, row in enumerate(self.rows) if id(row) not in left]
        if not places:
            self.rows, self.decoder = [], None
            return
        free = [place for place in range(len(places)) if id(self.rows[place]) in left]
        last = [place for place in places if place >= len(places)]
        moved = dict(zip(free, last, strict=True))
        order = [moved.get(place, place) for place in range(len(places))]
        kept = torch.tensor(order, device=self.inputs.device)
        self.decoder.keep(kept)
        self.inputs = self.inputs[kept]
        self.rows = [self.rows[place] for place in order]

    def _choose(self, logits: Tensor) -> Tensor:
        """Next tokens (B,); rows of one sampler are chosen together."""
        groups: dict[int, list[int]] = {}
        for place, row in enumerate(self.rows):
            groups.setdefault(id(row.sampler), []).append(place)
        tokens = torch.empty(len(self.rows), dtype=torch.long, device=logits.device)
        for places in groups.values():
            rows = [self.rows[place] for place in places]
            sampler = rows[0].sampler
            seen = [row.seen() for row in rows] if sampler.penalty != 1.0 else []
            own = logits if len(groups) == 1 else logits[places]
            tokens[places] = sampler.choose(own, [row.number for row in rows], seen)
        return tokens

    def _add_logprobs(self, logits: Tensor, tokens: list[int]) -> None:
        for place, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if row.top_logprobs is None or (row.stop and token in self.backbone.stop_ids):
                continue
            logprobs = logits[place].float().log_softmax(-1)
            best = logprobs.topk(row.top_logprobs)
            likeliest = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            row.logprobs.append((float(logprobs[token]), likeliest))
