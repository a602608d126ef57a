"""This process computes all rows, or one shard of a job array."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llm2vec_gen.errors import InputError
from llm2vec_gen.executors.base import Executor, RowRange, metadata_of, run_batch


class LocalExecutor(Executor):
    """Process `index` of `of` processes with the same command: it computes every `of`-th shard."""

    def __init__(self, index: int = 0, of: int = 1):
        if not (isinstance(index, int) and isinstance(of, int) and 0 <= index < of):
            raise InputError(
                f"executor.index={index} executor.of={of}: expected whole numbers, 0 <= executor.index < executor.of"
            )
        self.job_shard = (index, of)

    @contextlib.contextmanager
    def workers(self, build: Callable[[], Any], method: str) -> Iterator[LocalWorkers]:
        """Yield one worker in this process."""
        yield LocalWorkers(build(), method)


class LocalWorkers:
    """A component in this process that computes one range after another."""

    def __init__(self, component: Any, method: str):
        self._component, self._method = component, method
        self.report = Counter(getattr(component, "report", {}))
        self.metadata = metadata_of(component)

    def each(self, ranges: Iterable[RowRange]) -> Iterator[tuple[int, Any]]:
        """Yield the results in order; a range is read when the one before is done."""
        for start, rows in ranges:
            result = run_batch(self._component, self._method, rows)
            self.report.update(result.report)
            yield start, result.rows
