from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.score_files import gathered, read, read_for, write
from llm2vec_gen.tables.score_table import ScoreTable
from llm2vec_gen.types import Score

FIELDS = ("encoder", "evaluation", "task", "category", "subset", "split", "metric")
ROW = dict.fromkeys(FIELDS, "x") | {"value": 0.5}
ROWS = [
    Score("x", "e", "t", "sts", "default", "test", "m", 0.5, True, 3, "r", "run", 1, "abc", {"q": 1.0}),
    Score("x", "e", "t", "sts", "default", "test", "n", 0.25),
]


def test_rows_come_back(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "b.jsonl", gathered(ROWS, "paper/t:x"))
    assert read(tmp_path / "a.jsonl") == ROWS
    assert [row.encoder for row in read(tmp_path)] == ["x", "x", "paper/t:x", "paper/t:x"]
    assert read([tmp_path / "a.jsonl", tmp_path / "a.jsonl"]) == ROWS * 2
    assert gathered(ROWS, "y")[0].run == "run"
    assert "per_query" not in (tmp_path / "a.jsonl").read_text().splitlines()[1]


@pytest.mark.parametrize("text", ["{broken", '{"encoder": "x"}', '{"colour": 1}', "[1]"])
def test_what_is_no_score_row(tmp_path, text):
    (tmp_path / "a.jsonl").write_text("\n" + text + "\n")
    with pytest.raises(InputError, match=r"a.jsonl:2 is no score row"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("value", "abc", 'value is "abc", expected a number, or null for a missing cell'),
        ("value", True, "value is true, expected a number"),
        ("task", None, "task is null, expected a text"),
        ("encoder", 5, "encoder is 5, expected a text"),
        ("main", 1, "main is 1, expected true or false"),
        ("n", 1.5, "n is 1.5, expected a whole number"),
        ("n", False, "n is false, expected a whole number"),
        ("seed", "x", 'seed is "x", expected a whole number or null'),
        ("per_query", ["a"], r'per_query is \["a"\], expected an object of query ids and numbers'),
        ("per_query", None, "per_query is null, expected an object"),
        ("per_query", {"a": 1, "b": "much"}, 'per_query of "b" is "much", expected a number'),
        ("per_query", {"a": None}, 'per_query of "a" is null, expected a number'),
        ("run", ["long" * 99], r'run is \["(long){14}lo, expected a text'),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_its_place(tmp_path, field, value, message):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {field: value}) + "\n")
    with pytest.raises(InputError, match=rf"a.jsonl:2 is no score row: {message}"):
        read(tmp_path)


def test_a_row_that_lacks_fields_names_them(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"encoder": "x", "value": 1}')
    with pytest.raises(InputError, match="it lacks evaluation, task, category, subset, split, metric; expected"):
        read(tmp_path)


def test_a_hole_whole_numbers_and_no_seed_are_scores(tmp_path):
    rows = [ROW | {"value": None}, ROW | {"value": 1, "seed": None, "per_query": {"q": 1, "r": float("nan")}}]
    (tmp_path / "a.jsonl").write_text("\r\n".join(map(json.dumps, rows)))
    found = read(tmp_path)
    assert [score.value for score in found] == [None, 1]
    write(tmp_path / "b.jsonl", found)
    assert [score.value for score in read(tmp_path / "b.jsonl")] == [None, 1]


def test_a_byte_order_mark_and_separators_within_texts_are_read(tmp_path):
    line = json.dumps(ROW | {"task": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"{line}\n\n{line}\n", encoding="utf-8-sig")
    assert [score.task for score in read(tmp_path)] == ["one\u2028two"] * 2


def test_a_file_that_is_not_utf_8(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(ROW).encode() + b'\n{"encoder": "caf\xe9"}\n')
    with pytest.raises(
        InputError, match="a.jsonl:2 is no score row: 'utf-8' codec .*; expected a JSON object in UTF-8"
    ):
        read(tmp_path)


@pytest.mark.parametrize("paths", [5, False, "", [5], [""], [None], {"a": "b"}])
def test_what_is_no_path(paths):
    with pytest.raises(InputError, match=r"scores=.*: expected a .jsonl file of scores, a folder of them, or a list"):
        read(paths)


def test_files_stay_small_and_lose_nothing_that_is_printed(tmp_path):
    row = replace(ROWS[0], value=0.123456789, per_query={"q": 0.6309297535714575, "r": 1.0})
    write(tmp_path / "a.jsonl", [row])
    assert (tmp_path / "a.jsonl").read_text().endswith('"per_query":{"q":0.63093,"r":1}}\n')
    assert read(tmp_path)[0].value == row.value


def test_a_table_is_the_same_from_files(tmp_path):
    rows = [
        replace(ROWS[0], encoder=name, per_query={f"q{i}": (i * factor % 97) / 97 for i in range(97)})
        for name, factor in (("x", 31), ("y", 57))
    ]
    table = ScoreTable("", ["sts"], baseline="y", average="tasks")
    write(tmp_path / "a.jsonl", rows)
    assert table.render(read(tmp_path)) == table.render(rows)
    column, average = table.grids(rows)[1].cells[0]
    assert column.interval == average.interval, "drawn alike, wherever a task stands"


def test_files_of_another_suite_or_other_rows_are_refused(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    assert read_for(ScoreTable("", ["sts"], evaluations=["e"]), tmp_path) == ROWS
    for table in (ScoreTable("", ["sts"], evaluations=["other"]), ScoreTable("", ["sts"], rows=["experiment:y"])):
        with pytest.raises(InputError, match="none of these 2 scores belongs to this table; they are of e for"):
            read_for(table, tmp_path)


def test_no_score_at_all_is_said_of_the_given_files(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    (tmp_path / "empty").mkdir()
    for paths in (tmp_path / "a.jsonl", [str(tmp_path / "empty"), str(tmp_path)]):
        with pytest.raises(InputError) as caught:
            read_for(ScoreTable("", ["sts"]), paths)
        assert str(caught.value).startswith(f"scores={paths} holds no score; expected .jsonl files")


def test_a_missing_file():
    with pytest.raises(InputError, match="does not exist"):
        read("nowhere.jsonl")
