"""Queries against a corpus, exactly: the best documents of each query, and the scores trec_eval would give."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.evaluations.base import encoder_name
from llm2vec_gen.types import Encoder

CHUNK = 256  # queries ranked at a time
SIMILARITIES = ("cosine", "dot")

Ranking = list[str]  # document ids, best first


def vectors(encoder: Encoder, texts: Sequence[str], instruction: str | None) -> Tensor:
    """Return (N, E) float32; each different text is encoded once. Raise RuntimeError if a vector is not finite."""
    unique = list(dict.fromkeys(texts))
    rows = encoder.encode(unique, instruction=instruction)
    broken = [text for text, good in zip(unique, torch.isfinite(rows).all(-1).tolist(), strict=True) if not good]
    if broken:
        raise RuntimeError(
            f"{encoder_name(encoder)} gave vectors that are not finite for {len(broken)} of {len(unique)} texts; the "
            f"first is {broken[0][:80]!r}"
        )
    place = {text: row for row, text in enumerate(unique)}
    return rows[[place[text] for text in texts]]


def rank(
    queries: Mapping[str, Tensor],
    corpus: Mapping[str, Tensor],
    k: int,
    similarity: str = "cosine",
    excluded: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Ranking]:
    """Return the k best documents of each query, best first, without those that it excludes.

    Of equal scores the later id (by letter) goes first, as in trec_eval. `similarity`: "cosine" or "dot".
    """
    ids = sorted(corpus, reverse=True)
    documents = _scaled(torch.stack([corpus[id_] for id_ in ids]), similarity)
    place = {id_: row for row, id_ in enumerate(ids)}
    names = list(queries)
    found: dict[str, Ranking] = {}
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        scores = _scaled(torch.stack([queries[name] for name in chunk]), similarity) @ documents.T
        for row, name in enumerate(chunk):
            out = [place[id_] for id_ in (excluded or {}).get(name, ()) if id_ in place]
            scores[row, out] = -math.inf
            order = scores[row].sort(descending=True, stable=True).indices[: min(k, len(ids) - len(out))]
            found[name] = [ids[index] for index in order.tolist()]
    return found


def _scaled(rows: Tensor, similarity: str) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1) if similarity == "cosine" else rows


def ndcg(ranking: Ranking, relevant: Mapping[str, int], k: int = 10) -> float:
    """Return trec_eval's ndcg_cut: sum of grade / log2(rank + 1) over the first k, over that of the ideal order."""
    gains = [max(0, relevant.get(id_, 0)) for id_ in ranking[:k]]
    ideal = sorted((grade for grade in relevant.values() if grade > 0), reverse=True)[:k]
    best = sum(gain / math.log2(place + 2) for place, gain in enumerate(ideal))
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains)) / best if best else 0.0


def recall(ranking: Ranking, relevant: Mapping[str, int], k: int = 10) -> float:
    """Return the fraction of the relevant documents that are among the first k."""
    wanted = {id_ for id_, grade in relevant.items() if grade > 0}
    return len(wanted & set(ranking[:k])) / len(wanted) if wanted else 0.0


def hit(ranking: Ranking, relevant: Mapping[str, int], k: int = 5) -> float:
    """Return 1 if a relevant document is among the first k, else 0."""
    return float(any(relevant.get(id_, 0) > 0 for id_ in ranking[:k]))


class Vectors:
    """Vectors of a corpus that several tasks of one evaluation share; kept for one encoder at a time."""

    def __init__(self) -> None:
        self._encoder: Any = None
        self._kept: dict[tuple[str | None, str], Tensor] = {}

    def of(self, encoder: Encoder, texts: Mapping[str, str], instruction: str | None) -> dict[str, Tensor]:
        """Return the vectors by id."""
        if encoder is not self._encoder:
            self._encoder, self._kept = encoder, {}
        missing = [text for text in texts.values() if (instruction, text) not in self._kept]
        if missing:
            rows = vectors(encoder, missing, instruction)
            self._kept.update({(instruction, text): row for text, row in zip(missing, rows, strict=True)})
        return {id_: self._kept[instruction, text] for id_, text in texts.items()}
