"""One self-contained HTML page of a run: loss curves, tables, and readings of embeddings.

Nothing on the page comes from elsewhere: the style is inline, the curves are inline SVG. It follows the reader's light
or dark setting.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from llm2vec_gen.tables import html, score_files, summary
from llm2vec_gen.tables.base import Table
from llm2vec_gen.types import Reading, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[str, Sequence[tuple[float, float]]]

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; --mark: #2a9d5c; --dim: #888; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
.note, .facts, figcaption { color: var(--dim); font-size: .9rem; }
figure { margin: 1.2rem 0; overflow-x: auto; } figcaption { margin-bottom: .4rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; font-weight: normal; }
thead th { border-bottom: 2px solid var(--line); color: var(--dim); font-size: .85rem; } tbody th { text-align: left; }
thead th:first-child { text-align: left; } td.best { font-weight: 650; } td.missing { color: var(--dim); }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
.curves svg { width: 100%; height: auto; }
.reading { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; margin: .8rem 0; }
.reading .query { font-weight: 600; white-space: pre-wrap; } .reading dt { color: var(--dim); font-size: .8rem; }
.reading dd { margin: 0 0 .5rem; white-space: pre-wrap; } .same { color: var(--mark); }
.lens { display: flex; flex-wrap: wrap; gap: .4rem; } .lens span { background: var(--soft); border-radius: .3rem;
padding: .1rem .45rem; font-size: .85rem; } .lens b { color: var(--dim); font-weight: normal; margin-right: .3rem; }
"""


def render(
    table: Table,
    scores: Iterable[Score],
    readings: Iterable[Reading] = (),
    curves: Curves | None = None,
    facts: Mapping[str, object] | None = None,
) -> str:
    """Return the page of one run, with `facts` (backbone, steps ...) below the title; empty sections are left out."""
    line = " · ".join(f"{key}: {value}" for key, value in (facts or {}).items())
    sections = {
        "Scores": "\n".join(html.render(grid) for grid in table.grids(scores)),
        "Training": curve_section(curves or {}),
        "Decoded embeddings": reading_section(list(readings)),
    }
    return page("LLM2Vec-Gen", line, {name: content for name, content in sections.items() if content})


def files_of(table: Table, scores: Sequence[Score], readings: Sequence[Reading], curves: Curves, run: str
             ) -> dict[str, str | bytes]:  # fmt: skip
    """Return the table in all its formats, the page, the summary and the drawn scores as files, name -> content."""
    files: dict[str, str | bytes] = {f"table.{ending}": text for ending, text in table.files(scores).items()}
    files["report.html"] = render(table, scores, readings, curves, {"run": run})
    files["summary.json"] = json.dumps(summary.summary(scores), indent=1) + "\n"
    files |= {f"table.{ending}": picture for ending, picture in table.pictures(scores).items()}
    return files | {"scores.jsonl": score_files.lines(filter(table.draws, scores))}


def page(title: str, line: str, sections: Mapping[str, str]) -> str:
    """Return an HTML document; the sections' contents are HTML already."""
    body = "\n".join(f"<h2>{escape(name)}</h2>\n{content}" for name, content in sections.items())
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p class='facts'>{escape(line)}</p>\n{body}\n</body>\n</html>\n"
    )


def curve_section(curves: Curves) -> str:
    """Return a small plot per curve; empty if there is none."""
    if not curves:
        return ""
    plots = "\n".join(plot(name, points) for name, points in curves.items() if points)
    return f"<div class='curves'>\n{plots}\n</div>"


def plot(name: str, points: Sequence[tuple[float, float]]) -> str:
    """Return an SVG line of (step, value) points: no fixed background, grey axes."""
    grey = "#888888"

    def draw(axes: Axes) -> None:
        axes.plot(*zip(*points, strict=True), color="#3f7fd0", linewidth=1.5, marker="o" if len(points) == 1 else None)
        axes.set_title(name, color=grey, fontsize=10)
        axes.set_xlabel("step", color=grey)
        axes.tick_params(colors=grey)
        axes.grid(color=grey, alpha=0.2)
        for side, spine in axes.spines.items():
            spine.set_color(grey)
            spine.set_visible(side in ("left", "bottom"))

    return svg(draw, (4.2, 2.5), salt=name, transparent=True)


def svg(draw: Callable[[Axes], None], inches: tuple[float, float], salt: str, transparent: bool = False) -> str:
    """Return one panel as an inline SVG element, the same bytes for the same drawing."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9}):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=transparent, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :].strip()


def reading_section(readings: Sequence[Reading]) -> str:
    """Return a card per query with every interpreter's reading of it, in order; empty if there is none."""
    by_query: dict[tuple[str, str, str], list[Reading]] = {}
    for reading in readings:
        by_query.setdefault(reading.key, []).append(reading)
    return "\n".join(_card(group) for group in by_query.values())


def _card(group: Sequence[Reading]) -> str:
    completion = next((reading.completion for reading in group if reading.completion is not None), None)
    entries = "\n".join(_entry(reading, completion) for reading in group)
    if completion is not None:
        entries = f"<dt>the language model answers</dt><dd>{escape(completion)}</dd>\n{entries}"
    if origin := origin_of(group[0]):
        entries = f"<dt>from</dt><dd>{escape(origin)}</dd>\n{entries}"
    return f"<div class='reading'>\n<div class='query'>{escape(group[0].query)}</div>\n<dl>\n{entries}\n</dl>\n</div>"


def origin_of(reading: Reading) -> str:
    """Return the source of a query and its instruction, in words; empty for the queries of interpret.queries."""
    parts = dict.fromkeys((reading.source, reading.task)) if reading.task else {}
    instruction = f'embedded after "{reading.instruction}"' if reading.instruction else ""
    return ", ".join(filter(None, [*parts, instruction]))


def _entry(reading: Reading, completion: str | None) -> str:
    name = escape(reading.interpreter.replace("_", " "))
    if reading.words:
        chips = "".join(
            f"<span><b>{position}</b>{escape(' · '.join(words))}</span>"
            for position, words in enumerate(reading.words, start=1)
        )
        return f"<dt>{name}</dt><dd class='lens'>{chips}</dd>"
    same = completion is not None and reading.text.strip() == completion.strip()
    sign = " <span class='same' title='word for word the same'>✓</span>" if same else ""
    return f"<dt>{name}</dt><dd>{escape(reading.text)}{sign}</dd>"
