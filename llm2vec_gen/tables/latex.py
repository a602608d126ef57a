"""Grids as LaTeX tabulars (booktabs)."""

from __future__ import annotations

from llm2vec_gen.tables.grid import MISSING, Grid

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    MISSING: "--",
}


def escape(text: str) -> str:
    """Return the text with all characters escaped that mean something to LaTeX."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def render(grid: Grid) -> str:
    """Return a table environment with caption; the best of each column in bold."""
    body = [[escape(text) for text in row] for row in grid.texts()]
    for column in range(len(grid.columns)):
        for row in grid.best(column):
            body[row][column] = rf"\textbf{{{body[row][column]}}}"
    rows = [" & ".join([escape(name), *cells]) + r" \\" for name, cells in zip(grid.rows, body, strict=True)]
    caption = " ".join(text for text in (grid.title, grid.note) if text)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * len(grid.columns)}}}",
            r"\toprule",
            " & ".join(escape(text) for text in [grid.corner, *grid.headings()]) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{escape(caption)}}}",
            r"\end{table}",
            "",
        ]
    )
