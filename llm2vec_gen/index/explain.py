"""Why a search returned a document: what query and hit decode to, the words both share, cosines token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.index.filters import Filter
from llm2vec_gen.index.vector_index import Hit, VectorIndex
from llm2vec_gen.types import Encoder, Reading

Expander = Callable[[Tensor], Tensor]
"""Vectors (n, E) -> soft prompts (n, K, D)."""

SharedWords = Callable[[Reading, Reading], Mapping[str, float]]
"""Two readings of the lens -> the words of both with their weights."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A hit in words. `gist` is what its embedding decodes to, `words` the lens words of all tokens.

    shared         lens words of both query and hit
    token_cosines  of the K soft prompts of query and hit, one by one
    baseline_rank  place of the document for the baseline, None where it is not among its first ones
    """

    hit: Hit
    gist: str
    words: list[str]
    shared: list[str]
    token_cosines: list[float]
    baseline_rank: int | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A query in words, its hits, and what the baseline finds (empty without one)."""

    query: str
    gist: str
    words: list[str]
    hits: list[Explained]
    baseline: list[Hit] = field(default_factory=list)


class Explainer:
    """Explains the hits of an index built by `model`.

    lens       the interpreter LogitLens, which reads stored soft prompts
    shared     interpreters.comparison.shared_words: (reading, reading) -> the words of both, the most probable first
    source     where the soft prompts of hits come from: "stored" (in the index), "expander", or "reencode" (the text
               is embedded again)
    baseline   an index of the same documents by another encoder, and that encoder
    """

    def __init__(self, model: Any, index: VectorIndex, lens: Any, shared: SharedWords,
                 source: str = "stored",
                 expander: Expander | None = None, baseline: tuple[VectorIndex, Encoder] | None = None,
                 max_new_tokens: int = 32):  # fmt: skip
        check_integer("max_new_tokens", max_new_tokens)
        index.header.check_fingerprint(model.fingerprint, index.folder)
        self.model, self.index, self.lens, self.max_new_tokens = model, index, lens, max_new_tokens
        self.shared = shared
        self.expander, self.baseline, self.source = expander, baseline, source
        if source not in ("stored", "expander", "reencode"):
            raise InputError(f"source={source}: expected stored, expander or reencode")
        if source == "expander" and expander is None:
            raise InputError("source=expander needs an expander")
        if source == "reencode" and not index.header.keeps_text:
            raise InputError(f"{index.folder} keeps no texts, so that hits cannot be embedded again")
        if source == "stored":
            index.soft_prompts_of([])  # an index without any is reported before the search

    @torch.no_grad()
    def explain(self, query: str, instruction: str | None = None, top: int = 3, where: Filter | None = None,
                **search: Any) -> Explanation:  # fmt: skip
        """Return the explanation of a query's `top` hits. instruction: None is the one that the index records."""
        instruction = self.index.header.instructions["query"] if instruction is None else instruction
        prompts = self.model.soft_prompts([query], instruction=instruction or None)  # (1, K, D)
        vector = self.model.align(prompts.to(self.model.device)).float().cpu().numpy()
        (hits,) = self.index.search(vector, top=top, where=where, **search)
        if not hits:
            return Explanation(query, self._gists(prompts)[0], words_of(self._readings(prompts)[0]), [])
        stored = self._prompts_of(hits)  # (top, K, D)
        both = torch.cat([prompts, stored])
        (own, *gists), readings = self._gists(both), self._readings(both)
        explained = explain_hits(both, hits, gists, readings, self.shared)
        other = self._baseline_hits(query, top, where)
        ranks = {hit.id: rank for rank, hit in enumerate(other, start=1)}
        explained = [replace(one, baseline_rank=ranks.get(one.hit.id)) for one in explained]
        return Explanation(query, own, words_of(readings[0]), explained, other)

    def _prompts_of(self, hits: Sequence[Hit]) -> Tensor:
        """Soft prompts (n, K, D) of hits, from where `source` says."""
        if self.source == "stored":
            return torch.from_numpy(self.index.soft_prompts_of([hit.id for hit in hits]))
        if self.source == "reencode":
            document = self.index.header.instructions["document"]
            return self.model.soft_prompts([hit.text or "" for hit in hits], instruction=document or None)
        assert self.expander is not None
        return self.expander(torch.from_numpy(self.index.vectors_of([hit.id for hit in hits]))).float().cpu()

    def _gists(self, prompts: Tensor) -> list[str]:
        return [gist(text) for text in self.model.decode(prompts, max_new_tokens=self.max_new_tokens)]

    def _readings(self, prompts: Tensor) -> list[Reading]:
        return self.lens.interpret(self.model, soft_prompts=prompts)

    def _baseline_hits(self, query: str, top: int, where: Filter | None) -> list[Hit]:
        if self.baseline is None:
            return []
        index, encoder = self.baseline
        vector = encoder.encode([query], instruction=index.header.instructions["query"] or None)
        return index.search(np.asarray(vector), top=top, where=where)[0]


def explain_hits(prompts: Tensor, hits: Sequence[Hit], gists: Sequence[str], readings: Sequence[Reading],
                 shared: SharedWords) -> list[Explained]:  # fmt: skip
    """Return the hits in words.

    prompts: soft prompts (1 + n, K, D) of the query and its n hits; readings: of the lens, 1 + n; gists: of the hits.
    """
    cosines = cosine_similarity(prompts[:1], prompts[1:], dim=2).tolist()  # (n, K)
    return [
        Explained(hit, text, words_of(read), list(shared(readings[0], read)), row)
        for hit, text, read, row in zip(hits, gists, readings[1:], cosines, strict=True)
    ]


def gist(text: str) -> str:
    """Return a decoded text in one line."""
    return " ".join(text.split())


def words_of(reading: Reading) -> list[str]:
    """Return the different words of a reading of the lens, position by position."""
    return list({word.casefold(): word for position in reading.words for word in position}.values())
