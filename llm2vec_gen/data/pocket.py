"""Queries of the pocket, the package's own small world."""

from __future__ import annotations

from collections.abc import Iterator

from llm2vec_gen.data.base import QuerySource, Row
from llm2vec_gen.errors import InputError
from llm2vec_gen.pocket import world

SPLITS = {"train": "embedder_queries", "heldout": "heldout_queries", "lm": "lm_pairs"}


class Pocket(QuerySource):
    """split: "train" (what the embedder trains on), "heldout" (wordings that neither the LM nor the embedder has seen)
    or "lm" (what the pocket's language model was trained on).

    kinds: only these kinds of query (facts, refusals, ...), null for all. answers: give the world's own completions,
    for a generator that replays them; otherwise the language model must answer itself.
    """

    def __init__(
        self, split: str = "train", limit: int | None = None, kinds: list[str] | None = None, answers: bool = False
    ):
        super().__init__(limit, has_answers=answers)
        if split not in SPLITS:
            raise InputError(f"data.split={split} is no split of the pocket; it has {', '.join(SPLITS)}")
        self.split, self.kinds = split, kinds
        there = {pair.kind for pair in self._pairs()}
        unknown = sorted(set(kinds or []) - there)
        if unknown:
            raise InputError(f"data.kinds: the pocket's {split} split has no {unknown}; it has {sorted(there)}")

    def rows(self) -> Iterator[Row]:
        """Yield the world's pairs, in their order."""
        for pair in self._pairs():
            if self.kinds is None or pair.kind in self.kinds:
                yield Row(pair.query, pair.completion, pair.id)

    def _pairs(self) -> list[world.Pair]:
        return getattr(world, SPLITS[self.split])()

    def __str__(self) -> str:
        return f"the pocket's {self.split} split"
