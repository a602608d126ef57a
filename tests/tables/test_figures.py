"""Pictures hold what the table holds; the same scores give the same bytes."""

from __future__ import annotations

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.figures import Figure
from llm2vec_gen.tables.matrix import Matrix
from llm2vec_gen.tables.score_table import TableSet
from llm2vec_gen.types import Score

FIGURE = {"version": "v2", "table": "figure6_lite"}


def score(row, value, seed=1):
    return Score(row, "mteb_lite", "t", "sts", "default", "test", "m", value, True, seed=seed)


ROW = "paper/figure6/completions_{}_teacher_{}:llm2vec_gen"
SCORES = [
    score(ROW.format("4b", "4b"), 0.123),
    score(ROW.format("4b", "4b"), 0.223, seed=2),
    score(ROW.format("8b", "4b"), 0.5),
]


def matrix():
    rows = {size: ROW.format(size, "{}") for size in ("4b", "8b")}
    columns = [{"name": "sts"}, {"name": "average", "category": "sts"}]
    return Matrix("panel", rows, {"4": "4b", "8": "8b"}, scores=columns, published=FIGURE, corner="teacher")


@pytest.mark.parametrize("kind", ["bars", "lines", "heat"])
def test_pictures(kind):
    figure = Figure(TableSet({"one": matrix(), "two": matrix()}), kind)
    assert figure.wanted() == matrix().wanted()
    files = figure.files(SCORES)
    assert set(files) == {"md", "tex", "html", "svg"} and files["svg"].count("panel") == 2
    assert figure.files(SCORES)["svg"] == files["svg"]
    assert files["svg"] != figure.files(SCORES[:1])["svg"]
    assert figure.pictures(SCORES)["png"].startswith(b"\x89PNG")
    assert figure.files([])["svg"].lstrip().startswith("<?xml")


def test_the_heat_map_prints_figures_holes_and_published_figures():
    svg = Figure(matrix(), "heat").files(SCORES)["svg"]
    for text in ("17.3", "50.0", "(67.4)", "(67.9)", "(67.3)", "–"):
        assert text in svg, text


def test_an_unknown_kind():
    with pytest.raises(InputError, match="bars, lines, heat"):
        Figure(matrix(), "pie")
