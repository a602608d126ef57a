from __future__ import annotations

import json

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.records import ID, LIST, TEXT, records

ROWS = [{"id": "1", "text": "one, two"}, {"id": "2", "text": "three"}]


def write(file, rows=ROWS):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    elif file.suffix == ".jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        sign = "\t" if file.suffix == ".tsv" else ","
        quote = '"{}"' if sign == "," else "{}"
        lines = [sign.join(rows[0]), *(sign.join(quote.format(value) for value in row.values()) for row in rows)]
        file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format(tmp_path, ending):
    write(tmp_path / f"data.{ending}")
    assert records("k", str(tmp_path), {"id": ID, "text": TEXT}) == ROWS
    assert records("k", str(tmp_path / f"data.{ending}"), {"id": ID}) == ROWS


def test_configurations_and_splits(tmp_path):
    write(tmp_path / "examples" / "biology-00000-of-00002.jsonl", ROWS[:1])
    write(tmp_path / "examples" / "biology-00001-of-00002.jsonl", ROWS[1:])
    write(tmp_path / "examples" / "biology_two.jsonl")
    write(tmp_path / "documents" / "biology.jsonl", ROWS[1:])
    assert records("k", str(tmp_path), {"id": ID}, "examples", "biology") == ROWS
    assert records("k", str(tmp_path), {"id": ID}, "documents", "biology") == ROWS[1:]


def test_what_is_wrong_is_named(tmp_path):
    write(tmp_path / "data.jsonl", [ROWS[0], {"id": "2"}])
    with pytest.raises(InputError, match="data.jsonl:2 lacks text; it has id, expected the columns id, text"):
        records("evaluation.x.path", str(tmp_path), {"id": ID, "text": TEXT})
    with pytest.raises(InputError, match=r"there is no other.jsonl"):
        records("k", str(tmp_path), {"id": ID}, split="other")
    (tmp_path / "data.jsonl").write_text("\n")
    with pytest.raises(InputError, match="has no rows"):
        records("k", str(tmp_path), {"id": ID})
    (tmp_path / "data.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="holds a list; expected one JSON object per line"):
        records("k", str(tmp_path), {"id": ID})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "1", "gold": "x1"}', r"data.jsonl:1: gold is 'x1', expected list; a csv or tsv file cannot hold one"),
        ('{"id": ["1"], "gold": []}', "data.jsonl:1: id is .* expected str or int"),
        ('{"id": 7, "gold": []}\n{"id": 7, "gold": [1]}', "data.jsonl:2 has the id 7 of an earlier row"),
        ('{"id": 7, "gold": []}\n{"id": "7", "gold": [1]}', "data.jsonl:2 has the id '7' of an earlier row"),
        ('{"id": true, "gold": []}', "data.jsonl:1: id is 'True', expected str or int"),
        ('{"id": "\xe9"}', "data.jsonl:1 is not utf-8 text .*convert the file"),
    ],
)
def test_what_stands_in_the_columns_is_checked(tmp_path, content, message):
    (tmp_path / "data.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        records("k", str(tmp_path), {"id": ID, "gold": LIST}, unique="id")


def test_a_byte_order_mark_and_a_row_too_wide(tmp_path):
    (tmp_path / "data.csv").write_bytes(b"\xef\xbb\xbfid,text\n1,one\n")
    assert records("k", str(tmp_path), {"id": ID}) == [{"id": "1", "text": "one"}]
    (tmp_path / "data.csv").write_text("id\n1,one\n")
    with pytest.raises(InputError, match="data.csv:2 has 2 cells, the header 1"):
        records("k", str(tmp_path), {"id": ID, "text": TEXT})


def test_offline_the_error_names_how_to_provide_it():
    with pytest.raises(InputError, match="evaluation.x.path=owner/name .* cannot be read.*hf download"):
        records("evaluation.x.path", "owner/name", {"id": ID})
