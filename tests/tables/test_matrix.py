from __future__ import annotations

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.matrix import Matrix, cell_name
from llm2vec_gen.types import Score


def score(row, task, value, category="sts", evaluation="mteb_lite", seed=1):
    return Score(row, evaluation, task, category, "default", "test", "m", value, True, seed=seed)


def matrix(**settings):
    return Matrix("m", {"low": "e/{}_a:x", "alone": "e/{}_b:teacher"}, {"1": "one", "2": "two"}, **settings)


def test_cells_are_averages_over_tasks_of_runs_of_their_own():
    rows = [
        score("e/one_a:x", "t", 0.2),
        score("e/one_a:x", "u", 0.4, "retrieval"),
        score("e/one_a:x", "v", 0.6, "retrieval"),
        score("e/two_b:teacher", "t", 0.1),
        score("e/two_b:teacher", "u", 0.1, "retrieval"),
        score("e/two_b:teacher", "v", 0.4, "retrieval"),
        score("e/two_a:x", "t", 0.9),
    ]
    (grid,) = matrix(scores=["sts", "retrieval"]).grids(rows)
    assert (grid.rows, grid.columns) == (["low", "alone"], ["1", "2"])
    assert grid.texts() == [["40.0", "–"], ["–", "20.0"]], "a cell that lacks a task is a missing cell"
    assert matrix(scores=["sts"]).wanted() == ["e/one_a:x", "e/two_a:x", "e/one_b:teacher", "e/two_b:teacher"]


def test_lower_is_better_marks_every_column():
    (grid,) = matrix(scores=[{"name": "sts", "lower_is_better": True}]).grids([score("e/one_a:x", "t", 0.2)])
    assert grid.headings() == ["1 ↓", "2 ↓"] and grid.texts()[0] == ["20.0", "–"]


def test_published_figures_stand_in_their_cells():
    rows = {"0.6B": "paper/figure6/completions_0.6b_teacher_{}:llm2vec_gen"}
    columns = ["sts", "retrieval"]
    table = Matrix("", rows, {"8B": "8b"}, scores=columns, published={"version": "v2", "table": "figure6_lite"})
    row = "paper/figure6/completions_0.6b_teacher_8b:llm2vec_gen"
    found = [score(row, "t", 0.68), score(row, "u", 0.70, "retrieval")]
    assert table.grids([])[0].texts() == [["– / 67.0 / –"]]
    assert table.grids(found)[0].texts() == [["69.0 / 67.0 / +2.0"]]


def test_names_of_cells():
    assert cell_name("a/{}:x", "b") == "a/b:x" and cell_name("x", "a/b:{}") == "a/b:x"
    for row, column in (("a", "b"), ("a:x", "b")):
        with pytest.raises(InputError, match="expected one of them"):
            cell_name(row, column)
