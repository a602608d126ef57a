"""Pivots against hand arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.grid import MISSING
from llm2vec_gen.tables.score_table import ScoreTable, TableSet
from llm2vec_gen.types import Score


def score(encoder: str, task: str, category: str, value: float, **more) -> Score:
    defaults = {"evaluation": "suite", "subset": "default", "split": "test", "metric": "m", "main": True}
    return Score(encoder=encoder, task=task, category=category, value=value, **{**defaults, **more})


ROWS = [
    score("a", "r1", "retrieval", 0.2),
    score("a", "r2", "retrieval", 0.4),
    score("a", "s1", "sts", 0.9),
    score("b", "r1", "retrieval", 0.5),
    score("b", "r2", "retrieval", 0.7),
    score("b", "s1", "sts", 0.3),
    score("b", "s1", "sts", 0.99, metric="other", main=False),
]


def values(grid):
    return [[None if cell.value is None else round(cell.value, 9) for cell in row] for row in grid.cells]


def test_category_is_the_mean_over_tasks_and_average_the_mean_over_all_tasks():
    grid = ScoreTable("t", ["retrieval", "sts"], average="tasks").grids(ROWS)[0]
    assert grid.rows == ["a", "b"] and grid.columns == ["retrieval", "sts", "average"]
    assert values(grid) == [[0.3, 0.9, 0.5], [0.6, 0.3, 0.5]]


def test_average_over_categories():
    grid = ScoreTable("t", ["retrieval", "sts"], average="categories").grids(ROWS)[0]
    assert values(grid) == [[0.3, 0.9, 0.6], [0.6, 0.3, 0.45]]


def test_row_without_one_task_gets_holes_and_not_the_mean_of_the_rest():
    rows = [row for row in ROWS if (row.encoder, row.task) != ("a", "r2")]
    grid = ScoreTable("t", ["retrieval", "sts"], average="tasks").grids(rows)[0]
    assert values(grid) == [[None, 0.9, None], [0.6, 0.3, 0.5]]
    assert grid.texts()[0] == [MISSING, "90.0", MISSING]


def test_column_nobody_has_is_a_hole_and_so_is_the_average():
    grid = ScoreTable("t", ["retrieval", "clustering"], average="tasks").grids(ROWS)[0]
    assert values(grid) == [[0.3, None, None], [0.6, None, None]]


def test_wanted_rows_keep_their_order_and_labels_and_stay_when_empty():
    table = ScoreTable("t", ["sts"], rows={"c": "Third", "b": "Second"})
    grid = table.grids(ROWS)[0]
    assert grid.rows == ["Third", "Second"] and values(grid) == [[None], [0.3]]


def test_a_task_that_only_an_unwanted_row_has_makes_no_hole():
    rows = [*ROWS, score("z", "r9", "retrieval", 1.0)]
    grid = ScoreTable("t", ["retrieval"], rows=["a"]).grids(rows)[0]
    assert values(grid) == [[0.3]]


def test_subsets_are_averaged_into_their_task_first():
    rows = [
        score("a", "r1", "retrieval", 0.0, subset="x"),
        score("a", "r1", "retrieval", 1.0, subset="y"),
        score("a", "r2", "retrieval", 1.0),
    ]
    assert values(ScoreTable("t", ["retrieval"]).grids(rows)[0]) == [[0.75]]


def test_seeds_give_mean_and_standard_deviation():
    rows = [score("a", "s1", "sts", value, seed=seed) for seed, value in enumerate((0.1, 0.2, 0.6))]
    cell = ScoreTable("t", ["sts"]).grids(rows)[0].cells[0][0]
    assert cell.value == pytest.approx(0.3) and cell.runs == 3
    assert cell.spread == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert cell.text(100) == "30.0 ± 26.5"


def test_runs_of_one_seed_complete_each_other_and_never_overlap():
    rows = [score("a", "r1", "retrieval", 0.2, run="one", seed=1), score("a", "s1", "sts", 0.4, run="two", seed=1)]
    table = ScoreTable("t", ["retrieval", "sts"], average="tasks")
    assert values(table.grids(rows)[0]) == [[0.2, 0.4, 0.3]]
    with pytest.raises(InputError, match="two runs, 'one' and 'three'"):
        table.grids([*rows, score("a", "r1", "retrieval", 0.2, run="three", seed=1)])


def test_metric_and_task_columns():
    table = ScoreTable("t", [{"name": "x", "task": "s1", "metric": "other"}, {"name": "y", "category": "sts"}])
    by_name = dict(zip(table.grids(ROWS)[0].rows, values(table.grids(ROWS)[0]), strict=True))
    assert by_name == {"b": [0.99, 0.3], "a": [None, 0.9]}


def test_not_a_number_is_a_hole():
    assert values(ScoreTable("t", ["sts"]).grids([score("a", "s1", "sts", math.nan)])[0]) == [[None]]


@pytest.mark.parametrize("change", [{"data_revision": "other"}, {"evaluation": "lite"}])
def test_mixed_sources_are_refused(change):
    rows = [*ROWS, replace(score("c", "s1", "sts", 0.5), **change)]
    with pytest.raises(InputError, match="s1"):
        ScoreTable("t", ["sts"]).grids(rows)


def test_evaluations_filter_what_is_read():
    rows = [*ROWS, score("c", "s1", "sts", 0.5, evaluation="lite")]
    grid = ScoreTable("t", ["sts"], evaluations=["lite"]).grids(rows)[0]
    assert grid.rows == ["c"] and values(grid) == [[0.5]]


def test_best_of_a_column_follows_the_direction_and_what_is_printed():
    table = ScoreTable("t", ["retrieval", {"name": "sts", "lower_is_better": True}])
    grid = table.grids([*ROWS, score("c", "r1", "retrieval", 0.60001), score("c", "r2", "retrieval", 0.60001)])[0]
    assert grid.best(0) == {1, 2}
    assert grid.best(1) == {1}
    assert ScoreTable("t", ["sts"]).grids(ROWS[:3])[0].best(0) == set()
    controls = ScoreTable("t", ["retrieval", {"name": "sts", "control": True}]).grids(ROWS)[0]
    assert controls.best(0) and not controls.best(1)


def test_unknown_average_is_an_input_error():
    with pytest.raises(InputError, match="average"):
        ScoreTable("t", ["sts"], average="median")


def test_set_of_tables_keeps_order():
    tables = TableSet({"one": ScoreTable("first", ["sts"]), "two": ScoreTable("second", ["retrieval"])})
    assert [grid.title for grid in tables.grids(iter(ROWS))] == ["first", "second"]
    text = tables.render(iter(ROWS))
    assert text.index("first") < text.index("second")


def per_query(name, values, seed=None, task="a", evaluation="pocket"):
    mean = sum(values.values()) / len(values)
    return Score(name, evaluation, task, "retrieval", "default", "test", "m", mean, True, seed=seed, per_query=values)


def test_rows_of_an_experiment():
    table = ScoreTable("", ["retrieval"], rows={"x": "X", "other:y": "Y"}, experiment="e", baseline="z")
    assert table.wanted() == ["e:x", "other:y", "e:z"]
    grid = ScoreTable("", ["retrieval"], rows={"x": "X"}, experiment="e").grids([per_query("e:x", {"q": 0.5})])[0]
    assert (grid.rows, grid.texts()) == (["X"], [["50.0"]])


def test_differences_to_a_baseline():
    rows = [
        per_query("x", {"p": 0.5, "q": 0.7}, seed=1),
        per_query("x", {"p": 0.7, "q": 0.9}, seed=2),
        per_query("y", {"p": 0.4, "q": 0.6}),
    ]
    table = ScoreTable("T", ["retrieval", "sts"], rows={"x": "X", "y": "Y", "z": "Z"}, baseline="y")
    figures, differences = table.grids(rows)
    assert figures.texts()[0] == ["70.0 ± 14.1", "–"]
    assert differences.title == "T: difference to Y" and differences.rows == ["X", "Z"]
    assert differences.texts() == [["+20.0 [+20.0, +20.0] (+40.0%)", "–"], ["–", "–"]]


@pytest.mark.parametrize(("average", "expected"), [("tasks", 0.4), ("categories", 0.45)])
def test_an_average_has_an_interval_where_all_its_tasks_have_values_per_query(average, expected):
    """Constant differences: retrieval +30 on both tasks, reranking +60 on its one; their mean is exact."""
    rows = [
        replace(per_query(name, {"p": value + shift, "q": shift}, task=task), category=category)
        for task, category, shift in (("a", "retrieval", 0.3), ("b", "retrieval", 0.3), ("c", "reranking", 0.6))
        for name, value, shift in (("x", 0.4, shift), ("y", 0.4, 0.0))
    ]
    table = ScoreTable("", ["retrieval", "reranking"], baseline="y", average=average)
    cell = table.grids(rows)[1].cells[0][-1]
    assert cell.value == pytest.approx(expected) and cell.interval == pytest.approx((expected, expected))
    bare = [replace(row, per_query={}) if row.task == "b" else row for row in rows]
    cell = table.grids(bare)[1].cells[0][-1]
    assert cell.value == pytest.approx(expected) and cell.interval is None


def test_a_table_draws_what_ends_in_its_cells():
    table = ScoreTable("", ["sts"], rows=["a"], baseline="b", evaluations=["suite"])
    drawn = [row for row in ROWS if table.draws(row)]
    assert [(row.encoder, row.task, row.metric) for row in drawn] == [("a", "s1", "m"), ("b", "s1", "m")]
    assert table.grids(drawn) == table.grids(ROWS)
    assert not table.draws(replace(ROWS[2], evaluation="lite")) and not table.draws(replace(ROWS[2], encoder="c"))
    assert TableSet({"one": table}).draws(ROWS[2])


def test_a_difference_without_values_per_query_has_no_interval():
    rows = [replace(per_query(name, {"q": value}), per_query={}) for name, value in (("x", 0.5), ("y", 0.4))]
    differences = ScoreTable("", ["retrieval"], baseline="y").grids(rows)[1]
    assert differences.texts() == [["+10.0 (+25.0%)"]]


PUBLISHED = {"version": "v2", "table": "table1"}
ROW = "paper/table1/qwen3_8b:llm2vec_gen"


def test_ours_published_difference():
    table = ScoreTable("", ["retrieval", "sts"], rows={ROW: "Gen", "e:unknown": "U"}, published=PUBLISHED)
    (grid,) = table.grids([per_query(ROW, {"q": 0.45}, evaluation="mteb_eng_v2")])
    assert grid.texts() == [["45.0 / 43.3 / +1.7", "– / 79.7 / –"], ["–", "–"]]
    assert "arXiv 2603.10913 v2" in grid.note


def test_published_figures_never_stand_beside_another_suite():
    table = ScoreTable("", ["retrieval"], rows={ROW: "Gen"}, published=PUBLISHED)
    (grid,) = table.grids([per_query(ROW, {"q": 0.45}, evaluation="pocket")])
    assert grid.texts() == [["45.0"]] and "scores of pocket" in grid.note and "mteb_eng_v2" in grid.note
