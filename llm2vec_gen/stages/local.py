"""This process makes all rows, or its share of them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llm2vec_gen.stages.base import Stage, Stretch, facts_of, make
from llm2vec_gen.types import InputError


class Local(Stage):
    """Of `of` processes with the same command, each its own `index`, one makes every `of`-th part."""

    def __init__(self, index: int = 0, of: int = 1):
        if not (isinstance(index, int) and isinstance(of, int) and 0 <= index < of):
            raise InputError(f"stage.index={index} stage.of={of}: expected whole numbers, 0 <= stage.index < stage.of")
        self.share = (index, of)

    @contextlib.contextmanager
    def workers(self, build: Callable[[], Any], method: str) -> Iterator[Here]:
        """One noun, in this process."""
        yield Here(build(), method)


class Here:
    """A noun that makes one stretch after another, in their order."""

    def __init__(self, noun: Any, method: str):
        self._noun, self._method = noun, method
        self.report = Counter(getattr(noun, "report", {}))
        self.facts = facts_of(noun)

    def each(self, stretches: Iterable[Stretch]) -> Iterator[tuple[int, Any]]:
        """Reads a stretch when the one before is made."""
        for start, rows in stretches:
            made = make(self._noun, self._method, rows)
            self.report.update(made.report)
            yield start, made.rows
