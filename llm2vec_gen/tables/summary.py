"""The demo's figures in one small JSON document, for scripts that check them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llm2vec_gen.tables.score_table import ScoreTable
from llm2vec_gen.types import CATEGORIES, Score

ENCODERS = ("llm2vec_gen", "teacher", "input_mean")


def summary(scores: Iterable[Score], encoders: Sequence[str] = ENCODERS) -> dict[str, Any]:
    """Return {"decode_exact": float, "rows": {encoder: {category: float}}}; what was not measured is None.

    Values are mteb's main scores, 0 to 1, averaged over the tasks of a category; `decode_exact` is the first
    encoder's score of `evaluation=decoding`.
    """
    rows = list(scores)
    table = ScoreTable("", CATEGORIES, rows=list(encoders)).grids(rows)[0]
    exact = {"name": "decoding", "task": "decode_exact"}
    decoding = ScoreTable("", [exact], rows=list(encoders[:1])).grids(rows)[0]
    return {
        "decode_exact": decoding.cells[0][0].value,
        "rows": {
            name: {category: cell.value for category, cell in zip(CATEGORIES, cells, strict=True)}
            for name, cells in zip(encoders, table.cells, strict=True)
        },
    }
