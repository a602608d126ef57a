"""Queries of the pocket, the package's own small world."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm2vec_gen.data.base import QuerySource, Row
from llm2vec_gen.errors import InputError, check_flag
from llm2vec_gen.pocket import world

SPLITS = {"train": "embedder_queries", "heldout": "heldout_queries", "lm": "lm_pairs"}


class Pocket(QuerySource):
    """split: "train" (what the embedder trains on), "heldout" (wordings that neither the LM nor the embedder has seen)
    or "lm" (what the pocket's language model was trained on).

    kinds: only these kinds of query (facts, refusals, ...), null for all. answers: give the world's own completions,
    for a generator that replays them; otherwise the language model must answer itself. hard_negatives: give each query
    the next one of its kind that has another completion.
    """

    digest_defaults = {**QuerySource.digest_defaults, "hard_negatives": False}

    def __init__(
        self,
        split: str = "train",
        limit: int | None = None,
        kinds: list[str] | None = None,
        answers: bool = False,
        hard_negatives: bool = False,
    ):
        check_flag("data.hard_negatives", hard_negatives)
        super().__init__(limit, answers, has_negatives=hard_negatives, has_negative_answers=hard_negatives and answers)
        if split not in SPLITS:
            raise InputError(f"data.split={split} is no split of the pocket; it has {', '.join(SPLITS)}")
        self.split, self.kinds = split, kinds
        there = {pair.kind for pair in self._pairs()}
        unknown = sorted(set(kinds or []) - there)
        if unknown:
            raise InputError(f"data.kinds: the pocket's {split} split has no {unknown}; it has {sorted(there)}")

    @staticmethod
    def gives_negatives(settings: Mapping[str, Any]) -> bool:
        """Return whether a source of these settings has a hard negative for each query."""
        return bool(settings.get("hard_negatives"))

    def rows(self) -> Iterator[Row]:
        """Yield the world's pairs, in their order."""
        pairs = self._pairs()
        negatives = _negatives(pairs) if self.has_negatives else {}
        for pair in pairs:
            if self.kinds is None or pair.kind in self.kinds:
                negative = negatives.get(pair.id)
                more = () if negative is None else (negative.query, negative.completion)
                yield Row(pair.query, pair.completion, pair.id, *more)

    def _pairs(self) -> list[world.Pair]:
        return getattr(world, SPLITS[self.split])()

    def __str__(self) -> str:
        return f"the pocket's {self.split} split"


def _negatives(pairs: list[world.Pair]) -> dict[str, world.Pair]:
    """Return the next pair of the same kind with another completion, by the id of each pair.

    The first pairs follow the last ones.
    """
    found: dict[str, world.Pair] = {}
    following: dict[str, list[world.Pair]] = {}  # kind -> the next pair, and the next with another completion than it
    for pair in reversed([*pairs, *pairs]):  # twice, as the last pairs continue with the first ones
        near = following.get(pair.kind, [])
        others = [other for other in near if other.completion != pair.completion]
        if others:
            found[pair.id] = others[0]
        following[pair.kind] = [pair, *others[:1]]
    return found
