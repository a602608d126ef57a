from __future__ import annotations

from html.parser import HTMLParser

from llm2vec_gen.tables.grid import Cell, Grid
from llm2vec_gen.tables.html import render


class Cells(HTMLParser):
    """Collects (tag, class, text) of table cells; fails on a tag that is closed in the wrong order."""

    def __init__(self):
        super().__init__()
        self.open, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append((tag, dict(attrs).get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] in ("td", "th"):
            self.cells.append((*self.open[-1], data))


def test_cells_are_escaped_and_marked():
    cells = [[Cell(0.5, 0.0, 1)], [Cell(0.1, 0.0, 1)], [Cell()]]
    parser = Cells()
    parser.feed(render(Grid("T", ["<ours>", "b", "c"], ["x & y"], cells)))
    assert not parser.open
    assert [cell for cell in parser.cells if cell[0] == "td"] == [
        ("td", "best", "50.0"),
        ("td", None, "10.0"),
        ("td", "missing", "–"),
    ]
    assert ("th", None, "<ours>") in parser.cells and ("th", None, "x & y") in parser.cells
