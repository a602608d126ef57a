from __future__ import annotations

import re
from dataclasses import replace

from llm2vec_gen.tables.report import render
from llm2vec_gen.tables.score_table import ScoreTable
from llm2vec_gen.types import Reading, Score

SCORES = [Score("ours", "suite", "s", "sts", "default", "test", "m", 0.5, True)]
READINGS = [
    Reading("1", "what is <b>?", "decoding", "the answer", completion="the answer"),
    Reading("1", "what is <b>?", "logit_lens", "the", [["the", "an"], ["answer"]], completion="the answer"),
    Reading("2", "and this?", "decoding", "wrong", completion="right"),
]
CURVES = {"loss": [(0, 3.0), (10, 1.0), (20, 0.5)], "empty": []}


def page(**more):
    return render(ScoreTable("Table one", ["sts"]), SCORES, READINGS, CURVES, **more)


def test_everything_is_on_the_page():
    text = page(facts={"steps": 20})
    assert "Table one" in text and "50.0" in text and "steps: 20" in text
    assert text.count("class='query'") == 2 and "what is &lt;b&gt;?" in text and "<b>?" not in text
    assert text.count("✓") == 1
    assert "the · an" in text
    assert text.count("<svg") == text.count("</svg>") == 1 and "empty" not in text


def test_page_is_whole_and_needs_nothing_from_elsewhere():
    text = page()
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert not re.search(r"<(script|link|img|iframe)\b|url\(\s*['\"]?http|@import", text)
    assert not re.search(r"(src|href)\s*=\s*['\"]https?:", text.replace("xlink:href", "inner"))


def test_same_input_gives_the_same_bytes():
    assert page() == page()


def test_sections_without_content_are_left_out():
    text = render(ScoreTable("T", ["sts"]), SCORES)
    assert "Training" not in text and "Decoded embeddings" not in text


def test_readings_of_one_id_in_two_sources_are_two_cards():
    own = [replace(row, source="own_retrieval", task="one", instruction="Say <it>:") for row in READINGS]
    text = render(ScoreTable("t", ["sts"]), [], [*READINGS, *own], {})
    assert text.count("class='query'") == 4
    assert text.count("own_retrieval, one, embedded after &quot;Say &lt;it&gt;:&quot;") == 2
