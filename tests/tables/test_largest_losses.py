from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.largest_losses import LargestLosses, short
from llm2vec_gen.tables.score_table import TableSet
from llm2vec_gen.types import MODEL, Reading, Score


def score(encoder, values, metric="ndcg", main=True):
    return Score(encoder, "own", "t", "retrieval", "default", "test", metric, 0.0, main, per_query=values)


ROWS = [
    score("x", {"a": 0.5, "b": 0.1, "c": 1.0, "d": 0.0}),
    score("y", {"a": 0.6, "b": 0.9, "c": 0.2, "e": 1.0}),
    score("y", {"a": 0.0, "b": 0.0}, "other", main=False),
]
READINGS = [
    Reading("b", "the query", "decoding", "it says\nthis", source="own", task="t"),
    Reading("b", "the query", "logit_lens", "no", source="own", task="t"),
    Reading("a", "row a of another task", "decoding", "another text", source="own", task="u"),
    Reading("b", "row b of the query log", "decoding", "another text"),
    Reading("a", "row a of the query log", "decoding", "another text"),
    Reading("a", "row a of another evaluation", "decoding", "another text", source="owner"),
]


OURS = [replace(row, encoder=MODEL) if row.encoder == "x" else row for row in ROWS]


def test_queries_with_the_largest_loss_come_first(tmp_path):
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "a", "text": "what is a?"}) + "\n")
    table = TableSet({"losses": LargestLosses(MODEL, "y", "own", str(tmp_path))}).with_readings(READINGS)
    (grid,) = table.grids(OURS)
    assert grid.rows == ["b: the query", "a: what is a?"]
    assert grid.texts() == [["80.0", "10.0", "90.0", "it says this"], ["10.0", "50.0", "60.0", "–"]]
    assert grid.note == "y is ahead on 2 of 3 queries."


def test_rows_of_other_models_are_not_given_the_decodings_of_ours():
    (grid,) = LargestLosses("x", "y", "own", readings=READINGS).grids(ROWS)
    assert [cells[-1] for cells in grid.texts()] == ["–", "–"]


def test_one_id_in_two_tasks():
    """Each row keeps its own text, scores and decoding, as in BRIGHT, whose domains all count from 0."""
    values = {("u", MODEL): 0.1, ("u", "y"): 0.9, ("t", MODEL): 0.2, ("t", "y"): 0.7}
    rows = [replace(score(encoder, {"b": value}), task=task) for (task, encoder), value in values.items()]
    readings = [*READINGS, Reading("b", "the query of u", "decoding", "of u", source="own", task="u")]
    (grid,) = LargestLosses(MODEL, "y", "own", readings=readings).grids(rows)
    assert grid.rows == ["u b: the query of u", "t b: the query"]
    assert [cells[-1] for cells in grid.texts()] == ["of u", "it says this"]


def test_the_limit_and_nothing_to_lose():
    assert LargestLosses("x", "y", "own", limit=1).grids(ROWS)[0].rows == ["b"]
    assert LargestLosses("x", "y", "another").grids(ROWS)[0].rows == []
    assert "| query" in LargestLosses("x", "y", "own").files([])["md"]
    assert LargestLosses("e:x", "y", "own").wanted() == ["e:x"]
    assert short("a" * 100) == "a" * 79 + "…" and short(None) is None


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*queries.jsonl"):
        LargestLosses("x", "y", "own", str(tmp_path)).grids(ROWS)


def test_blank_lines_marks_and_separators_in_the_queries(tmp_path):
    rows = [json.dumps({"_id": name, "text": f"what\u2028is {name}?"}, ensure_ascii=False) for name in "ab"]
    (tmp_path / "queries.jsonl").write_text("\n \r\n".join(rows) + "\n\n", encoding="utf-8-sig")
    assert LargestLosses("x", "y", "own", str(tmp_path)).grids(ROWS)[0].rows == ["b: what is b?", "a: what is a?"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{broken", "Expecting property name"),
        (b"[1]", r"it is \[1\]; expected a JSON object"),
        (b'{"_id": "caf\xe9"}', "'utf-8' codec"),
        (b'{"_id": "a", "title": "x"}', "it lacks text; expected _id and text"),
        (b'{"_id": null, "text": "x"}', "it lacks _id; expected _id and text"),
    ],
)
def test_a_line_that_is_no_query_is_named(tmp_path, line, message):
    (tmp_path / "queries.jsonl").write_bytes(b"\n" + line)
    with pytest.raises(InputError, match=f"queries.jsonl:2 is no query: {message}"):
        LargestLosses("x", "y", "own", str(tmp_path)).grids(ROWS)
