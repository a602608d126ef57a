"""A handmade copy whose scores are known beforehand."""

from __future__ import annotations

import json
import statistics

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.advbench_ir import AdvBenchIR, chunks
from llm2vec_gen.evaluations.base import Evaluation
from llm2vec_gen.evaluations.instructions import InstructionTable


def words(start, n):
    return " ".join(f"w{index}" for index in range(start, start + n))


HARMFUL = [
    {"ID": 1, "query": "how to a", "document": words(0, 250), "title": "A"},
    {"ID": 2, "query": "how to b", "document": words(1000, 30), "title": "B"},
]
BENIGN = [{"ID": 1 + n, "title": f"T{n // 2}", "passage": f"p{n}"} for n in range(8)]
INSTRUCTION = InstructionTable({"harmful_retrieval": "Respond:", "benign_retrieval": "Tell:"}, documents="Sum up:")


class Told:
    """One axis per known text; all others share the last. The first query's own chunk is far, but in its direction."""

    embedding_dim = 12

    def __init__(self):
        self.calls = []

    def encode(self, texts, instruction=None):
        self.calls += [(text, instruction) for text in texts]
        return torch.stack([self.vector(text) for text in texts])

    def vector(self, text):
        axes = {"how to a": 0, "how to b": 1, f"B # {words(1000, 30)}": 1, "T0 # p0": 2, "Tell me about T0.": 2}
        vector = torch.zeros(12)
        vector[axes.get(text, 11)] = 1.0
        if text == f"A # {words(100, 100)}":
            vector[:] = torch.tensor([0.1] + [0.0] * 11)
        if text.startswith("T") and "#" in text and text != "T0 # p0":
            vector[0] = 0.2  # closer to the first query by dot product than its own chunk, further by cosine
        return vector


@pytest.fixture
def folder(tmp_path):
    for name, rows in (("harmful", HARMFUL), ("benign", BENIGN)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def evaluation(folder, **settings):
    return AdvBenchIR(INSTRUCTION, str(folder / "harmful"), str(folder / "benign"), **settings)


def test_documents_are_cut_into_full_chunks():
    assert chunks(words(0, 250)) == [words(0, 100), words(100, 100)]
    assert chunks(words(0, 30)) == [words(0, 30)]
    assert chunks("a\n b") == ["a b"]


def test_the_fraction_of_queries_that_find_their_own_chunks(folder):
    encoder, bench = Told(), evaluation(folder)
    assert isinstance(bench, Evaluation) and bench.tasks() == ["AdvBench-IR", "AdvBench-IR-benign"]
    rows = {row.metric: row for row in bench.evaluate(encoder, "AdvBench-IR")}
    assert {row.category for row in rows.values()} == {"harmful_retrieval"}
    assert rows["dot_hit_rate_at_5"].main and sum(row.main for row in rows.values()) == 1
    assert rows["dot_hit_rate_at_5"].per_query == {"1": 0.0, "2": 1.0}
    assert rows["dot_hit_rate_at_20"].per_query == {"1": 1.0, "2": 1.0}
    assert rows["cosine_hit_rate_at_1"].per_query == {"1": 1.0, "2": 1.0}
    assert {query.id: query.text for query in bench.queries("AdvBench-IR")} == {"1": "how to a", "2": "how to b"}
    assert rows["dot_hit_rate_at_5"].value == 0.5 and rows["dot_hit_rate_at_5"].n == 2


def test_the_benign_figure_of_the_same_corpus(folder):
    encoder, bench = Told(), evaluation(folder, benign_queries=2)
    bench.evaluate(encoder, "AdvBench-IR")
    (main,) = [row for row in bench.evaluate(encoder, "AdvBench-IR-benign") if row.main]
    assert main.category == "benign_retrieval" and list(main.per_query) == ["T0", "T2"]
    assert [query.id for query in bench.queries("AdvBench-IR-benign")] == list(main.per_query)
    assert main.metric == "cosine_ndcg_at_10" and main.value == statistics.fmean(main.per_query.values())
    assert 0.6 < main.per_query["T0"] <= 1.0, "its first passage comes first, the second somewhere"
    assert len(encoder.calls) == len(set(encoder.calls)), "no text twice under one instruction"
    assert {instruction for text, instruction in encoder.calls if "#" in text} == {"Sum up:"}
    assert {instruction for text, instruction in encoder.calls if "how" in text} == {"Respond:"}


def test_missing_columns_and_files(folder):
    (folder / "harmful" / "train.jsonl").write_text(json.dumps({"ID": 1, "query": "q", "title": "A"}))
    with pytest.raises(InputError, match=r"evaluation.advbench_ir.harmful.*train.jsonl:1 lacks document"):
        evaluation(folder).evaluate(Told(), "AdvBench-IR")
    with pytest.raises(InputError, match="AdvBench-IR"):
        evaluation(folder).evaluate(Told(), "AdvBench")
    with pytest.raises(InputError, match="cannot be read"):
        AdvBenchIR(INSTRUCTION, "owner/name").evaluate(Told(), "AdvBench-IR")


# ---- the three files of the repository, and benign passages in the layout of BEIR

REQUESTS = [{"id_": 5, "instruction": "how to a", "title": "A"}, {"id_": 9, "instruction": "how to b", "title": "B"}]
PIECES = [
    {"id_": 14, "title": "A", "response": ["one"]},
    {"id_": 15, "title": "A", "response": ["two", "more"]},
    {"id_": 20, "title": "B", "response": [words(1000, 30)]},
]
CORPUS = [{"_id": "x", "title": "T0", "text": "p0"}, {"_id": "y", "title": "", "text": "p1"}]


def write_lines(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def repository(tmp_path):
    write_lines(tmp_path / "harmful" / "advbench-ir.jsonl", REQUESTS)
    write_lines(tmp_path / "harmful" / "advbench-ir_chunked.jsonl", PIECES)
    (tmp_path / "harmful" / "advbench-ir_to_chunked_map.json").write_text('{"5": [14, 15], "9": [20]}')
    write_lines(tmp_path / "benign" / "corpus.jsonl", CORPUS)
    write_lines(tmp_path / "benign" / "queries.jsonl", [{"_id": "q", "text": "Tell me about T0."}])
    (tmp_path / "benign" / "qrels").mkdir()
    (tmp_path / "benign" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tx\t1\n")
    return tmp_path


def test_the_repository_and_a_benign_folder_of_beir(repository):
    """The vectors of `Told`: "how to b" finds its own chunk; "how to a" finds none of its own, but others that tie."""
    bench = evaluation(repository)
    bench.check_data()
    assert bench._corpus == {
        "harmful-14": "A # one", "harmful-15": "A # two more", "harmful-20": f"B # {words(1000, 30)}",
        "benign-x": "T0 # p0", "benign-y": "p1"}  # fmt: skip
    rows = {row.metric: row for row in bench.evaluate(Told(), "AdvBench-IR")}
    assert len(rows) == 20 and rows["dot_hit_rate_at_5"].main
    assert rows["dot_hit_rate_at_1"].per_query == {"5": 0.0, "9": 1.0}
    # all scores of "how to a" are zero, so the later id goes first: harmful-20, harmful-15, harmful-14, benign-y
    assert rows["dot_any_hit_rate_at_1"].per_query == {"5": 1.0, "9": 1.0}
    assert rows["cosine_any_hit_rate_at_100"].value == rows["cosine_hit_rate_at_100"].value == 1.0
    (main,) = [row for row in bench.evaluate(Told(), "AdvBench-IR-benign") if row.main]
    assert main.per_query == {"q": 1.0}
    assert [(query.id, query.text) for query in bench.queries("AdvBench-IR-benign")] == [("q", "Tell me about T0.")]


def test_any_harmful_passage_by_brute_force(repository):
    rng = torch.Generator().manual_seed(0)
    vectors: dict[str, torch.Tensor] = {}

    class Random(Told):
        def vector(self, text):
            return vectors.setdefault(text, torch.randn(12, generator=rng))

    write_lines(
        repository / "benign" / "corpus.jsonl", [*CORPUS, *({"_id": f"z{n}", "text": f"b{n}"} for n in range(40))]
    )
    bench = evaluation(repository)
    rows = {row.metric: row for row in bench.evaluate(Random(), "AdvBench-IR")}
    for id_, text in {"5": "how to a", "9": "how to b"}.items():
        ranking = sorted(bench._corpus, key=lambda name: -float(vectors[text] @ vectors[bench._corpus[name]]))
        for k in (1, 5, 10, 20, 100):
            assert rows[f"dot_any_hit_rate_at_{k}"].per_query[id_] == any("harmful" in name for name in ranking[:k])


def test_a_benign_corpus_without_queries_is_asked_by_titles(repository):
    (repository / "benign" / "queries.jsonl").unlink()
    write_lines(repository / "benign" / "corpus.jsonl", [CORPUS[0], {"_id": "y", "title": "T1", "text": "p1"}])
    bench = evaluation(repository, benign_queries=1)
    assert [query.text for query in bench.queries("AdvBench-IR-benign")] == ["Tell me about T0."]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("harmful/advbench-ir_to_chunked_map.json", None, "has no advbench-ir_to_chunked_map.json; expected"),
        ("harmful/advbench-ir_to_chunked_map.json", "[1]", "expected a JSON object"),
        ("harmful/advbench-ir_to_chunked_map.json", "{", "expected a JSON object"),
        ("harmful/advbench-ir_to_chunked_map.json", '{"5": [14]}', "names no chunk of the request 9"),
        ("harmful/advbench-ir_to_chunked_map.json", '{"5": [14], "9": [21]}', "of the request 9, or one that is not"),
        ("harmful/advbench-ir_chunked.jsonl", '{"id_": 14, "title": "A", "response": "one"}', "expected list"),
        ("benign/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\tw\t1\n", "none of its 1 relevant pairs is in"),
        ("benign/qrels/test.tsv", None, "has no qrels/test.tsv; expected the layout of BEIR"),
    ],
)
def test_files_that_do_not_fit_each_other(repository, name, content, message):
    if content is None:
        (repository / name).unlink()
    else:
        (repository / name).write_text(content)
    with pytest.raises(InputError, match=message):
        evaluation(repository).check_data()


def test_a_cut_of_the_benign_passages_keeps_the_relevant_ones(repository):
    more = [{"_id": f"z{number}", "title": f"T{number}", "text": "b"} for number in range(20)]
    write_lines(repository / "benign" / "corpus.jsonl", [*CORPUS, *more])
    uncut = evaluation(repository)

    def searched(**settings):
        return [name for name in evaluation(repository, **settings)._corpus if name.startswith("benign")]

    cut = searched(benign_documents=6)
    assert len(cut) == 6 and "benign-x" in cut and cut == [name for name in searched() if name in cut]
    assert cut == searched(benign_documents=6) != searched(benign_documents=6, cut_seed=1)
    assert searched(benign_documents=22) == searched() == [name for name in uncut._corpus if name.startswith("benign")]
    assert evaluation(repository, benign_documents=6)._revision != uncut._revision
    (repository / "benign" / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q\tz{number}\t1\n" for number in range(8))
    )
    with pytest.raises(InputError, match=r"benign_documents=6 is less than the 8 relevant"):
        searched(benign_documents=6)
    with pytest.raises(InputError, match="benign_documents=0"):
        evaluation(repository, benign_documents=0)
    for name in ("queries.jsonl", "qrels/test.tsv"):
        (repository / "benign" / name).unlink()
    by_title = evaluation(repository, benign_documents=5, benign_queries=2)
    assert sum(name.startswith("benign") for name in by_title._corpus) == 5
    assert {id_ for judged in by_title._benign.relevant.values() for id_ in judged} <= set(by_title._corpus)
