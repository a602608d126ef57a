from __future__ import annotations

import pytest

from llm2vec_gen.data.base import QuerySource, Row
from llm2vec_gen.data.quality import QualityFilter, repetition
from llm2vec_gen.errors import InputError

ENGLISH = "Please explain to me how the vaccines that we have today work, and why we need them."
GERMAN = "Bitte erkläre mir, wie die Impfstoffe wirken, die wir heute haben, und warum wir sie brauchen."
CHINESE = "请向我解释我们今天拥有的疫苗是如何工作的，以及为什么我们需要它们，谢谢你的帮助，祝你一切顺利。"


class Rows(QuerySource):
    def __init__(self, rows, **settings):
        super().__init__(**settings)
        self.given = rows

    def rows(self):
        yield from self.given


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("one two", 0.0),  # seven characters: o n e _ t w o, all five sequences differ
        ("a b c d", 0.0),
        ("a b c A b c", 1 / 4),  # abc bca cab abc
        ("no no no no no", 2 / 3),
        ("aaaaaaaa", 5 / 6),
        (" ".join(["the same sentence again"] * 5), 1 - 4 / 18),
    ],
)
def test_repetition_by_hand(text, expected):
    assert repetition(text) == pytest.approx(expected)


def test_prose_is_far_from_what_repeats():
    assert repetition(ENGLISH) == repetition(GERMAN) == 0.0


@pytest.mark.parametrize(
    ("settings", "text", "fault"),
    [
        ({"min_characters": 5}, "four", "too_short"),
        ({"min_characters": 5}, "fives", None),
        ({"max_characters": 5}, "fives", None),
        ({"max_characters": 5}, "longer", "too_long"),
        ({"max_repetition": 0.6}, "no no no no no", "repetitive"),
        ({"max_repetition": 0.7}, "no no no no no", None),
        ({"languages": ["en"]}, ENGLISH, None),
        ({"languages": ["en"]}, GERMAN, "other_language"),
        ({"languages": ["en"]}, CHINESE, "other_language"),
        ({"languages": ["en", "zh"]}, CHINESE, None),
        ({"languages": ["en"]}, GERMAN[:20], None),  # too short to tell
        ({"languages": ["en"], "min_language_characters": 0}, GERMAN[:20], "other_language"),
        ({}, "", None),
        (
            {"min_characters": 5, "languages": ["en"], "min_language_characters": 0},
            "oui",
            "too_short",
        ),  # the first rule
    ],
)
def test_each_rule(settings, text, fault):
    assert QualityFilter(**settings).fault(text, None) == fault


def test_fields():
    both = QualityFilter(min_characters=4, max_repetition=0.5, fields=["query", "answer"])
    assert both.fault("a query", "no") == "too_short"
    assert both.fault("a query", None) is None
    assert both.fault("no no no no no", "no") == "too_short", "the first rule that one of the texts breaks"
    assert QualityFilter(min_characters=4, fields=["answer"]).fault("a", "an answer") is None


def test_dropped_rows_are_counted_by_reason_and_may_come_again():
    rows = [Row("hi"), Row("again " * 9), Row(GERMAN), Row(ENGLISH), Row(ENGLISH), Row("")]
    source = Rows(rows, quality=QualityFilter(3, 200, 0.5, ["en"]))
    assert [query.id for query in source.queries()] == ["3"]
    assert source.report == {
        "read": 6, "empty": 1, "unanswered": 0, "too_short": 1, "too_long": 0, "repetitive": 1, "other_language": 1,
        "duplicate": 1, "repaired": 0, "kept": 1,
    }  # fmt: skip
    answers = [Row("a query", "x"), Row("a query", "a longer answer")]
    source = Rows(answers, has_answers=True, quality=QualityFilter(3, fields=["answer"]))
    assert [query.answer for query in source.queries()] == ["a longer answer"], "what was dropped is no duplicate"
    with pytest.raises(InputError, match="no answers to check"):
        Rows(answers[:1], quality=QualityFilter(3, fields=["answer"]))
    ignored = Rows(answers[:1], quality=QualityFilter(3, fields=["query", "answer"]))
    assert list(ignored.queries()), "a source without answers has none to check"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_characters": 0}, "min_characters=0"),
        ({"max_characters": 2.5}, "max_characters=2.5"),
        ({"min_characters": 9, "max_characters": 8}, "no text is left"),
        ({"max_repetition": 1.5}, "max_repetition=1.5"),
        ({"max_repetition": True}, "max_repetition=True"),
        ({"max_repetition": float("nan")}, "max_repetition=nan"),
        ({"languages": "en"}, "expected a list of codes"),
        ({"languages": []}, "expected a list of codes"),
        ({"languages": ["en", "xx"]}, "'xx' is unknown; known are .*de.*"),
        ({"min_language_characters": -1}, "min_language_characters=-1"),
        ({"fields": "query"}, "quality.fields=query"),
        ({"fields": []}, "quality.fields"),
        ({"fields": ["query", "completion"]}, "completion"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(InputError, match=message):
        QualityFilter(**settings)


def test_a_filter_that_is_none_is_refused():
    with pytest.raises(InputError, match=r"data.quality='default'"):
        Rows([], quality="default")
