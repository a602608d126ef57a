"""Completions of which a part answers other queries: how much noise a training stands (a study, not a recipe)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.generators.base import Generator
from llm2vec_gen.types import Completion, Query, QuerySource


class OffTopic(Generator):
    """`generator`, but for a part of the queries the completion is that of another query of the data.

    fraction    of the queries, 0 to 1; drawn by `seed` and the query's id alone, so that a larger fraction keeps those
                of a smaller one
    queries     the data: where the other queries come from; each is drawn like the others, never the query itself
    generator   writes the completions

    `report` counts them as "off_topic". Raises InputError for a fraction outside of 0 to 1, and where the data holds no
    other query.
    """

    def __init__(self, generator: Generator, queries: QuerySource, fraction: float = 0.1, seed: int = 0):
        super().__init__()
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
            raise InputError(f"generator.fraction={fraction}: expected a number from 0 to 1")
        check_integer("generator.seed", seed, least=0)
        if not isinstance(generator, Generator) or not isinstance(queries, QuerySource):
            raise InputError(
                f"generator=off_topic needs generator.generator (what writes: {generator!r:.60}) and generator.queries "
                f"(the data: {queries!r:.60}); choose the one by generator@generator.generator=<name>, leave the other "
                "as it is"
            )
        self.generator, self.queries, self.fraction, self.seed = generator, queries, fraction, seed
        self.report = {**generator.report, "off_topic": 0}
        self._others: list[Query] = []

    @property
    def sampling(self) -> Any:
        """The sampling settings of the generator that writes."""
        return getattr(self.generator, "sampling", None)

    def complete(self, queries: Sequence[Query]) -> list[Completion]:
        """Return one completion per query, order kept."""
        asked = [self._other(query) if self._draw(query, "which") < self.fraction else query for query in queries]
        written = self.generator.complete(asked)
        off_topic = sum(one is not query for one, query in zip(asked, queries, strict=True))
        self.report = {**self.generator.report, "off_topic": self.report["off_topic"] + off_topic}
        return [
            replace(completion, id=query.id, query=query.text)
            for completion, query in zip(written, queries, strict=True)
        ]

    def _other(self, query: Query) -> Query:
        if not self._others:
            self._others = list(self.queries.queries())
        if len(self._others) < 2:
            raise InputError("generator=off_topic: the data holds one query alone; expected others to answer instead")
        place = int(self._draw(query, "other") * len(self._others))
        found = self._others[place]
        return self._others[place - 1] if found.id == query.id else found

    def _draw(self, query: Query, what: str) -> float:
        """Return a number from 0 to 1 of this query, for the seed and what is drawn."""
        digest = blake2b(f"{self.seed}:{what}:{query.id}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
        return int.from_bytes(digest) / 2**56
