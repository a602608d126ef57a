from __future__ import annotations

import pytest

from llm2vec_gen.tables.claims import Claims
from llm2vec_gen.types import Score

CLAIMS = [
    {"name": "mteb_gain", "label": "gain", "row": "e:x", "baseline": "e:y", "columns": ["sts", "retrieval"],
     "evaluations": ["s"]},
    {"name": "gap_closed", "label": "gap", "row": "e:x", "baseline": "e:y", "upper": "e:z", "columns": ["sts"],
     "evaluations": ["s"]},
]  # fmt: skip


def score(row, task, value, category="sts", evaluation="s"):
    return Score(row, evaluation, task, category, "default", "test", "m", value, True)


def test_claims_by_hand():
    rows = [
        score("e:x", "t", 0.5),
        score("e:y", "t", 0.4),
        score("e:z", "t", 0.6),
        score("e:x", "u", 0.1, "retrieval"),
        score("e:y", "u", 0.1, "retrieval"),
        score("e:x", "t", 0.9, evaluation="another suite"),
    ]
    table = Claims("c", CLAIMS, {"version": "v1", "table": "claims"})
    assert table.wanted() == ["e:x", "e:y", "e:z"]
    (grid,) = table.grids(rows)
    assert grid.columns == ["ours", "as claimed (v1)"]
    assert grid.texts() == [["+20.0", "+9.3"], ["+50.0", "+60.0"]]
    assert table.grids([])[0].texts() == [["–", "+9.3"], ["–", "+60.0"]]
    assert grid.best(0) == set()


def test_claims_from_published_cells():
    names = {"row": "paper/table1/qwen3_8b:llm2vec_gen", "baseline": "paper/table1/qwen3_8b:teacher"}
    cells = {"mteb_gain": {"version": "v2", "table": "table1", "column": "average"}}
    table = Claims("c", [CLAIMS[0] | names, CLAIMS[1]], {"version": "v1", "table": "claims"}, cells)
    (grid,) = table.grids([])
    assert grid.cells[0][2].value == pytest.approx(61.9 / 56.8 - 1)
    assert grid.cells[1][2].value is None


def test_claims_of_another_world_stand_alone():
    table = Claims("c", CLAIMS)
    rows = [score("e:x", "t", 0.5), score("e:y", "t", 0.4)]
    assert table.grids(rows)[0].columns == ["ours"]
    assert table.draws(rows[0]) and not table.draws(score("e:w", "t", 0.5))
