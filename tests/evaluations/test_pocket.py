"""The pocket's tasks end to end on encoders whose scores are known beforehand."""

from __future__ import annotations

import hashlib
import statistics
from dataclasses import asdict

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.instructions import NoInstruction, PocketInstruction
from llm2vec_gen.evaluations.pocket import Pocket
from llm2vec_gen.pocket import world
from llm2vec_gen.types import CATEGORIES, SAFETY_CATEGORIES


class Hashed:
    """A random but fixed vector per text, or per the label that `labels` gives a text: knows only what it is told."""

    embedding_dim = 32
    name = "hashed"

    def __init__(self, labels=None):
        self.labels = labels or {}
        self.calls = []

    def encode(self, texts, instruction=None):
        self.calls.append((list(texts), instruction))
        return torch.stack([self.vector(self.labels.get(text, text)) for text in texts])

    def vector(self, label):
        seed = int.from_bytes(hashlib.sha256(str(label).encode()).digest()[:6])
        return torch.randn(32, generator=torch.Generator().manual_seed(seed))


def oracle(data):
    """An encoder that puts each query onto its first relevant document."""
    labels = {text: document for document, text in data.corpus.items()}
    return Hashed(labels | {text: next(iter(data.relevant[query])) for query, text in data.queries.items()})


def main_of(rows):
    (row,) = [row for row in rows if row.main]
    return row


@pytest.fixture(scope="module")
def random_rows():
    evaluation = Pocket(PocketInstruction())
    return {task: evaluation.evaluate(Hashed(), task) for task in evaluation.tasks()}


def test_one_main_row_per_task_of_the_right_category(random_rows):
    assert tuple(random_rows) == CATEGORIES
    for task, rows in random_rows.items():
        row = main_of(rows)
        assert (row.evaluation, row.encoder, row.task, row.category) == ("pocket", "hashed", task, task)
        assert -1.0 <= row.value <= 1.0 and row.n > 0 and len(row.data_revision) == 16


def test_main_scores_are_mtebs(random_rows):
    names = {task: main_of(rows).metric for task, rows in random_rows.items()}
    assert names == {
        "retrieval": "ndcg_at_10",
        "reranking": "map_at_1000",
        "clustering": "v_measure",
        "pair_classification": "max_ap",
        "classification": "accuracy",
        "sts": "cosine_spearman",
        "summarization": "cosine_spearman",
        "harmful_retrieval": "cosine_hit_rate_at_5",
        "benign_retrieval": "ndcg_at_10",
        "reasoning": "ndcg_at_10",
    }


@pytest.mark.parametrize("task", ["retrieval", "reranking", *SAFETY_CATEGORIES])
def test_per_query_values_give_the_score(random_rows, task):
    row = main_of(random_rows[task])
    assert len(row.per_query) == row.n
    assert statistics.fmean(row.per_query.values()) == pytest.approx(row.value, abs=1e-5)


def test_scores_do_not_depend_on_what_ran_before(random_rows):
    again = {task: Pocket(PocketInstruction()).evaluate(Hashed(), task) for task in ("classification", "clustering")}
    for task, rows in again.items():
        assert [asdict(row) for row in rows] == [asdict(row) for row in random_rows[task]]


def test_a_perfect_retriever():
    row = main_of(Pocket(NoInstruction()).evaluate(oracle(world.retrieval_set()), "retrieval"))
    assert row.value == 1.0


def test_harmful_is_the_fraction_with_an_own_passage_in_the_top_five():
    data = world.harmful_set()
    rows = Pocket(NoInstruction()).evaluate(oracle(data), "harmful_retrieval")
    assert {row.metric: row.value for row in rows} == {"cosine_hit_rate_at_5": 1.0, "dot_hit_rate_at_5": 1.0}
    assert main_of(rows).metric == "cosine_hit_rate_at_5"


def test_harmful_by_brute_force():
    data, encoder = world.harmful_set(), Hashed()
    rows = {row.metric: row for row in Pocket(NoInstruction()).evaluate(encoder, "harmful_retrieval")}
    encoded = [text for texts, _ in encoder.calls for text in texts]
    assert len(encoded) == len(set(encoded)), "a text was encoded twice"
    documents, texts = list(data.corpus), list(data.corpus.values())
    vectors = Hashed().encode(texts)
    for name, scale in (("cosine", vectors.norm(dim=1)), ("dot", torch.ones(len(texts)))):
        hits = {}
        for query, text in data.queries.items():
            top = (vectors @ Hashed().encode([text])[0] / scale).topk(5).indices.tolist()
            hits[query] = float(any(documents[index] in data.relevant[query] for index in top))
        assert rows[f"{name}_hit_rate_at_5"].per_query == hits


def test_groups_are_means_over_their_queries(random_rows):
    data, rows = world.retrieval_set(), random_rows["retrieval"]
    groups = {row.subset: row for row in rows if row.subset != "default"}
    assert set(groups) == set(data.groups.values())
    assert not any(row.main for row in groups.values())
    for group, row in groups.items():
        mine = [main_of(rows).per_query[query] for query, name in data.groups.items() if name == group]
        assert row.value == pytest.approx(statistics.fmean(mine)) and row.n == len(mine)


def test_queries_and_documents_get_their_own_instruction():
    encoder = Hashed()
    Pocket(PocketInstruction()).evaluate(encoder, "reasoning")
    data = world.reasoning_set()
    sides = {instruction: set(texts) for texts, instruction in encoder.calls}
    assert sides == {
        world.QUERY_INSTRUCTIONS["reasoning"]: set(data.queries.values()),
        world.DOCUMENT_INSTRUCTION: set(data.corpus.values()),
    }


def test_unknown_task_suggests_names():
    with pytest.raises(InputError, match="reranking"):
        Pocket(NoInstruction()).evaluate(Hashed(), "rerankin")
