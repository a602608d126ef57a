from __future__ import annotations

from llm2vec_gen.tables.grid import Cell, Grid
from llm2vec_gen.tables.latex import render


def test_special_letters_and_missing_cells():
    grid = Grid("100% & more", ["my_model", "b"], ["x"], [[Cell(0.5, 0.1, 3)], [Cell()]], frozenset({"x"}))
    text = render(grid)
    assert r"my\_model & 50.0 $\pm$ 10.0 \\" in text
    assert r"b & -- \\" in text
    assert r"\caption{100\% \& more}" in text
    assert r"method & x $\downarrow$ \\" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_best_is_bold():
    text = render(Grid("", ["a", "b"], ["x"], [[Cell(0.5, 0.0, 1)], [Cell(0.4, 0.0, 1)]]))
    assert r"a & \textbf{50.0} \\" in text and r"b & 40.0 \\" in text
