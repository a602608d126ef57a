"""One self-contained HTML page of readings: a map, search, filters, and a row per query. Nothing comes from elsewhere.

The readings are JSON inside the page, and its script puts them on it as text, never as HTML. What could end the script
element or change how the page is read (<, >, &, control and direction characters) is escaped before.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files
from typing import Any

from llm2vec_gen.types import MapPoint, Reading

Key = tuple[str, str, str]
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute


def files_of(readings: Sequence[Reading], points: Sequence[MapPoint], facts: Mapping[str, object]) -> dict[str, str]:
    """Return the readings as files, name -> content; facts that are None are left out."""
    known = {key: value for key, value in facts.items() if value is not None}
    return {
        "readings.csv": to_csv(readings),
        "readings.json": to_json(readings, points),
        "report.html": render(readings, points, known),
    }


def render(readings: Sequence[Reading], points: Sequence[MapPoint] = (), facts: Mapping[str, object] | None = None,
           title: str = "Readings of embeddings") -> str:  # fmt: skip
    """Return the page: one row per query with its readings; points on the map where there are any."""
    line = " · ".join(f"{key}: {value}" for key, value in (facts or {}).items())
    parts = {
        "title": escape(visible(title)),
        "facts": escape(visible(line)),
        "style": _asset("reading_report.css"),
        "script": _asset("reading_report.js"),
        "data": embedded(page_data(readings, points)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("reading_report.html"))


def page_data(readings: Sequence[Reading], points: Sequence[MapPoint]) -> list[dict[str, Any]]:
    """Return what the page shows, a dictionary per query, in order; empty values are left out."""
    places = {(point.source, point.task, point.id): point for point in points}
    groups: dict[Key, list[Reading]] = {}
    for reading in readings:
        groups.setdefault(reading.key, []).append(reading)
    rows = {key: number for number, key in enumerate(groups)}
    return [_entry(group, places.get(key), rows) for key, group in groups.items()]


def embedded(data: Any) -> str:
    """Return JSON that may stand in a script element of type application/json."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def visible(text: str) -> str:
    """Return the text with control, direction and zero-width characters spelled as U+XXXX; line ends and tabs stay."""
    return CONTROL.sub(lambda match: f"\u27e8U+{ord(match[0]):04X}\u27e9", text)


def to_json(readings: Sequence[Reading], points: Sequence[MapPoint] = ()) -> str:
    """Return all readings and map points as JSON, unchanged."""
    content = {"readings": [asdict(row) for row in readings], "map": [asdict(point) for point in points]}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def to_csv(readings: Sequence[Reading]) -> str:
    """Return one line per reading. A cell that a spreadsheet would take for a formula begins with an apostrophe."""
    columns = ["source", "task", "id", "instruction", "query", "interpreter", "layer", "text", "words", "completion"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in readings:
        words = " | ".join(" ".join(position) for position in row.words)
        layer = "" if row.layer is None else str(row.layer)
        cells = [
            *row.key,
            row.instruction or "",
            row.query,
            row.interpreter,
            layer,
            row.text,
            words,
            row.completion or "",
        ]
        writer.writerow([_cell(cell) for cell in cells])
    return stream.getvalue()


def _cell(text: str) -> str:
    text = CONTROL.sub("\ufffd", text)
    return f"'{text}" if text.startswith(FORMULA) else text


def _entry(group: Sequence[Reading], point: MapPoint | None, rows: Mapping[Key, int]) -> dict[str, Any]:
    first = group[0]
    completion = next((reading.completion for reading in group if reading.completion is not None), None)
    entry: dict[str, Any] = {
        "id": visible(first.id),
        "group": visible(" / ".join(dict.fromkeys(filter(None, [first.source, first.task])))),
        "query": visible(first.query),
        "instruction": visible(first.instruction or ""),
        "completion": visible(completion or ""),
        "readings": [_reading(reading, completion) for reading in group],
    }
    if point is not None:
        entry["place"] = [round(point.x, 4), round(point.y, 4)]
        near = [((source, task, name), cosine) for source, task, name, cosine in point.neighbours]
        entry["near"] = [[rows[key], round(cosine, 3)] for key, cosine in near if key in rows]
    return {name: value for name, value in entry.items() if value not in ("", [])}


def _reading(reading: Reading, completion: str | None) -> dict[str, Any]:
    name = reading.interpreter.replace("_", " ") + ("" if reading.layer is None else f", layer {reading.layer}")
    found: dict[str, Any] = {"name": visible(name), "text": visible(reading.text)}
    if reading.words:
        found["words"] = [
            [_word(reading, position, place) for place in range(len(words))]
            for position, words in enumerate(reading.words)
        ]
    elif completion is not None and reading.text.strip() == completion.strip():
        found["same"] = True
    if reading.tokens:
        found["tokens"] = [[visible(token), float(f"{weight:.3g}")] for token, weight in reading.tokens]
    return found


def _word(reading: Reading, position: int, place: int) -> list[Any]:
    """[word, weight, 1 where it is one of the query's, context], cut where the rest is empty."""

    def at(field: list[list[Any]], otherwise: Any) -> Any:
        return field[position][place] if field else otherwise

    word = visible(reading.words[position][place])
    weight, own = round(at(reading.weights, 0.0), 3), int(at(reading.in_query, False))
    context = visible(at(reading.contexts, ""))
    return [word, weight, own, context] if context else [word, weight, own] if own else [word, weight]


def _asset(name: str) -> str:
    return (files("llm2vec_gen.tables") / name).read_text(encoding="utf-8")
