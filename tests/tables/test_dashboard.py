"""The page stands alone, and its figures are the means of the runs that it groups."""

from __future__ import annotations

import re
import statistics
from typing import Any

import pytest

from llm2vec_gen.tables.dashboard import Run, losses_of, render, view
from llm2vec_gen.types import Score


def run(seed: int, alignment: float, value: float, **more: Any) -> Run:
    settings = {
        "seed": seed,
        "backbone": {"path": more.get("backbone", "some/Backbone-1B")},
        "loss": {"alignment": {"weight": alignment}, "reconstruction": {"weight": 1.0}},
    }
    scores = [
        Score("llm2vec_gen", "pocket", task, task, "", "test", "m", value + place / 10, main=True)
        for place, task in enumerate(("retrieval", "benign_retrieval", "harmful_retrieval"))
    ]
    curves = {"train/loss": [(1, 2.0), (2, 1.0 + value)]}
    return Run(settings, [*scores, Score("llm2vec_gen", "pocket", "x", "retrieval", "", "test", "o", 9.0)], curves)


RUNS = [run(1, 0.0, 0.2), run(2, 0.0, 0.4), run(1, 0.5, 0.6), run(1, 0.5, 0.7, backbone="<b>&co")]


def test_a_view_groups_runs_and_leaves_cells_empty() -> None:
    grid = view("Loss ablation", RUNS, losses_of, "losses")
    assert grid.rows == ["alignment 0.5 + reconstruction 1", "reconstruction 1"]
    cell = grid.cells[1][grid.columns.index("retrieval")]
    assert (cell.value, cell.runs) == (pytest.approx(0.3), 2)
    assert cell.spread == pytest.approx(statistics.stdev([0.2, 0.4]))
    assert grid.cells[1][grid.columns.index("exact decoding")].value is None


def test_the_page_needs_nothing_from_elsewhere_and_is_the_same_each_time() -> None:
    page = render(RUNS)
    assert page == render(RUNS)
    assert page.count("<svg") == 4
    assert not re.findall(r"<script|<link|<img|src=|@import|url\((?!#)", page)
    assert "<b>&co" not in page and "&lt;b&gt;&amp;co" in page


def test_runs_without_scores_or_curves_are_said_to_be_so() -> None:
    page = render([Run(RUNS[0].settings, [])])
    assert "No run was evaluated on both" in page and "No curve was logged" in page and "No scores yet" in page
