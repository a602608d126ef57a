"""Grids as HTML tables, without any style of their own: the page that holds them decides."""

from __future__ import annotations

from html import escape

from llm2vec_gen.tables.grid import MISSING, Grid


def render(grid: Grid) -> str:
    """Return a <figure> with caption, table (class "scores"; cells of class "best" and "missing") and note."""
    best = [grid.best(column) for column in range(len(grid.columns))]
    head = "".join(f"<th>{escape(text)}</th>" for text in [grid.corner, *grid.headings()])
    rows = "\n".join(
        _row(name, texts, {column for column, rows in enumerate(best) if row in rows})
        for row, (name, texts) in enumerate(zip(grid.rows, grid.texts(), strict=True))
    )
    caption = f"<figcaption>{escape(grid.title)}</figcaption>\n" if grid.title else ""
    note = f"\n<p class='note'>{escape(grid.note)}</p>" if grid.note else ""
    table = f"<table class='scores'>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    return f"<figure>\n{caption}{table}{note}\n</figure>\n"


def _row(name: str, texts: list[str], best: set[int]) -> str:
    cells = "".join(_cell(text, column in best) for column, text in enumerate(texts))
    return f"<tr><th>{escape(name)}</th>{cells}</tr>"


def _cell(text: str, best: bool) -> str:
    kind = " class='missing'" if text == MISSING else " class='best'" if best else ""
    return f"<td{kind}>{escape(text)}</td>"
