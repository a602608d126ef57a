from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llm2vec_gen.data.query_log import QueryLog
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Query

ROWS = [
    {"id": "a", "question": "What is red?", "reply": "A colour, mostly."},
    {"id": "b", "question": 'quotes "and"\nlines, and commas', "reply": "yes"},
    {"id": "c", "question": "  ", "reply": "no"},
    {"id": "d", "question": "What is red?", "reply": "again"},
    {"id": "e", "question": "007", "reply": "\u2603 snow"},
]
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def write(folder: Path, suffix: str, rows=ROWS, name: str = "log") -> Path:
    file = folder / f"{name}{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=2)
    elif suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        mark = "\t" if suffix == ".tsv" else ","
        lines = [list(rows[0])] + [list(row.values()) for row in rows]
        if suffix == ".tsv":  # no quotes: a line break inside of a cell cannot be written
            lines = [[value.replace("\n", " ") for value in line] for line in lines]
            file.write_text("\n".join(mark.join(line) for line in lines) + "\n", encoding="utf-8")
            return file
        quoted = [mark.join('"' + value.replace('"', '""') + '"' for value in line) for line in lines]
        file.write_text("\n".join(quoted) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_queries(tmp_path, suffix):
    log = QueryLog(str(write(tmp_path, suffix)), "question", "reply", "id")
    assert list(log.queries()) == [
        Query("a", "What is red?", "A colour, mostly."),
        Query("b", 'quotes "and"' + (" " if suffix == ".tsv" else "\n") + "lines, and commas", "yes"),
        Query("e", "007", "\u2603 snow"),
    ]
    assert log.report == {"read": 5, "empty": 1, "unanswered": 0, "duplicate": 1, "repaired": 0, "kept": 3}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_without_id_column_the_id_is_the_row_index(tmp_path, suffix):
    log = QueryLog(str(write(tmp_path, suffix)), "question", limit=2)
    assert [(query.id, query.answer) for query in log.queries()] == [("0", None), ("1", None)]


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    write(tmp_path, ".csv", ROWS[1:2], "b")
    write(tmp_path, ".jsonl", ROWS[:1], "a")
    write(tmp_path, ".parquet", ROWS[4:], "c")
    (tmp_path / "notes.txt").write_text("not a log")
    assert [(query.id, query.text[:4]) for query in QueryLog(str(tmp_path), "question").queries()] == [
        ("0", "What"),
        ("1", "quot"),
        ("2", "007"),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_column_that_is_not_there_lists_those_that_are(tmp_path, suffix):
    file = write(tmp_path, suffix)
    with pytest.raises(InputError, match=r"no column 'query' \(data.query_column\); it has id, question, reply"):
        QueryLog(str(file))
    with pytest.raises(InputError, match="data.answer_column"):
        QueryLog(str(file), "question", "answer")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_empty_files_are_errors(tmp_path, suffix):
    file = tmp_path / f"log{suffix}"
    file.touch()
    with pytest.raises(InputError, match="is empty"):
        QueryLog(str(file), "question")


def test_wrong_paths_are_errors(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        QueryLog(str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="holds no query log"):
        QueryLog(str(tmp_path))
    (tmp_path / "log.txt").write_text("hello")
    with pytest.raises(InputError, match="ends in .txt; expected one of .jsonl"):
        QueryLog(str(tmp_path / "log.txt"))


def test_malformed_jsonl_names_file_and_line(tmp_path):
    file = tmp_path / "log.jsonl"
    lines = ['{"query": "a"}', "", '{"query": "b"}'] * 100
    for bad, message in [('{"query": ', "no JSON"), ("[1]", "a list"), ("[" * 100_000, "no JSON"), ("9" * 5000, "")]:
        file.write_text("\n".join([*lines, bad, '{"query": "c"}']))
        log = QueryLog(str(file))
        with pytest.raises(InputError, match=rf"log.jsonl:301 .*{message}"):
            list(log.queries())


def test_a_value_that_is_no_text_names_file_and_line(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"query": "a"}\n{"query": {"text": "b"}}\n')
    with pytest.raises(InputError, match=r"log.jsonl:2: column 'query' holds dict"):
        list(QueryLog(str(file)).queries())


def test_a_column_may_be_absent_from_some_jsonl_rows(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"other": "a"}\n{"query": "b"}\n{"query": null}\n')
    log = QueryLog(str(file))
    assert [query.id for query in log.queries()] == ["1"]
    assert log.report["empty"] == 2


def test_a_csv_row_of_another_width_names_the_file(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("query,label\na,1\nb,2,3\n")
    with pytest.raises(InputError, match="log.csv"):
        list(QueryLog(str(file)).queries())


def test_a_truncated_parquet_file_is_an_error(tmp_path):
    file = write(tmp_path, ".parquet")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InputError, match="no readable parquet"):
        QueryLog(str(file), "question")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_encodings(tmp_path, suffix):
    rows = [{"query": "caf\xe9", "label": "1"}]
    file = write(tmp_path, suffix, rows)
    text = file.read_text(encoding="utf-8")
    if suffix == ".jsonl":
        text = json.dumps(rows[0], ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8-sig")
    assert [query.text for query in QueryLog(str(file)).queries()] == ["caf\xe9"], "a byte order mark is no text"
    file.write_text(text, encoding="latin-1")
    assert [query.text for query in QueryLog(str(file), encoding="latin-1").queries()] == ["caf\xe9"]
    with pytest.raises(InputError, match=r"log\."):
        list(QueryLog(str(file)).queries())
    with pytest.raises(InputError, match="data.encoding=klingon is unknown"):
        QueryLog(str(file), encoding="klingon")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_are_streamed(tmp_path, suffix):
    """A log of 24 MB is read with a few MB of Python objects: never the whole file."""
    rows = [{"query": f"{index} " + "x" * 2000, "label": "1"} for index in range(12_000)]
    file = write(tmp_path, suffix, rows)
    log = QueryLog(str(file))
    tracemalloc.start()
    count = sum(1 for _ in log.queries())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == len(rows)
    assert peak < 8e6


@pytest.mark.skipif(not SHARED.exists(), reason="the real text files are not here")
def test_real_logs():
    log = QueryLog(str(SHARED / "queries.jsonl"), "query", "response", "id")
    queries = list(log.queries())
    assert log.report["read"] == 10_000
    assert len(queries) == log.report["kept"] > 9_900
    assert len({query.id for query in queries}) == len(queries)
    bank = QueryLog(str(SHARED / "banking77_train.csv"), "text")
    assert len(list(bank.queries())) == bank.report["kept"] > 9_900
    assert bank.report["read"] == 10_003


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_alpaca_rows(tmp_path, suffix):
    rows = [
        {"instruction": "Translate to French.", "input": " cat ", "output": "chat"},
        {"instruction": "Name a colour.", "input": "", "output": "red"},
        {"instruction": "  ", "input": "lost", "output": "x"},
        {"instruction": "Translate to French.", "input": "dog", "output": "chien"},
    ]
    if suffix == ".json":
        file = tmp_path / "log.json"
        file.write_text(json.dumps(rows))
    else:
        file = write(tmp_path, suffix, rows)
    log = QueryLog(str(file), "instruction", "output", input_column="input")
    assert list(log.queries()) == [
        Query("0", "Translate to French.\n\ncat", "chat"),
        Query("1", "Name a colour.", "red"),
        Query("3", "Translate to French.\n\ndog", "chien"),
    ]
    with pytest.raises(InputError, match=r"has no column 'inputs' \(data.input_column\)"):
        QueryLog(str(file), "instruction", "output", input_column="inputs")


@pytest.mark.parametrize("user", ["human", "user"])
def test_sharegpt_rows(tmp_path, user):
    rows = [
        {"id": "a", "conversations": [
            {"from": "system", "value": "be brief"}, {"from": user, "value": "one?"}, {"from": "gpt", "value": "1"},
            {"from": user, "value": "two?"}, {"from": "gpt", "value": "2"},
        ]},
        {"id": "b", "conversations": [{"from": "gpt", "value": "nobody asked"}]},
    ]  # fmt: skip
    log = QueryLog(str(write(tmp_path, ".jsonl", rows)), "conversations", "conversations", "id")
    assert list(log.queries()) == [Query("a", "one?", "1")]


def test_an_input_column_that_is_null_changes_no_digest(tmp_path):
    from llm2vec_gen.artifacts.identity import hashed_config

    file = write(tmp_path, ".jsonl", [{"query": "a"}])
    node = {"_target_": "llm2vec_gen.data.query_log.QueryLog", "path": str(file), "query_column": "query"}
    assert hashed_config(node) == hashed_config(node | {"input_column": None})
    assert hashed_config(node) != hashed_config(node | {"input_column": "input"})


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_hard_negatives_come_from_their_columns_conversations_too(tmp_path, suffix):
    rows = [
        {"query": "hot?", "reply": "yes", "n": "cold?", "na": "no"},
        {"query": "dry?", "reply": "y", "n": "", "na": ""},
    ]
    log = QueryLog(
        str(write(tmp_path, suffix, rows)), "query", "reply", negative_query_column="n", negative_answer_column="na"
    )
    assert list(log.queries()) == [Query("0", "hot?", "yes", Query("0/negative", "cold?", "no"))]
    assert log.report["without_negative"] == 1
    if suffix == ".jsonl":
        chat = [{"role": "user", "content": "cold?"}, {"role": "assistant", "content": "no"}]
        file = str(write(tmp_path, suffix, [{"query": "hot?", "m": chat}], name="chat"))
        log = QueryLog(file, negative_query_column="m", negative_answer_column="m")
        assert [query.negative for query in log.queries()] == [Query("0/negative", "cold?", "no")]
