"""The curve of a router, by hand."""

from __future__ import annotations

import pytest

from llm2vec_gen.tables.figures import Figure
from llm2vec_gen.tables.router_curve import RouterCurve
from llm2vec_gen.types import Score

POINTS = {  # point -> fraction, threshold, tokens, quality
    "0.0": (0.0, 9.0, 10.0, 0.4), "0.5": (0.25, 3.0, 20.0, 0.55), "1.0": (1.0, 0.0, 50.0, 0.6),
    "chosen": (0.25, 3.0, 20.0, 0.55),
}  # fmt: skip
SCORES = [
    Score("router", "routing", "routing", "routing", point, "test", metric, value)
    for point, values in POINTS.items()
    for metric, value in zip(("hyde_fraction", "threshold", "forward_tokens", "quality"), values, strict=True)
]
OTHER = Score("router", "routing", "routing", "routing", "lens_entropy", "validation", "chosen_threshold", 3.0)


def test_a_row_per_point_with_the_line_of_random_routing():
    (grid,) = RouterCurve("curve").grids([*SCORES, OTHER])
    assert grid.rows == ["0%", "50%", "100%", "chosen"]
    assert grid.texts()[1] == ["25", "3", "20.0", "55.0", "45.0"]  # a quarter of the way from 40 to 60
    assert [cells[-1].value for cells in grid.cells] == pytest.approx([0.4, 0.45, 0.6, 0.45])


def test_the_figure_has_the_quality_over_the_cost():
    (grid,) = RouterCurve("curve").panels(SCORES)
    assert grid.columns == ["10.0", "20.0", "50.0"] and grid.rows == ["router", "at random", "chosen"]
    assert [cell.value for cell in grid.cells[0]] == [0.4, 0.55, 0.6]
    assert [cell.value for cell in grid.cells[2]] == [None, 0.55, None]
    files = Figure(RouterCurve("curve"), "lines").files([*SCORES, OTHER])
    assert "forward tokens a query" in files["svg"] and "queries to HyDE" in files["md"]


def test_nothing_measured_is_an_empty_table():
    assert RouterCurve("curve").grids([OTHER])[0].rows == []
    assert Figure(RouterCurve("curve"), "lines").files([])["svg"]
