"""A handmade copy whose scores are known beforehand."""

from __future__ import annotations

import json
import statistics

import pytest
import torch

from llm2vec_gen.evaluations.advbench_ir import AdvBenchIR, chunks
from llm2vec_gen.evaluations.base import Evaluation
from llm2vec_gen.evaluations.instructions import InstructionTable
from llm2vec_gen.types import InputError


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


def test_the_share_of_queries_that_find_their_own_chunks(folder):
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
