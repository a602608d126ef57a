from __future__ import annotations

import json

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import Evaluation
from llm2vec_gen.evaluations.instructions import NoInstruction
from llm2vec_gen.evaluations.own_retrieval import OwnRetrieval

QUERIES = [{"_id": "q1", "text": "ab"}, {"_id": "q2", "text": "cc"}, {"_id": "q3", "text": "never judged"}]
CORPUS = [
    {"_id": "d1", "title": "a", "text": "b"},
    {"_id": "d2", "title": "", "text": "bb"},
    {"_id": "d3", "text": "ccc"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n"


class Letters:
    """How often a, b and c occur."""

    embedding_dim = 3

    def encode(self, texts, instruction=None):
        return torch.tensor([[float(text.count(letter)) for letter in "abc"] for text in texts]) + 1e-3


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, QUERIES)))
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, CORPUS)))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(QRELS)
    return tmp_path


def test_scores_by_hand(folder):
    bench = OwnRetrieval(NoInstruction(), str(folder), task="mine")
    assert isinstance(bench, Evaluation) and bench.tasks() == ["mine"]
    main, recall, first = bench.evaluate(Letters(), "mine")
    assert main.main and main.metric == "ndcg_at_10" and main.per_query["q1"] == 1.0
    assert 0 < main.per_query["q2"] < 1 and "q3" not in main.per_query
    assert recall.value == 1.0 and first.per_query == {"q1": 1.0, "q2": 0.0} and first.n == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\td1\tmuch", "no whole number"),
        ("q1\td1\t0", "judges 'd1' for the query 'q1' a second time"),
    ],
)
def test_judgements_that_do_not_fit(folder, line, message):
    (folder / "qrels" / "test.tsv").write_text(QRELS + line + "\n")
    with pytest.raises(InputError, match=rf"test.tsv:5.*{message}"):
        OwnRetrieval(NoInstruction(), str(folder)).evaluate(Letters(), "own_retrieval")


def test_ids_stand_once_and_texts_are_texts(folder):
    for row, message in (
        (CORPUS[0] | {"text": "else"}, "has the _id 'd1' of an earlier row"),
        ({"_id": "x", "text": ["a"]}, "expected str"),
    ):
        (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, [*CORPUS, row])))
        with pytest.raises(InputError, match=message):
            OwnRetrieval(NoInstruction(), str(folder)).evaluate(Letters(), "own_retrieval")


def test_errors_that_need_no_data_come_before_any_is_read(folder):
    with pytest.raises(InputError, match="similarity=euclid: expected cosine or dot"):
        OwnRetrieval(NoInstruction(), str(folder), similarity="euclid")
    with pytest.raises(InputError, match="has no qrels/dev.tsv"):
        OwnRetrieval(NoInstruction(), str(folder), split="dev").check_data()
    OwnRetrieval(NoInstruction(), str(folder)).check_data()


def test_missing_files_and_columns(folder):
    with pytest.raises(InputError, match=r"has no qrels/dev.tsv; expected the layout of BEIR"):
        OwnRetrieval(NoInstruction(), str(folder), split="dev").evaluate(Letters(), "own_retrieval")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t0\n")
    with pytest.raises(InputError, match="names no relevant document"):
        OwnRetrieval(NoInstruction(), str(folder)).evaluate(Letters(), "own_retrieval")
    (folder / "corpus.jsonl").write_text(json.dumps({"id": "d1", "text": "b"}))
    with pytest.raises(InputError, match="lacks _id; it has id, text"):
        OwnRetrieval(NoInstruction(), str(folder)).evaluate(Letters(), "own_retrieval")


def test_judgements_of_what_is_not_there_are_dropped_and_counted(folder, caplog):
    """As in the official ArguAna and NFCorpus folders."""
    plain = [score.value for score in OwnRetrieval(NoInstruction(), str(folder)).evaluate(Letters(), "own_retrieval")]
    (folder / "qrels" / "test.tsv").write_text(QRELS + "q9\td1\t1\nq1\td9\t1\n")
    found = OwnRetrieval(NoInstruction(), str(folder)).evaluate(Letters(), "own_retrieval")
    assert [score.value for score in found] == plain
    assert "2 of 5 judgements name a query or document that is not in the files; dropped" in caplog.text


def test_a_document_with_the_id_of_its_query_is_no_answer(folder):
    """As BEIR and mteb rank ArguAna, whose queries are documents."""
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "d3", "text": "ccc"}))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nd3\td2\t1\n")
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, [*CORPUS, {"_id": "d4", "text": "aab"}])))
    first = {
        flag: OwnRetrieval(NoInstruction(), str(folder), ignore_identical_ids=flag).evaluate(
            Letters(), "own_retrieval"
        )[0]
        for flag in (True, False)
    }
    assert first[True].value > first[False].value
    with pytest.raises(InputError, match="ignore_identical_ids=maybe"):
        OwnRetrieval(NoInstruction(), str(folder), ignore_identical_ids="maybe")


def test_titles_that_are_missing_or_no_text(folder):
    rows = ['{"_id": "d1", "title": NaN, "text": "paris"}', '{"_id": "d2", "title": null, "text": "b"}']
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    assert OwnRetrieval(NoInstruction(), str(folder))._data[1] == {"d1": "paris", "d2": "b"}
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "title": ["a"], "text": "paris"}')
    with pytest.raises(InputError, match="the title of 'd1' is a list; expected text"):
        OwnRetrieval(NoInstruction(), str(folder)).evaluate(Letters(), "own_retrieval")


def test_ids_are_compared_as_the_texts_they_become(folder):
    (folder / "corpus.jsonl").write_text('{"_id": 1, "text": "a"}\n{"_id": "1", "text": "b"}')
    with pytest.raises(InputError, match="has the _id '1' of an earlier row"):
        OwnRetrieval(NoInstruction(), str(folder)).evaluate(Letters(), "own_retrieval")


def test_an_official_folder_loads_with_what_does_not_fit_counted(tmp_path, caplog):
    """NFCorpus and ArguAna in small: metadata, empty titles and texts, other splits' queries, ids that stand on both
    sides, judgements of what is absent (also with a grade of their own kind), one judgement twice, a blank line."""
    corpus = [
        {"_id": "MED-1", "title": "aa", "text": "b", "metadata": {"url": "x"}},
        {"_id": "arg-con01a", "title": "", "text": "ccc", "metadata": {}},
        {"_id": "arg-con01b", "title": "", "text": "cc", "metadata": {}},
        {"_id": "MED-2", "title": "bb", "text": "", "metadata": {}},
    ]
    queries = [
        {"_id": "PLAIN-1", "text": "aa", "metadata": {"url": "y"}},
        {"_id": "arg-con01a", "text": "ccc", "metadata": {}},
        {"_id": "PLAIN-of-train", "text": "b", "metadata": {}},
    ]
    lines = [
        "query-id\tcorpus-id\tscore", "PLAIN-1\tMED-1\t2", "PLAIN-1\tMED-1\t2", "", "arg-con01a\targ-con01b\t1",
        "PLAIN-1\tMED-9\t1", "PLAIN-9\tMED-1\t1",
    ]  # fmt: skip
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("\r\n".join(lines) + "\r\n")
    main = OwnRetrieval(NoInstruction(), str(tmp_path)).evaluate(Letters(), "own_retrieval")[0]
    assert main.per_query == {"PLAIN-1": 1.0, "arg-con01a": 1.0}, "the query's own document is ignored"
    assert "2 of 5 judgements name a query or document that is not in the files; dropped" in caplog.text
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join([*lines, "PLAIN-1\tMED-1\t1"]))
    with pytest.raises(InputError, match=r"test.tsv:8 judges 'MED-1' .* a second time, and differently"):
        OwnRetrieval(NoInstruction(), str(tmp_path)).evaluate(Letters(), "own_retrieval")


def test_a_corpus_without_the_relevant_documents(folder):
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "d9", "text": "else"}))
    with pytest.raises(InputError, match="test.tsv: none of its 2 relevant pairs is in queries.jsonl and corpus.jsonl"):
        OwnRetrieval(NoInstruction(), str(folder)).check_data()


def test_a_cut_corpus_keeps_all_relevant_documents(folder):
    more = [{"_id": f"x{number}", "text": "abc"} for number in range(20)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, [*CORPUS, *more])))

    def searched(**settings):
        evaluation = OwnRetrieval(NoInstruction(), str(folder), **settings)
        evaluation.check_data()
        return list(evaluation._data[1])

    cut = searched(max_documents=7)
    assert len(cut) == 7 and {"d1", "d2"} <= set(cut) and cut == [one for one in searched() if one in cut]
    assert cut == searched(max_documents=7) != searched(max_documents=7, cut_seed=43)
    assert searched(max_documents=23) == searched(max_documents=100) == searched()
    with pytest.raises(InputError, match="less than the 2 relevant documents"):
        searched(max_documents=1)
