"""What a stage promises: the same rows, whoever makes them.

How to add one: a file beside this one with a subclass of `Stage`, a yaml in conf/stage, a test. What is made of a
stretch of rows may not depend on who makes it or what else that one makes, so the parts are the same for every stage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

Stretch = tuple[int, Sequence[Any]]  # the number of its first row, and the rows
FACTS = ("sampling", "embedding_dim")


@dataclass(frozen=True)
class Made:
    """What a noun made of one call, what its `report` grew by, and what it says of itself."""

    rows: Any
    report: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)


class Workers(Protocol):
    """One noun, or several alike."""

    @property
    def report(self) -> Counter[str]:
        """What they have counted so far."""

    @property
    def facts(self) -> dict[str, Any]:
        """What they say of themselves: sampling, embedding_dim."""

    def each(self, stretches: Iterable[Stretch]) -> Iterator[tuple[int, Any]]:
        """(first row, what was made) of every stretch, in any order."""


class Stage(ABC):
    """share (index, of): which part of the work is this process's, of how many that were started for it."""

    share: tuple[int, int] = (0, 1)

    @abstractmethod
    def workers(self, build: Callable[[], Any], method: str) -> AbstractContextManager[Workers]:
        """Whoever calls `method(rows)` of the noun that `build` (which can be pickled) makes."""


def make(noun: Any, method: str, rows: Sequence[Any]) -> Made:
    """One call of a noun."""
    before = Counter(getattr(noun, "report", {}))
    made = getattr(noun, method)(rows)
    grown = Counter(getattr(noun, "report", {}))
    grown.subtract(before)
    return Made(made, grown, facts_of(noun))


def facts_of(noun: Any) -> dict[str, Any]:
    """What a manifest keeps of the noun."""
    return {name: getattr(noun, name) for name in FACTS if hasattr(noun, name)}
