"""Documents of every kind of file, with ids, metadata and counted broken rows."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.index.corpus import Document, LocalCorpus
from llm2vec_gen.index.pocket_corpus import PocketCorpus

ROWS = [
    {"_id": "a", "text": "a cat", "year": 2020, "tags": {"lang": "en"}, "draft": True, "rating": 1},
    {"_id": "b", "text": "a dog", "year": 2021, "tags": {"lang": "de"}, "draft": False, "rating": 1.5},
    {"_id": "c", "text": "an owl", "year": None, "tags": {}, "draft": None, "rating": None},
]


def lines(*rows: object) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def test_jsonl_and_parquet_give_the_same_documents(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(lines(*ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    for name in ("c.jsonl", "c.parquet"):
        corpus = LocalCorpus(str(tmp_path / name), metadata=["year", "tags.lang", "draft", "rating"])
        assert corpus.metadata == {"year": "int", "tags_lang": "text", "draft": "bool", "rating": "float"}
        first, second, third = corpus.documents()
        assert first == Document(
            "a", "a cat", f"{tmp_path / name}:1", {"year": 2020, "tags_lang": "en", "draft": True, "rating": 1.0}
        )
        assert second.metadata == {"year": 2021, "tags_lang": "de", "draft": False, "rating": 1.5}
        assert set(third.metadata.values()) == {None}
        assert corpus.report == {"read": 3, "broken": 0, "blank": 0, "kept": 3}


def test_csv_columns_are_text_unless_a_type_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("key,body,year,ok\nx,one,2020,true\ny,two,,0\n")
    corpus = LocalCorpus(str(tmp_path / "c.csv"), "body", "key", metadata=["year:int", "ok:bool"])
    assert [(row.id, row.text, row.metadata) for row in corpus.documents()] == [
        ("x", "one", {"year": 2020, "ok": True}), ("y", "two", {"year": None, "ok": False})
    ]  # fmt: skip
    assert LocalCorpus(str(tmp_path / "c.csv"), "body", "key", metadata=["year"]).metadata == {"year": "text"}


def test_a_beir_folder_joins_titles_and_leaves_queries_out(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        lines({"_id": "1", "title": "Cats", "text": "sleep"}, {"_id": "2", "title": "", "text": "x"})
    )
    (tmp_path / "queries.jsonl").write_text(lines({"_id": "q", "text": "?"}))
    assert [(row.id, row.text) for row in LocalCorpus(str(tmp_path)).documents()] == [("1", "Cats sleep"), ("2", "x")]


def test_text_files_are_documents_in_a_folder_and_lines_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("one\n\ntwo\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.txt").write_text("three\n")
    assert [(row.id, row.text) for row in LocalCorpus(str(tmp_path)).documents()] == [
        ("b.md", "one\n\ntwo"),
        ("sub/a.txt", "three"),
    ]
    corpus = LocalCorpus(str(tmp_path / "b.md"))
    assert [(row.id, row.text) for row in corpus.documents()] == [("1", "one"), ("3", "two")]
    assert corpus.report["blank"] == 1
    with pytest.raises(InputError, match="needs columns"):
        LocalCorpus(str(tmp_path / "b.md"), metadata=["year"])


def test_files_of_a_folder_have_ids_that_differ(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(lines({"text": "x"}, {"text": "y"}))
    assert [row.id for row in LocalCorpus(str(tmp_path)).documents()] == [
        "a.jsonl:1",
        "a.jsonl:2",
        "b.jsonl:1",
        "b.jsonl:2",
    ]


def test_broken_rows_are_passed_over_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "c.jsonl"
    rows = [{"id": "a", "text": "one", "year": 1}, "{broken", {"id": "a", "text": "again", "year": 1},
            {"id": "b", "text": 5, "year": 1}, {"id": "c", "text": "x", "year": "soon"},
            {"id": [], "text": "x", "year": 1}, {"id": "d", "text": "  ", "year": 1},
            {"id": 7, "text": "last \ud800", "year": 2}]  # fmt: skip
    file.write_text(lines(*rows))
    corpus = LocalCorpus(str(file), metadata=["year:int"])
    with caplog.at_level(logging.WARNING):
        assert [(row.id, row.text) for row in corpus.documents()] == [("a", "one"), ("7", "last \ufffd")]
    assert corpus.report == {"read": 8, "broken": 5, "blank": 1, "kept": 2}
    assert [int(message.split("c.jsonl:")[1].split()[0].rstrip(":")) for message in caplog.messages] == [2, 3, 4, 5, 6]
    assert [row.id for row in corpus.documents()] == ["a", "7"], "the same again"
    assert [row.id for row in LocalCorpus(str(file), metadata=["year:int"], limit=1).documents()] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text_column": "body"}, "no column 'body'; it has id, text, year"),
        ({"id_column": "key"}, "no column 'key'"),
        ({"metadata": ["lang"]}, "no column 'lang'"),
        ({"metadata": ["year:date"]}, "expected a column, or column:type of text, int, float, bool"),
        ({"metadata": ["vector"]}, "a name that the index uses itself"),
        ({"metadata": ["a.b", "a-b"]}, "would have one name"),
        ({"limit": 0}, "corpus.limit=0"),
    ],
)
def test_wrong_settings_are_refused_when_built(tmp_path: Path, arguments: dict, message: str) -> None:
    (tmp_path / "c.jsonl").write_text(lines({"id": "1", "text": "x", "year": 1}))
    with pytest.raises(InputError, match=message):
        LocalCorpus(str(tmp_path / "c.jsonl"), **arguments)


def test_places_without_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        LocalCorpus(str(tmp_path / "none"))
    with pytest.raises(InputError, match="has no data file"):
        LocalCorpus(str(tmp_path))
    (tmp_path / "c.jsonl").write_text(lines({"text": " "}))
    with pytest.raises(InputError, match="no document to keep .1 read, 0 broken, 1 blank, 0 kept"):
        list(LocalCorpus(str(tmp_path)).documents())


def test_the_pocket_has_a_corpus() -> None:
    corpus = PocketCorpus()
    documents = list(corpus.documents())
    assert len(documents) == len({row.id for row in documents}) == corpus.report["kept"] == 300
    assert documents[0].metadata["attribute"] in documents[0].id
