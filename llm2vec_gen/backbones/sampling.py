"""Choosing the next token: greedy, or drawn with the usual settings from a generator of the row's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.errors import InputError

LEAST_TEMPERATURE = 1e-6
"""Lower ones draw the most likely token all the same, and would make logits infinite."""

KNOWN = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")


class Sampler:
    """Next tokens for logits (rows, V). Each row draws from its own seeded generator, so batch mates do not matter.

    `seed`: one for all, from which each row gets its own, or one per row.
    """

    def __init__(self, sampling: Mapping[str, Any] | None, seed: int | Sequence[int] | None, rows: int):
        if sampling is not None and not isinstance(sampling, Mapping):
            raise InputError(f"sampling is a {type(sampling).__name__}; expected a mapping of {', '.join(KNOWN)}")
        self.settings = dict(sampling or {})
        unknown = sorted(set(self.settings) - set(KNOWN))
        if unknown:
            raise InputError(f"unknown sampling setting(s) {', '.join(unknown)}; known are {', '.join(KNOWN)}")
        for name, value in self.settings.items():
            if value is not None and (not isinstance(value, Real) or not math.isfinite(value)):
                raise InputError(f"sampling {name}={value!r}: expected a number")
        if not 0 <= (self.settings.get("top_p") or 0) <= 1:
            raise InputError(f"sampling top_p={self.settings['top_p']}: expected a number from 0 to 1")
        self.draws = bool(self.settings.get("do_sample", bool(self.settings)))
        temperature = self.settings.get("temperature")
        self.temperature = 1.0 if temperature is None else float(temperature)
        self.draws = self.draws and self.temperature != 0  # 0 means greedy, as servers understand it
        self.penalty = float(self.settings.get("repetition_penalty") or 1.0)
        if self.temperature < 0 or self.penalty <= 0:
            raise InputError(
                f"sampling temperature {self.temperature} and repetition_penalty {self.penalty}: expected numbers "
                "above 0; for greedy decoding leave sampling out"
            )
        self.generators = []
        if self.draws:
            if not isinstance(seed, Sequence):
                base = int(torch.initial_seed() % 2**31) if seed is None else int(seed)
                seed = [(base * 1_000_003 + row) % 2**63 for row in range(rows)]
            self.generators = [torch.Generator().manual_seed(int(own)) for own in seed]

    def choose(self, logits: Tensor, rows: list[int], seen: list[Tensor]) -> Tensor:
        """Next token (len(rows),) for the given rows of the call; `seen` holds the ids each row has had so far."""
        if self.penalty != 1.0:
            logits = self._penalised(logits, seen)
        if not self.draws:
            return logits.argmax(-1)
        probabilities = self._probabilities(logits.float().cpu())
        draws = zip(rows, probabilities, strict=True)
        picks = [torch.multinomial(probability, 1, generator=self.generators[row]) for row, probability in draws]
        return torch.cat(picks).to(logits.device)

    def _penalised(self, logits: Tensor, seen: list[Tensor]) -> Tensor:
        logits = logits.clone()
        for row, ids in enumerate(seen):
            past = ids.to(logits.device)
            scores = logits[row, past]
            logits[row, past] = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
        return logits

    def _probabilities(self, logits: Tensor) -> Tensor:
        logits = logits / max(self.temperature, LEAST_TEMPERATURE)
        top_k = int(self.settings.get("top_k") or 0)
        if 0 < top_k < logits.shape[-1]:
            floor = logits.topk(top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < floor, float("-inf"))
        top_p = float(self.settings.get("top_p") or 1.0)
        if top_p < 1.0:
            ordered, places = logits.sort(dim=-1, descending=True)
            probabilities = ordered.softmax(-1)
            left_out = probabilities.cumsum(-1) - probabilities >= top_p
            left_out[..., 0] = False  # a top_p that float32 rounds to 0 keeps the most likely token too
            ordered = ordered.masked_fill(left_out, float("-inf"))
            logits = torch.full_like(logits, float("-inf")).scatter(-1, places, ordered)
        return logits.softmax(-1)
