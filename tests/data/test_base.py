from __future__ import annotations

import random

import pytest

from llm2vec_gen.data.base import QuerySource, Row, check_columns, gives_negatives, row_from
from llm2vec_gen.data.hash_set import HashSet
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Query
from llm2vec_gen.types import QuerySource as QuerySourceProtocol


class Rows(QuerySource):
    def __init__(self, rows, **settings):
        super().__init__(**settings)
        self.given = rows

    def rows(self):
        yield from self.given


def test_a_source_keeps_the_contract():
    assert isinstance(Rows([]), QuerySourceProtocol)


def test_empty_and_duplicate_rows_are_dropped_and_counted():
    source = Rows([Row(" a  b "), Row(None), Row(" \n"), Row("a\nb"), Row("A b"), Row("cafe\u0301"), Row("caf\xe9")])
    assert list(source.queries()) == [Query("0", "a  b"), Query("4", "A b"), Query("5", "cafe\u0301")]
    assert source.report == {"read": 7, "empty": 2, "unanswered": 0, "duplicate": 2, "repaired": 0, "kept": 3}
    assert list(source.queries()) == list(source.queries()), "a second reading starts anew"
    assert source.report["read"] == 7


def test_answers_are_handed_on_only_where_the_source_has_them():
    rows = [Row("a", " x "), Row("b", " "), Row("c"), Row("b", "y")]
    with_answers = Rows(rows, has_answers=True)
    assert list(with_answers.queries()) == [Query("0", "a", "x"), Query("3", "b", "y")]
    assert with_answers.report["unanswered"] == 2
    assert [query.answer for query in Rows(rows).queries()] == [None, None, None]


def test_ids_of_the_rows_win_over_the_index_and_must_differ():
    assert [query.id for query in Rows([Row("a", id="x"), Row("b", id="y")]).queries()] == ["x", "y"]
    with pytest.raises(InputError, match="'x' is in two rows"):
        list(Rows([Row("a", id="x"), Row("b", id="x")]).queries())


def test_limit_counts_kept_rows_and_stops_reading():
    source = Rows([Row("a"), Row("a"), Row("b"), Row("c")], limit=2)
    assert [query.text for query in source.queries()] == ["a", "b"]
    assert source.report["read"] == 3
    for limit in (0, -3, 2.5, "ten", True):  # 2.5 would never be reached: all rows would be read
        with pytest.raises(InputError, match=f"limit={limit}"):
            Rows([], limit=limit)


def test_the_first_clean_queries_are_skipped_before_the_limit_counts():
    rows = [Row("a"), Row(" "), Row("a"), Row("b"), Row("c"), Row("b"), Row("d")]
    source = Rows(rows, skip=2, limit=1)
    assert [(query.id, query.text) for query in source.queries()] == [("4", "c")]
    assert (source.report["skipped"], source.report["kept"]) == (2, 1)
    ahead, behind = Rows(rows, limit=2), Rows(rows, skip=2)
    assert not {query.text for query in ahead.queries()} & {query.text for query in behind.queries()}
    with pytest.raises(InputError, match="4 skipped"):
        list(Rows(rows, skip=4).queries())
    for skip in (-1, 1.5, None):
        with pytest.raises(InputError, match="data.skip"):
            Rows([], skip=skip)


def test_nothing_left_is_an_error_with_the_counts():
    with pytest.raises(InputError, match="1 empty"):
        list(Rows([Row(" ")]).queries())


def test_text_that_no_file_can_hold_is_repaired_and_counted():
    source = Rows([Row("a\ud800b"), Row("\ud83d\ude00"), Row("end\udc00"), Row("fine \U0001f600")])
    queries = list(source.queries())
    assert [query.text for query in queries] == ["a\ufffdb", "\U0001f600", "end\ufffd", "fine \U0001f600"]
    assert source.report["repaired"] == 3
    for query in queries:
        query.text.encode()


def test_hash_set_agrees_with_a_set():
    numbers = random.Random(0)
    texts = [str(numbers.randrange(20_000)) for _ in range(30_000)]
    seen, hashes = set(), HashSet()
    for text in texts:
        assert hashes.add(text) == (text not in seen)
        seen.add(text)
    assert len(hashes) == len(seen)
    assert hashes._slots.itemsize == 8 and len(hashes._slots) <= 4 * len(seen)


def test_values_that_are_no_text_are_refused():
    record = {"query": ["a"], "id": 7}
    with pytest.raises(InputError, match=r"log:3: column 'query' holds list"):
        row_from(record, "query", None, None, "log:3")
    assert row_from({"query": "a", "id": 7}, "query", None, "id", "log:3") == Row("a", None, "7")
    for identifier in (None, "", True, 1.5):
        with pytest.raises(InputError, match="expected an id"):
            row_from({"query": "a", "id": identifier}, "query", None, "id", "log:3")


def test_a_missing_column_lists_those_there():
    check_columns(["text", "label"], {"data.query_column": "text", "data.answer_column": None}, "log.csv")
    with pytest.raises(InputError, match=r"log.csv has no column 'query' \(data.query_column\); it has text, label"):
        check_columns(["text", "label"], {"data.query_column": "query"}, "log.csv")


CONVERSATION = [
    {"role": "system", "content": "be brief"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": [{"type": "text", "text": "what is "}, {"type": "text", "text": "red?"}]},
    {"role": "assistant", "content": "a colour"},
    {"role": "user", "content": "and blue?"},
]


def test_a_conversation_is_its_first_question_and_the_reply_to_it():
    sharegpt = [{"from": turn["role"].replace("user", "human"), "value": turn["content"]} for turn in CONVERSATION]
    for messages in (CONVERSATION, sharegpt):
        assert row_from({"m": messages}, "m", "m", None, "log:1") == Row("what is red?", "a colour")
    assert row_from({"m": CONVERSATION[:3]}, "m", "m", None, "log:1") == Row("what is red?", None)
    assert row_from({"m": CONVERSATION[:2]}, "m", "m", None, "log:1") == Row(None, None), "a greeting answers nothing"


def test_a_question_about_an_image_is_no_text():
    parts = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert row_from({"m": [{"role": "user", "content": parts}]}, "m", None, None, "log:1") == Row(None)


def test_an_input_stands_behind_its_instruction():
    row = {"instruction": "Translate. ", "input": " oui", "output": "yes"}
    assert row_from(row, "instruction", "output", None, "log:1", "input") == Row("Translate.\n\noui", "yes")
    for empty in ("", " ", None):
        assert row_from({**row, "input": empty}, "instruction", None, None, "log:1", "input") == Row("Translate. ")
    assert row_from({**row, "input": []}, "instruction", None, None, "log:1", "input").query == row["instruction"]
    with pytest.raises(InputError, match=r"log:1: column 'input' holds int 3"):
        row_from({**row, "input": 3}, "instruction", None, None, "log:1", "input")


NEGATIVES = [
    Row("a", "x", negative_query=" b ", negative_answer="y "),
    Row("c", "x"),
    Row("a", "x", negative_query="d", negative_answer="z"),
    Row("e", "x", negative_query=" ", negative_answer="z"),
    Row("f", "x", negative_query="g\ud800", negative_answer=" "),
]


def test_hard_negatives_are_queries_of_their_own_and_rows_without_are_dropped_and_counted():
    source = Rows(NEGATIVES, has_answers=True, has_negatives=True, has_negative_answers=True)
    assert list(source.queries()) == [Query("0", "a", "x", Query("0/negative", "b", "y"))]
    assert source.report == {
        "read": 5, "empty": 0, "unanswered": 0, "without_negative": 3, "duplicate": 1, "repaired": 0, "kept": 1
    }  # fmt: skip
    to_be_answered = Rows(NEGATIVES, has_negatives=True)
    assert [(query.id, query.negative) for query in to_be_answered.queries()] == [
        ("0", Query("0/negative", "b")), ("4", Query("4/negative", "g\ufffd"))
    ]  # fmt: skip
    assert (to_be_answered.report["without_negative"], to_be_answered.report["repaired"]) == (2, 1)
    plain = Rows(NEGATIVES)
    assert [query.negative for query in plain.queries()] == [None] * 4 and "without_negative" not in plain.report
    with pytest.raises(InputError, match="data.negative_answer_column answers .*; name both"):
        Rows([], has_negative_answers=True)


def test_a_row_without_negative_does_not_make_a_later_one_a_duplicate():
    source = Rows([Row("a"), Row("a", negative_query="b")], has_negatives=True)
    assert [query.id for query in source.queries()] == ["1"]


@pytest.mark.parametrize("row", [Row("a", "x", negative_query=" a", negative_answer="y"),
                                 Row("Zoe\u0301", "x", negative_query="Zo\u00e9", negative_answer="y"),
                                 Row("a", "x  z", negative_query="b", negative_answer="x z")])  # fmt: skip
def test_a_hard_negative_that_is_the_row_itself_is_none(row):
    source = Rows([row, Row("c", "x", None, "d", "y")], has_answers=True, has_negatives=True, has_negative_answers=True)
    assert [query.text for query in source.queries()] == ["c"] and source.report["without_negative"] == 1


def test_a_node_tells_whether_its_source_gives_negatives():
    log = {"_target_": "llm2vec_gen.data.query_log.QueryLog", "path": "a.jsonl", "negative_query_column": None}
    named = {**log, "negative_query_column": "n"}
    assert not gives_negatives(log) and gives_negatives(named)
    assert not gives_negatives({"_target_": "llm2vec_gen.data.pocket.Pocket"})
    assert gives_negatives({"_target_": "collections.Counter"}), "only the source itself can tell"
    mixture = {"_target_": "llm2vec_gen.data.mixture.Mixture", "weights": None}
    for sources, weights, expected in (
        ({"a": named, "b": named}, None, True),
        ({"a": named, "b": log}, None, False),
        ({"a": named, "b": log}, {"a": 1, "b": 0}, True),
        ({}, None, False),
    ):
        assert gives_negatives({**mixture, "sources": sources, "weights": weights}) is expected
