from __future__ import annotations

from llm2vec_gen.tables.grid import Cell, Grid
from llm2vec_gen.tables.markdown import readings, render
from llm2vec_gen.types import Reading

GRID = Grid(
    title="Scores",
    rows=["ours", "a|b"],
    columns=["sts", "harm"],
    cells=[[Cell(0.5, 0.0, 1), Cell(0.25, 0.0, 1)], [Cell(0.123, 0.0, 1), Cell()]],
    lower_is_better=frozenset({"harm"}),
    note="A note.",
)


def test_table_as_text():
    assert render(GRID).splitlines() == [
        "### Scores",
        "",
        "| method |      sts | harm ↓ |",
        "|:-------|---------:|-------:|",
        "| ours   | **50.0** |   25.0 |",
        "| a\\|b   |     12.3 |      – |",
        "",
        "A note.",
    ]


def test_readings_by_query():
    found = [
        Reading("1", "what\nis it?", "decoding", "a cat", completion="a cat"),
        Reading("2", "and that?", "decoding", "a dog"),
        Reading("1", "what\nis it?", "logit_lens", "cat", [["cat", "dog", "cow"], ["a"]], completion="a cat"),
    ]
    assert readings(found).splitlines() == [
        "### Decoded embeddings",
        "",
        "- what is it?",
        "  - answer: a cat",
        "  - decoding: a cat ✓",
        "  - logit lens: 1 cat/dog · 2 a",
        "- and that?",
        "  - decoding: a dog",
    ]
    assert readings([]) == ""


def test_readings_of_one_id_in_two_sources_stand_apart():
    found = [Reading("1", "what is it?", "decoding", "a cat"), Reading("1", "and?", "decoding", "no", source="own")]
    assert readings(found).splitlines()[2:] == ["- what is it?", "  - decoding: a cat", "- and?", "  - decoding: no"]
