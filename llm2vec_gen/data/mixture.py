"""Several query sources as one, in given proportions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from llm2vec_gen.data.base import DROPPED, QuerySource, Row, gives_negatives
from llm2vec_gen.data.quality import QualityFilter
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Query

ENDINGS = ("stop", "continue")


class Mixture(QuerySource):
    """Rows of several sources, interleaved so that every beginning of the mixture has the proportions of the weights.

    The next row is that of the source which is furthest behind its share: after n rows, source s with weight w_s has
    given w_s / (sum of all weights) * n rows, give or take one. Nothing is drawn at random, so the order is the same
    each time, and a stopped step continues. Weights count queries, not tokens.

    Args:
        sources: name -> a query source, each with its own limit and filter. Ids become "<name>/<id>".
        weights: name -> a number of 0 or more; null gives all sources the same. A source of weight 0 is not read.
        when_exhausted: "stop" ends the mixture with the first source that has no rows left when it is due, so that the
            proportions hold to the end; "continue" goes on with the others in their proportions.
        limit, skip, quality: of the mixture, as for every source.

    A query that several sources have counts for the first that gives it; the others' are "duplicate". The mixture has
    answers, and hard negatives, if all its sources have. `report` also has "from_<name>", how many of the kept queries
    each source gave.

    Raises InputError for weights that sum to nothing positive, or that do not belong to the sources.
    """

    def __init__(
        self,
        sources: Mapping[str, QuerySource],
        weights: Mapping[str, float] | None = None,
        when_exhausted: str = "stop",
        limit: int | None = None,
        skip: int = 0,
        quality: QualityFilter | None = None,
    ):
        if not isinstance(sources, Mapping) or not sources:
            raise InputError(
                "data.sources names no source to mix; add each one under a name of yours, e.g. "
                "'+data@data.sources.log=query_log' data.sources.log.path=queries.jsonl"
            )
        if wrong := [name for name, source in sources.items() if not isinstance(source, QuerySource)]:
            raise InputError(
                f"data.sources.{wrong[0]}={sources[wrong[0]]!r:.60}: expected a query source, a node with _target_"
            )
        if bad := [name for name in sources if "/" in str(name)]:
            raise InputError(f"data.sources.{bad[0]}: a name without / is expected, because ids are <name>/<id>")
        if when_exhausted not in ENDINGS:
            raise InputError(f"data.when_exhausted={when_exhausted}: expected {' or '.join(ENDINGS)}")
        self.weights = checked_weights(weights, list(sources))
        self.sources = {name: sources[name] for name in self.weights}
        self.when_exhausted = when_exhausted
        of_all = {
            name: all(getattr(source, name) for source in self.sources.values())
            for name in ("has_answers", "has_negatives", "has_negative_answers")
        }
        super().__init__(limit, skip=skip, quality=quality, **of_all)

    @staticmethod
    def gives_negatives(settings: Mapping[str, Any]) -> bool:
        """Return whether each source of the mixture with a weight over 0 has hard negatives."""
        weights, sources = settings.get("weights"), settings.get("sources")
        if not isinstance(sources, Mapping) or not isinstance(weights, Mapping | None):
            return False  # the constructor refuses them
        nodes = [node for name, node in sources.items() if (weights or {}).get(name, 1)]
        return bool(nodes) and all(isinstance(node, Mapping) and gives_negatives(node) for node in nodes)

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the sources in the order of the mixture."""
        streams = {name: source.queries() for name, source in self.sources.items()}
        given = dict.fromkeys(streams, 0)
        while streams:
            due = self._due(streams, given)
            query = next(streams[due], None)
            if query is None:
                if self.when_exhausted == "stop":
                    return
                del streams[due]
                continue
            before = self._dropped()
            negative = (None, None) if query.negative is None else (query.negative.text, query.negative.answer)
            yield Row(query.text, query.answer, f"{due}/{query.id}", *negative)
            given[due] += self._dropped() == before  # `queries`, which reads these rows, has dropped it or not

    def queries(self) -> Iterator[Query]:
        """Yield the kept queries of the mixture, as every source does, and count them by source.

        At the end `report` also has what the sources themselves dropped, as "<source>/<reason>".
        """
        for query in super().queries():
            self.report[f"from_{query.id.partition('/')[0]}"] += 1
            yield query
        for name, source in self.sources.items():
            self.report |= {f"{name}/{reason}": n for reason in DROPPED if (n := source.report.get(reason))}

    def _fresh_report(self) -> dict[str, int]:
        return super()._fresh_report() | {f"from_{name}": 0 for name in self.sources}

    def _dropped(self) -> int:
        return sum(self.report.get(name, 0) for name in DROPPED)

    def _due(self, streams: Mapping[str, object], given: Mapping[str, int]) -> str:
        """Return the source that is furthest behind its share of the rows so far and the next one."""
        rows = 1 + sum(given[name] for name in streams)
        total = sum(self.weights[name] for name in streams)
        return max(streams, key=lambda name: self.weights[name] / total * rows - given[name])

    def __str__(self) -> str:
        return f"the mixture of {', '.join(self.sources)}"


def checked_weights(weights: Mapping[str, float] | None, names: list[str]) -> dict[str, float]:
    """Return the weight of each source that has one over 0; InputError where weights and sources do not fit."""
    if weights is not None and not isinstance(weights, Mapping):
        raise InputError(
            f"data.weights={weights}: expected a weight for each source by its name, e.g. "
            f"'data.weights={{{', '.join(f'{name}: 1' for name in names)}}}', or null"
        )
    found = dict.fromkeys(names, 1.0) if weights is None else dict(weights)
    if unknown := [name for name in found if name not in names]:
        raise InputError(f"data.weights.{unknown[0]} belongs to no source; the sources are {', '.join(names)}")
    if lacking := [name for name in names if name not in found]:
        raise InputError(
            f"data.weights has no weight for the source {lacking[0]}; give one (0 leaves it out): "
            f"data.weights.{lacking[0]}=1"
        )
    for name, weight in found.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise InputError(f"data.weights.{name}={weight}: expected a finite number of 0 or more")
    kept = {name: float(found[name]) for name in names if found[name] > 0}
    if not kept:
        given = ", ".join(f"{name} {weight}" for name, weight in found.items())
        raise InputError(f"data.weights sum to nothing positive ({given}): no source is left; raise one over 0")
    return kept
