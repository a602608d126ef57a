"""mteb's metrics on small sets in memory, against hand arithmetic."""

from __future__ import annotations

import math
import random
import socket

import numpy as np
import pytest
import torch

from llm2vec_gen.evaluations import mteb_tasks
from llm2vec_gen.evaluations.instructions import NoInstruction
from llm2vec_gen.evaluations.mteb_run import run_task, score_rows, side_effects_undone


class Table:
    """An encoder that looks each text up."""

    name = "table"

    def __init__(self, vectors):
        self.vectors = {text: torch.tensor(vector, dtype=torch.float32) for text, vector in vectors.items()}
        self.embedding_dim = len(next(iter(self.vectors.values())))

    def encode(self, texts, instruction=None):
        return torch.stack([self.vectors[text] for text in texts])


def angle(degrees):
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def rows_of(task, encoder, category, **more):
    run = run_task(task, encoder, NoInstruction(), category, **more)
    return {row.metric: row for row in score_rows(run, task, encoder, "suite", category, n=3, revision="r")}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a task in memory went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


DOCUMENTS = {"d1": "one", "d2": "two", "d3": "three", "d4": "four"}
VECTORS = {"one": angle(0), "two": angle(20), "three": angle(50), "four": angle(90), "q": angle(1), "p": angle(80)}


def test_retrieval_by_hand():
    task = mteb_tasks.InMemoryRetrieval(
        "r", {"q1": "q", "q2": "p"}, DOCUMENTS, {"q1": {"d2": 1, "d3": 1}, "q2": {"d4": 1}}
    )
    rows = rows_of(task, Table(VECTORS), "retrieval")
    first = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3))  # q1 ranks d1 d2 d3 d4
    row = rows["ndcg_at_10"]
    assert row.main and row.value == pytest.approx((first + 1) / 2, abs=1e-5)
    assert row.per_query == pytest.approx({"q1": first, "q2": 1.0}, abs=1e-6)
    assert rows["hit_rate_at_1"].value == pytest.approx(0.5)
    assert rows["hit_rate_at_1"].per_query == {"q1": 0.0, "q2": 1.0}
    assert [row.metric for row in rows.values() if row.main] == ["ndcg_at_10"]
    assert (row.encoder, row.task, row.category, row.split, row.n, row.data_revision) == (
        "table", "r", "retrieval", "test", 3, "r")  # fmt: skip


def test_reranking_ranks_only_the_candidates():
    task = mteb_tasks.InMemoryRetrieval(
        "r", {"q1": "q"}, DOCUMENTS, {"q1": {"d4": 1, "d2": 1}}, {"q1": ["d4", "d3", "d2"]}, "map_at_1000"
    )
    rows = rows_of(task, Table(VECTORS), "reranking")  # d2, d3, d4: precision 1/1 and 2/3
    assert rows["map_at_1000"].main and rows["map_at_1000"].value == pytest.approx((1 + 2 / 3) / 2, abs=1e-5)


def test_dot_and_cosine_rank_differently():
    vectors = {**VECTORS, "four": [100 * x for x in angle(89)]}
    for similarity, expected in (("cosine", 1.0), ("dot", 0.0)):
        task = mteb_tasks.InMemoryRetrieval("r", {"q1": "q"}, DOCUMENTS, {"q1": {"d1": 1}})
        rows = rows_of(task, Table(vectors), "retrieval", similarity=similarity)
        assert rows["hit_rate_at_1"].value == expected


def test_clustering_of_separate_groups_is_perfect_and_of_one_point_is_zero():
    texts = [f"{group} {n}" for group in "ab" for n in range(20)]
    near = Table({text: angle((0 if text[0] == "a" else 90) + int(text[2:]) / 10) for text in texts})
    labels = [text[0] for text in texts]
    assert rows_of(mteb_tasks.InMemoryClustering("c", texts, labels), near, "clustering")["v_measure"].value == 1.0
    generator = np.random.default_rng(0)
    noise = Table({text: generator.normal(size=2) for text in texts})
    assert rows_of(mteb_tasks.InMemoryClustering("c", texts, labels), noise, "clustering")["v_measure"].value < 0.3


def test_pair_classification_by_hand():
    first, second = ["one"] * 4, ["q", "two", "three", "four"]
    task = mteb_tasks.InMemoryPairClassification("p", first, second, [1, 0, 1, 0])
    row = rows_of(task, Table(VECTORS), "pair_classification")["max_ap"]
    assert row.main and row.value == pytest.approx((1 + 2 / 3) / 2)


def test_classification_of_separable_labels():
    texts = [f"{group} {n}" for group in "xyz" for n in range(12)]
    vectors = Table({text: np.eye(3)["xyz".index(text[0])] * 10 + int(text[2:]) / 100 for text in texts})
    train = [text for text in texts if int(text[2:]) < 8]
    test = [text for text in texts if int(text[2:]) >= 8]
    task = mteb_tasks.InMemoryClassification(
        "c", (train, [text[0] for text in train]), (test, [text[0] for text in test])
    )
    assert rows_of(task, vectors, "classification")["accuracy"].value == 1.0


def test_sts_is_the_rank_correlation():
    task = mteb_tasks.InMemorySTS("s", ["one"] * 4, ["q", "two", "three", "four"], [5, 4, 1, 2])
    row = rows_of(task, Table(VECTORS), "sts")["cosine_spearman"]
    assert row.main and row.value == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_summarization_is_the_mean_rank_correlation_over_texts():
    machine = [["q", "two", "four"], ["four", "two", "q"]]
    task = mteb_tasks.InMemorySummarization("s", ["text", "text"], [["one"], ["one"]], machine, [[5, 3, 1], [4, 1, 2]])
    row = rows_of(task, Table(VECTORS), "summarization")["cosine_spearman"]
    assert row.main and row.value == pytest.approx((1.0 + -0.5) / 2)


def test_the_callers_random_numbers_are_left_alone():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with side_effects_undone():
        task = mteb_tasks.InMemoryClustering("c", ["one", "two", "three", "four"], [0, 0, 1, 1])
        run_task(task, Table(VECTORS), NoInstruction(), "clustering")
    assert draw() == expected


def test_results_can_be_cached_in_a_folder(tmp_path):
    task = mteb_tasks.InMemorySTS("s", ["one"] * 3, ["q", "two", "four"], [5, 3, 1])
    run_task(task, Table(VECTORS), NoInstruction(), "sts", cache=tmp_path)
    assert [file.name for file in tmp_path.rglob("s.json")] == ["s.json"]
