"""Hard negatives of the rows that a run trains on: those that the data has, or those that were mined."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from llm2vec_gen.training.validation import hashes_of
from llm2vec_gen.types import Completion


class Negatives(Protocol):
    """Row -> its hard negative, as a completion and the teacher's vector of it (E,)."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> tuple[Completion, Any]: ...

    def missing(self) -> np.ndarray:
        """Return which rows have none (N,), bool."""

    def hashes(self, queries: np.ndarray) -> np.ndarray:
        """Return the `hashes_of` the negatives' queries (N,), any number for a row without; `queries` are the rows'."""


class PairedNegatives:
    """The negatives that the data has: each row's own, `negative_query` and `negative_completion`.

    completions: rows of them. targets: the teacher's vectors (E,) of the negative completions, in the same order.
    """

    def __init__(self, completions: Any, targets: Any):
        self._completions, self._targets = completions, targets

    def __len__(self) -> int:
        return len(self._completions)

    def __getitem__(self, row: int) -> tuple[Completion, Any]:
        found: Completion = self._completions[row]
        query, completion = found.negative_query or "", found.negative_completion or ""
        return Completion(found.id, query, completion, found.finish_reason), self._targets[row]

    def missing(self) -> np.ndarray:
        return np.fromiter((query is None for query in self._queries()), dtype=bool)

    def hashes(self, queries: np.ndarray) -> np.ndarray:
        return hashes_of(query or "" for query in self._queries())

    def _queries(self) -> Any:
        if hasattr(self._completions, "column"):  # an artifact reads that column alone
            return self._completions.column("negative_query")
        return (self._completions[row].negative_query for row in range(len(self)))


class MinedNegatives:
    """The negative of row i is row `numbers[i]` of the same completions and targets; -1 is none."""

    def __init__(self, completions: Any, targets: Any, numbers: np.ndarray):
        self._completions, self._targets, self._numbers = completions, targets, np.asarray(numbers, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, row: int) -> tuple[Completion, Any]:
        number = int(self._numbers[row])
        return self._completions[number], self._targets[number]

    def missing(self) -> np.ndarray:
        return self._numbers < 0

    def hashes(self, queries: np.ndarray) -> np.ndarray:
        found: np.ndarray = queries[self._numbers]  # -1 is the last row: any number will do
        return found


def negatives_of_rows(completions: Any, targets: Any, mined: np.ndarray | None = None) -> Negatives | None:
    """Return the hard negatives of the rows: the mined ones, else those that the data has, None where it has none.

    mined: the number of each row's negative among the rows (N,), -1 for none.
    """
    if mined is not None:
        return MinedNegatives(completions, targets, mined)
    vectors = getattr(targets, "negatives", None)
    return None if vectors is None else PairedNegatives(completions, vectors)


def rows_with_negatives(
    negatives: Negatives, rows: np.ndarray, held_out: np.ndarray, hashes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return the rows to train on and those to validate on that have a negative, in their order, and counts.

    A row whose negative is a query that is held out would train on that query; it is left out too.

    Args:
        negatives: of all N rows.
        rows: numbers of the rows that are trained on.
        held_out: numbers of the rows that are held out for validation.
        hashes: `hashes_of` the queries of all N rows (N,).
    """
    missing = negatives.missing()
    forbidden = ~missing & np.isin(negatives.hashes(hashes), hashes[held_out])
    kept, validated = rows[~(missing | forbidden)[rows]], held_out[~missing[held_out]]
    counts = {
        "rows_without_negative": int(missing[rows].sum()),
        "rows_with_held_out_negative": int(forbidden[rows].sum()),
        "validation_queries_without_negative": len(held_out) - len(validated),
    }
    return kept, validated, {name: count for name, count in counts.items() if count}
