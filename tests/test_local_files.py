"""One reader for local files: what stands there is what every component gets, or an error that names the line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from llm2vec_gen.cli.command import parse
from llm2vec_gen.cli.reading import read_column, read_texts
from llm2vec_gen.data.hub import HubDataset
from llm2vec_gen.data.query_log import QueryLog
from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.records import records
from llm2vec_gen.local_files import column_names, data_files, format_of, read_rows, stem_of, value_of

TRICKY = [
    {"id": "007", "query": "NA"},
    {"id": "1e3", "query": "null"},
    {"id": "x", "query": '5" pipe, and a "word"'},
    {"id": "y", "query": "caf\u00e9 \u2028 line separator"},
    {"id": "z", "query": "long " * 40_000},  # above the 131,072 characters that Python's csv reads by default
]


def gzipped(content: bytes) -> bytes:
    """Compress without the time, so that the parameters of tests have the same ids in every worker of pytest-xdist."""
    return gzip.compress(content, mtime=0)


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
    file.write_bytes(gzipped(text.encode()) if file.suffix == ".gz" else text.encode())
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
        ("q,q\n1,2\n", "the column 'q' appears twice"),
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
        ("a.jsonl.gz", gzipped(b'{"q": "a"}\n' * 999)[:40], "is not a complete gzip file"),
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
    assert data_files(tmp_path) == [tmp_path / "biology.jsonl"]
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


def texts_of(arguments: list[str]) -> list[str]:
    """The texts that a command reads."""
    return [row.text for row in read_texts(parse(arguments))]


def readers(file: Path) -> dict[str, list[str]]:
    """The texts of the column "query", by each component that reads files."""
    named = ["encode", "m", "--file", str(file), "--column", "query"]
    corpus = parse(["search", "m", "--corpus", str(file), "--corpus-column", "query", "q"])
    return {
        "rows": [row["query"] for _, row in read_rows(file)],
        "log": [row.query or "" for row in QueryLog(str(file)).rows()],
        "hub": [row.query or "" for row in HubDataset(str(file)).rows()],
        "records": [row["query"] for row in records("k", str(file), {"query": (str,)})],
        "encode": texts_of(named),
        "search": [row.text for row in read_column(file, "query", corpus, ids=())],
    }


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.tsv", b"query\none\rand a half\ntwo\r\n", ["one\rand a half", "two"]),
        ("a.tsv", b'query\n"x\n\x0cy\n', ['"x', "\x0cy"]),
        ("a.csv", b'query\n"one\rand a half"\r\ntwo\r\n', ["one\rand a half", "two"]),
        ("a.csv", b"query,b\none\rand,1\n\rtwo,2", ["one\rand", "\rtwo"]),
        ("a.csv", b"query\n\none\n\n", ["", "one", ""]),
        ("a.tsv", b"\nquery\n\none\n", ["", "one"]),
        ("a.csv", b"query,b\n\none,1\n\n", ["one"]),
        ("a.csv", b"\xef\xbb\xbfquery\none\n", ["one"]),
        ("a.json", b'\xef\xbb\xbf [ {"query": "one"},\n{"query": "[two]"}\n]\n', ["one", "[two]"]),
        ("a.json", json.dumps([{"query": "x" * 70_000}] * 3).encode(), ["x" * 70_000] * 3),
        ("a.json", json.dumps([{"query": "x" * 700_000}, {"query": "y"}], indent=2).encode(), ["x" * 700_000, "y"]),
        ("a.jsonl", b'{"query": "one", "scores": [NaN, {"a": NaN}]}\n\n{"query": "two"}', ["one", "two"]),
    ],
)
def test_the_same_rows_whoever_reads(tmp_path: Path, name: str, content: bytes, rows: list[str]) -> None:
    for packed in (False, True):
        file = tmp_path / (f"{name}.gz" if packed else name)
        file.write_bytes(gzipped(content) if packed else content)
        assert readers(file) == dict.fromkeys(readers(file), rows)


CSV = b"query\n" + b"".join(b"line %d\n" % number for number in range(50_000))
PARQUET = io.BytesIO()
pyarrow.parquet.write_table(pyarrow.table({"query": [f"row {number}" for number in range(50_000)]}), PARQUET)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"query": "a"},\n{"query": "caf\xe9"}]', "a.json:2 is not utf-8 text .byte 0xe9"),
        ("a.json", b'[{"query": "a"},\n{"query": "b", "query": "c"}]', "a.json:2 .*'query' appears twice"),
        ("a.jsonl", b'{"query": "a"}\n{"query": "b", "x": {"y": 1, "y": 2}}', "a.jsonl:2 .*'y' appears twice"),
        ("a.json", b'[{"query": "a"}]\n[{"query": "b"}]', "a.json:2 .*after the end of the array"),
        ("a.json", b'[{"query": "a"}\n{"query": "b"}]', "a.json:2 is no JSON .row 1: '{' after it"),
        ("a.json", b'[{"query": "a"},\n', "a.json:2 is no JSON .row 2"),
        ("a.json", b'[{"query": "a"}\n', "a.json:2 .*the file ends before the array"),
        ("a.json", b'[{"query": "a"},]', "a.json:1 is no JSON .row 2"),
        ("a.csv", b"query\rone\rtwo\r", "lines end in carriage returns"),
        ("a.tsv", b"query\rone\rtwo\r", "lines end in carriage returns"),
        ("a.csv", b"query\none\0\n", "a.csv:2 is not utf-8 text .byte 0x00"),
        ("a.csv", "query\none\n".encode("utf-16"), "utf-16 text by its byte order mark, expected utf-8"),
        ("a.tsv", "query\none\n".encode("utf-16-le"), "a.tsv:1 is not utf-8 text .byte 0x00"),
        ("a.jsonl", '{"query": "a"}'.encode("utf-16-be"), "a.jsonl:1 is not utf-8 text"),
        ("a.csv", b"PK\x03\x04" + bytes(99), "a zip archive or a spreadsheet"),
        ("a.jsonl", gzipped(b'{"query": "a"}'), "compressed by gzip; let its name end in .gz"),
        ("a.csv", PARQUET.getvalue(), "a parquet file; let its name end"),
        ("a.json.gz", b'[{"query": "a"}]', "a.json.gz is no gzip file"),
        ("a.csv.gz", gzipped(CSV)[:-99], "not a complete gzip file"),
        ("a.csv.gz", gzipped(CSV)[:9000] + b"\xff" * 99 + gzipped(CSV)[9099:], "not a complete gzip file"),
        ("a.csv.gz", gzipped(CSV)[:-8] + bytes(8), "not a complete gzip file"),
        ("a.csv.gz", gzipped(CSV) + b"rubbish", "not a complete gzip file"),
        ("a.json.gz", gzipped(json.dumps([{"query": "a"}] * 9).encode())[:-9], "not a complete gzip file"),
        ("a.parquet", PARQUET.getvalue()[:-40], "no readable parquet file"),
        ("a.parquet", PARQUET.getvalue()[40:], "cannot be read|no readable"),
        ("a.parquet", b"query\none\n", "no readable parquet file"),
        ("a.jsonl.gz", POINTER, "a Git LFS pointer"),
    ],
)
def test_a_file_that_cannot_be_read_in_full_is_refused_by_all(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    for read in (
        lambda: list(read_rows(file)),
        lambda: list(QueryLog(str(file)).queries()),
        lambda: list(HubDataset(str(file)).queries()),
        lambda: records("k", str(file), {"query": (str,)}),
        lambda: texts_of(["encode", "m", "--file", str(file), "--column", "query"]),
    ):
        with pytest.raises(InputError, match=message):
            read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", POINTER, "a Git LFS pointer"),
        ("a", POINTER, "a Git LFS pointer"),
        ("a.txt", "one\n".encode("utf-16"), "utf-16 text by its byte order mark"),
        ("a.xlsx", b"PK\x03\x04" + bytes(99), "a zip archive"),
        ("a.txt.gz", b"one\n", "no gzip file"),
    ],
)
def test_lines_of_what_is_no_text_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        texts_of(["encode", "m", "--file", str(tmp_path / name)])
    (tmp_path / "b.txt.gz").write_bytes(gzipped(b"one\r\n\ntwo"))
    assert texts_of(["encode", "m", "--file", str(tmp_path / "b.txt.gz")]) == ["one", "", "two"]


def test_missing_values_inside_of_others_are_none(tmp_path: Path) -> None:
    rows = [{"q": {"text": float("nan"), "list": [float("nan"), 1.0]}}]
    for name in ("a.jsonl", "a.json", "a.parquet"):
        assert [row for _, row in read_rows(write(tmp_path / name, rows))] == [{"q": {"text": None, "list": [None, 1]}}]
        log = QueryLog(str(tmp_path / name), "q.text")
        assert [row.query for row in log.rows()] == [None]


def test_files_without_rows_are_skipped_by_all(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("other\n")
    (tmp_path / "b.jsonl").write_text("\n \n")
    (tmp_path / "c.json").write_text("[]")
    (tmp_path / "d.parquet").touch()
    empty = pyarrow.table({"other": pyarrow.array([], pyarrow.string())})
    pyarrow.parquet.write_table(empty, tmp_path / "e.parquet")
    for source in (QueryLog, HubDataset):
        with pytest.raises(InputError, match="is empty"):
            source(str(tmp_path))
    (tmp_path / "f.csv").write_text("query\none\n")
    for source in (QueryLog, HubDataset):
        assert [row.query for row in source(str(tmp_path)).rows()] == ["one"]
    assert records("k", str(tmp_path), {"query": (str,)}) == [{"query": "one"}]


def test_compressions_that_are_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"query": "a"}\n')
    (tmp_path / "notes.zip").touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.jsonl").write_text('{"query": "b"}\n')
    for source in (QueryLog, HubDataset):
        assert [row.query for row in source(str(tmp_path)).rows()] == ["a", "b"]
    for name in ("c.jsonl.zst", "c.parquet.gz", "c.csv.zip"):
        (tmp_path / name).touch()
        for source in (QueryLog, HubDataset):
            with pytest.raises(InputError, match=f"{name} is compressed; unpack it"):
                source(str(tmp_path))
        (tmp_path / name).unlink()


def test_delimiters_and_encodings_for_all(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes('id;query\n1;"a;b"\n2;caf\u00e9\n'.encode("latin-1"))
    for source in (QueryLog, HubDataset):
        assert [row.query for row in source(str(file), encoding="latin-1", delimiter=";").rows()] == [
            "a;b",
            "caf\u00e9",
        ]
        with pytest.raises(InputError, match=r"it has id;query; if that is several, give the file's delimiter"):
            source(str(file), encoding="latin-1")
    options = ["--column", "query", "--delimiter", ";", "--encoding", "latin-1"]
    assert texts_of(["encode", "m", "--file", str(file), *options]) == ["a;b", "caf\u00e9"]
    file.write_text("query\tb\none\t1\n")
    assert [row["query"] for _, row in read_rows(file, delimiter="\\t")] == ["one"]
    for wrong in ("", '"', "\n", "ab"):
        if wrong:
            with pytest.raises(InputError, match="expected one character"):
                list(read_rows(file, delimiter=wrong))


@pytest.mark.parametrize("seed", range(5))
def test_random_tables_are_read_row_by_row_or_refused(tmp_path: Path, seed: int) -> None:
    """Every row that a writer wrote is read once, in every format that can hold it."""
    draw = random.Random(seed)
    signs = [
        "a",
        " ",
        '"',
        ",",
        "\t",
        ";",
        "\n",
        "\r",
        "\r\n",
        "\u2028",
        "\x0c",
        "\ufeff",
        "\u00e9",
        "[",
        "{",
        "\\",
        "",
    ]
    rows = [
        {
            "query": "x" + "".join(draw.choices(signs, k=draw.randint(0, 6))),
            "b": "".join(draw.choices(signs, k=3)) + ".",
        }
        for _ in range(200)
    ]
    for name in ("a.csv", "a.csv.gz", "a.jsonl", "a.json", "a.json.gz", "a.parquet"):
        (tmp_path / name).unlink(missing_ok=True)
        file = write(tmp_path / name, rows)
        if ".csv" in name:
            text = io.StringIO()
            table = csv.DictWriter(text, ["query", "b"], lineterminator=draw.choice(["\n", "\r\n"]))
            table.writeheader()
            table.writerows(rows)
            content = text.getvalue().encode()
            file.write_bytes(gzipped(content) if file.suffix == ".gz" else content)
        assert [row for _, row in read_rows(file)] == rows, name
        found = readers(file)
        assert found == dict.fromkeys(found, [row["query"] for row in rows]), name


@pytest.mark.parametrize(
    ("name", "content", "rows", "lines"),
    [
        (
            "a.jsonl",
            b'{"q": "one"}\n{broken\n[1]\n{"q": "caf\xe9"}\n{"q": "a", "q": "b"}\n{"q": "two"}\n',
            ["one", "two"],
            [2, 3, 4, 5],
        ),
        ("a.csv", b'q,b\none,1\ntwo\n"x"y,2\n"l\xe9\nl",3\n"three\nfour",5\n', ["one", "three\nfour"], [3, 4, 5]),
        ("a.tsv", b"q\tb\none\t1\ntwo\nca\xe9\t2\nthree\t3\n", ["one", "three"], [3, 4]),
    ],
)
def test_broken_lines_can_be_passed_over_with_their_numbers(tmp_path, name, content, rows, lines) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    errors: list[InputError] = []
    assert [row["q"] for _, row in read_rows(file, broken=errors.append)] == rows
    assert [int(str(error).split(":")[1].split()[0]) for error in errors] == lines
    with pytest.raises(InputError, match=f"{name}:{lines[0]} "):
        list(read_rows(file))


def test_a_quote_that_hides_the_rest_is_never_passed_over(tmp_path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('q,b\none,1\n"two,2\nthree,3\n')
    with pytest.raises(InputError, match="a.csv:3 is no row"):
        list(read_rows(file, broken=lambda error: None))
