from __future__ import annotations

from dataclasses import replace

import pytest

from llm2vec_gen.tables.score_files import gathered, read, read_for, write
from llm2vec_gen.tables.score_table import ScoreTable
from llm2vec_gen.types import InputError, Score

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


def test_files_stay_small_and_lose_nothing_that_is_printed(tmp_path):
    row = replace(ROWS[0], value=0.123456789, per_query={"q": 0.6309297535714575, "r": 1.0})
    write(tmp_path / "a.jsonl", [row])
    assert (tmp_path / "a.jsonl").read_text().endswith('"per_query":{"q":0.63092975,"r":1}}\n')
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
    (tmp_path / "a.jsonl").write_text("")
    assert read_for(ScoreTable("", ["sts"]), tmp_path) == []


def test_a_missing_file():
    with pytest.raises(InputError, match="does not exist"):
        read("nowhere.jsonl")
