from __future__ import annotations

import pytest

from llm2vec_gen.tables.score_files import gathered, read, write
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


def test_a_missing_file():
    with pytest.raises(InputError, match="does not exist"):
        read("nowhere.jsonl")
