"""The contract of an executor: it computes the same rows as every other executor.

How to add one: a file beside this one with a subclass of `Executor`, a yaml in conf/executor, a test. The result of a
range of rows may not depend on the worker or its other ranges, so the shards are the same for every executor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

RowRange = tuple[int, Sequence[Any]]  # the number of its first row, and the rows
METADATA_KEYS = ("sampling", "embedding_dim", "tokenizer_digest", "header")


@dataclass(frozen=True)
class BatchResult:
    """The result of one call of a component: rows, the growth of its `report`, and its metadata."""

    rows: Any
    report: Counter[str] = field(default_factory=Counter)
    metadata: dict[str, Any] = field(default_factory=dict)


class Workers(Protocol):
    """One component, or several equal ones."""

    @property
    def report(self) -> Counter[str]:
        """The counts of all workers so far."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the component: sampling, embedding_dim, tokenizer_digest, header (of an index)."""

    def each(self, ranges: Iterable[RowRange]) -> Iterator[tuple[int, Any]]:
        """Yield (first row, result) of every range, in any order."""


class Executor(ABC):
    """job_shard (index, of): this process computes every `of`-th shard, from `index`."""

    job_shard: tuple[int, int] = (0, 1)

    @abstractmethod
    def workers(self, build: Callable[[], Any], method: str) -> AbstractContextManager[Workers]:
        """Yield workers that call `method(rows)` of the component that `build` (which can be pickled) returns."""


def run_batch(component: Any, method: str, rows: Sequence[Any]) -> BatchResult:
    """Call the component's method on one batch of rows."""
    before = Counter(getattr(component, "report", {}))
    result = getattr(component, method)(rows)
    grown = Counter(getattr(component, "report", {}))
    grown.subtract(before)
    return BatchResult(result, grown, metadata_of(component))


def metadata_of(component: Any) -> dict[str, Any]:
    """Return the component's values for the manifest."""
    return {name: getattr(component, name) for name in METADATA_KEYS if hasattr(component, name)}
