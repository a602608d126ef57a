"""One reader for local files: what stands there is what every component gets, or an error that names the line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from llm2vec_gen.data.hub import HubDataset
from llm2vec_gen.data.query_log import QueryLog
from llm2vec_gen.evaluations.records import records
from llm2vec_gen.local_files import column_names, data_files, format_of, read_rows, stem_of, value_of
from llm2vec_gen.types import InputError

TRICKY = [
    {"id": "007", "query": "NA"},
    {"id": "1e3", "query": "null"},
    {"id": "x", "query": '5" pipe, and a "word"'},
    {"id": "y", "query": "caf\u00e9 \u2028 line separator"},
    {"id": "z", "query": "long " * 40_000},  # above the 131,072 characters that Python's csv reads by default
]


def write(file: Path, rows: list[dict]) -> Path:
    ending = format_of(file)
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return file
    if ending == ".csv":
        text = pandas.DataFrame(rows).to_csv(index=False, quoting=csv.QUOTE_MINIMAL)
    elif ending == ".tsv":
        text = "".join("\t".join(line) + "\n" for line in [list(rows[0]), *(list(row.values()) for row in rows)])
    elif ending == ".json":
        text = json.dumps(rows)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.jsonl", "a.ndjson", "a.json", "a.parquet", "a.csv.gz", "a.jsonl.gz", "A.JSONL"]
)
def test_every_component_gets_what_stands_there(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, TRICKY)
    assert [row for _, row in read_rows(file)] == TRICKY
    for path in (file, tmp_path):
        assert [(q.id, q.text) for q in QueryLog(str(path), id_column="id").queries()] == [
            (row["id"], row["query"].strip()) for row in TRICKY
        ]
        assert [(q.id, q.text) for q in HubDataset(str(path), id_column="id").queries()] == [
            (row["id"], row["query"].strip()) for row in TRICKY
        ]
        assert records("k", str(path), {"id": (str,), "query": (str,)}, unique="id") == TRICKY


def test_a_quote_in_a_tsv_is_a_character(tmp_path: Path) -> None:
    lines = ["query", '"an open quote', "two", 'it is 5" wide', '"', "five"]
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n")
    assert [row["query"] for _, row in read_rows(tmp_path / "a.tsv")] == lines[1:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('q\n"open\nb\nc\n', "a.csv:2 is no row of a csv file"),
        ('q\na\n"b" c\nd\n', "a.csv:3 is no row of a csv file"),
        ("q,r\n1,2\n1,2,3\n", "a.csv:3 has 3 cells, the header 2; quote cells"),
        ("q,r\n1,2\n1\n", "a.csv:3 has 1 cells, the header 2"),
        ("q,q\n1,2\n", "the column 'q' stands twice"),
    ],
)
def test_a_broken_csv_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        list(read_rows(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"q": 1}\n{"q":\n', "a.jsonl:2 is no JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1 holds a list"),
        ("a.json", b"[1, 2]", "a.json:1 holds a int"),
        ("a.json", b'[{"q": 1}', "a.json:1 is no JSON"),
        ("a.jsonl", b'{"q": "caf\xe9"}\n', "a.jsonl:1 is not utf-8 text"),
        ("a.csv", b"q\nok\ncaf\xe9\n", "a.csv:3 is not utf-8 text"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a Git LFS pointer"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        ("a.parquet", b"PAR1 and no more", "is no readable parquet file"),
        ("a.jsonl.gz", gzip.compress(b'{"q": "a"}\n' * 999)[:40], "is no whole gzip file"),
        ("a.xlsx", b"", "ends in .xlsx; expected one of .jsonl"),
    ],
)
def test_what_is_no_row_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_rows(tmp_path / name))


def test_json_lines_named_json_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('\n{"q": "[a]"}\n\n{"q": "b"}\n')
    assert list(read_rows(tmp_path / "a.json")) == [(2, {"q": "[a]"}), (4, {"q": "b"})]
    (tmp_path / "b.json").write_text("")
    assert list(read_rows(tmp_path / "b.json")) == []


def test_missing_values_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "a", "title": NaN}\n{"q": "b", "title": null}\n')
    assert [row["title"] for _, row in read_rows(tmp_path / "a.jsonl")] == [None, None]
    frame = pandas.DataFrame({"q": ["a", "b"], "title": [None, float("nan")], "score": [1.0, float("nan")]})
    frame.to_parquet(tmp_path / "a.parquet")
    assert [row["score"] for _, row in read_rows(tmp_path / "a.parquet")] == [1.0, None]


def test_other_delimiters_and_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('q;r\n"a;b";caf\u00e9\n'.encode("latin-1"))
    assert list(read_rows(tmp_path / "a.csv", "latin-1", ";")) == [(2, {"q": "a;b", "r": "caf\u00e9"})]
    assert [q.text for q in QueryLog(str(tmp_path / "a.csv"), "q", encoding="latin-1", delimiter=";").queries()] == [
        "a;b"
    ]
    with pytest.raises(InputError, match="expected one character"):
        list(read_rows(tmp_path / "a.csv", delimiter=";;"))


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    write(tmp_path / "biology.jsonl", TRICKY[:1])
    for name in (
        ".ipynb_checkpoints/biology-checkpoint.jsonl",
        ".cache/x.parquet",
        "._biology.jsonl",
        "__MACOSX/a.csv",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"broken")
    assert data_files(tmp_path, recursive=True) == data_files(tmp_path) == [tmp_path / "biology.jsonl"]
    assert records("k", str(tmp_path), {"id": (str,)}) == TRICKY[:1]
    assert [q.text for q in QueryLog(str(tmp_path)).queries()] == ["NA"]
    assert [q.text for q in HubDataset(str(tmp_path)).queries()] == ["NA"]


def test_nested_columns_and_messages(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "why?"},
        {"role": "assistant", "content": "so"},
    ]
    rows = [{"request": {"text": "inner", "meta": {"id": "n1"}}, "messages": turns, "a.b": "exact name first"}]
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(rows[0]) + "\n")
    assert value_of(rows[0], "request.text") == "inner" and value_of(rows[0], "a.b") == "exact name first"
    assert value_of(rows[0], "request.none") is None and value_of(rows[0], "messages.role") is None
    assert {"request.text", "request.meta.id"} <= set(column_names(rows[0]))
    (query,) = QueryLog(str(file), "request.text", id_column="request.meta.id").queries()
    assert (query.id, query.text) == ("n1", "inner")
    (query,) = QueryLog(str(file), "messages", "messages").queries()
    assert (query.text, query.answer) == ("why?", "so")
    share = [{"from": "human", "value": "who?"}, {"from": "gpt", "value": "me"}]
    file.write_text(json.dumps({"conversations": share}) + "\n")
    (query,) = QueryLog(str(file), "conversations", "conversations").queries()
    assert (query.text, query.answer) == ("who?", "me")
    file.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(InputError, match="holds dict .*name the column inside of it, e.g. request.text"):
        list(QueryLog(str(file), "request").queries())


def test_names() -> None:
    assert [format_of(Path(name)) for name in ("a.CSV", "a.jsonl.gz", "a.parquet.gz", "a.txt", "csv")] == [
        ".csv", ".jsonl", None, None, None,
    ]  # fmt: skip
    assert [stem_of(Path(name)) for name in ("test.jsonl", "test.csv.gz", "v1.2-test.tsv")] == [
        "test",
        "test",
        "v1.2-test",
    ]
