"""Grids as Markdown: aligned, so that a terminal shows the table as well as a browser."""

from __future__ import annotations

from collections.abc import Iterable

from llm2vec_gen.tables.grid import Grid
from llm2vec_gen.types import Reading


def render(grid: Grid) -> str:
    """Return a heading, the table with the best of each column in bold, and the note."""
    body = grid.texts()
    for column in range(len(grid.columns)):
        for row in grid.best(column):
            body[row][column] = f"**{body[row][column]}**"
    lines = [[grid.corner, *grid.headings()], *([name, *cells] for name, cells in zip(grid.rows, body, strict=True))]
    lines = [[text.replace("|", "\\|") for text in line] for line in lines]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(lines[0]))]
    drawn = [_line(line, widths) for line in lines]
    drawn.insert(1, f"|:{'-' * widths[0]}-|" + "".join(f"{'-' * (width + 1)}:|" for width in widths[1:]))
    head = [f"### {grid.title}", ""] if grid.title else []
    foot = ["", grid.note] if grid.note else []
    return "\n".join([*head, *drawn, *foot]) + "\n"


def readings(found: Iterable[Reading], limit: int | None = None) -> str:
    """Return each query with its answer and all readings of it, as a nested list; empty if there is none.

    limit: how many queries at most; None for all. Of each position's lens words only the first two are there: a
    terminal line holds no more.
    """
    by_query: dict[tuple[str, str, str], list[Reading]] = {}
    for reading in found:
        by_query.setdefault(reading.key, []).append(reading)
    if not by_query:
        return ""
    return "### Decoded embeddings\n\n" + "\n".join(map(_query, [*by_query.values()][:limit])) + "\n"


def _query(group: list[Reading]) -> str:
    answer = next((reading.completion for reading in group if reading.completion is not None), None)
    lines = [f"- {_flat(group[0].query)}"]
    if answer is not None:
        lines.append(f"  - answer: {_flat(answer)}")
    for reading in group:
        words = [f"{position} {'/'.join(best[:2])}" for position, best in enumerate(reading.words, start=1)]
        text = " · ".join(words) if words else reading.text
        sign = " ✓" if not words and answer is not None and reading.text.strip() == answer.strip() else ""
        lines.append(f"  - {reading.interpreter.replace('_', ' ')}: {_flat(text)}{sign}")
    return "\n".join(lines)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _line(texts: list[str], widths: list[int]) -> str:
    cells = [texts[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(texts[1:], widths[1:], strict=True))]
    return "| " + " | ".join(cells) + " |"
