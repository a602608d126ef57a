"""Rankings against a plain sort, scores against trec_eval itself."""

from __future__ import annotations

import random

import pytest
import torch

from llm2vec_gen.evaluations import ranking
from llm2vec_gen.evaluations.ranking import Vectors, hit, ndcg, rank, recall


def random_vectors(prefix, n, seed):
    rows = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    return {f"{prefix}{index}": row for index, row in enumerate(rows)}


QUERIES, CORPUS = random_vectors("q", 7, 0), random_vectors("d", 40, 1)
draw = random.Random(0)
RELEVANT = {query: {document: draw.randint(0, 3) for document in draw.sample(sorted(CORPUS), 9)} for query in QUERIES}
EXCLUDED = {query: draw.sample(sorted(CORPUS), 5) for query in list(QUERIES)[:5]} | {"q0": ["d1", "not there"]}


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_rankings_are_those_of_a_plain_sort(similarity, monkeypatch):
    monkeypatch.setattr(ranking, "CHUNK", 3)
    found = rank(QUERIES, CORPUS, 12, similarity, EXCLUDED)
    for query, vector in QUERIES.items():
        length = (lambda x: x.norm()) if similarity == "cosine" else (lambda x: 1.0)
        scores = {id_: float(vector @ row / length(row) / length(vector)) for id_, row in CORPUS.items()}
        kept = [id_ for id_ in scores if id_ not in EXCLUDED.get(query, ())]
        assert found[query] == sorted(kept, key=lambda id_: -scores[id_])[:12]


def test_scores_are_those_of_trec_eval():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    found = rank(QUERIES, CORPUS, len(CORPUS))
    run = {query: {id_: float(-place) for place, id_ in enumerate(order)} for query, order in found.items()}
    measures = {"ndcg_cut.10", "recall.10", "success.5"}
    expected = pytrec_eval.RelevanceEvaluator(RELEVANT, measures).evaluate(run)
    for query, order in found.items():
        assert ndcg(order, RELEVANT[query]) == pytest.approx(expected[query]["ndcg_cut_10"])
        assert recall(order, RELEVANT[query]) == pytest.approx(expected[query]["recall_10"])
        assert hit(order, RELEVANT[query]) == expected[query]["success_5"]


def test_equal_scores_go_by_id_as_in_trec_eval():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    corpus = {id_: torch.ones(2) for id_ in ("a", "b", "c")}
    order = rank({"q": torch.ones(2)}, corpus, 3)["q"]
    assert order == ["c", "b", "a"]
    relevant, run = {"a": 1}, {"q": dict.fromkeys(corpus, 1.0)}
    expected = pytrec_eval.RelevanceEvaluator({"q": relevant}, {"ndcg_cut.10"}).evaluate(run)["q"]["ndcg_cut_10"]
    assert ndcg(order, relevant) == pytest.approx(expected)


def test_nothing_relevant_scores_nothing():
    assert ndcg(["a"], {"a": 0}) == recall(["a"], {}) == hit(["a"], {"a": 0}) == 0.0


class Counting:
    embedding_dim = 2

    def __init__(self):
        self.calls = []

    def encode(self, texts, instruction=None):
        self.calls.append((list(texts), instruction))
        return torch.tensor([[float(len(text)), 1.0 if text != "bad" else float("nan")] for text in texts])


def test_texts_are_encoded_once_per_encoder_and_instruction():
    one, shared = Counting(), Vectors()
    first = shared.of(one, {"x": "aa", "y": "b", "z": "aa"}, "i")
    assert first["x"].equal(first["z"]) and first["y"].tolist() == [1.0, 1.0]
    shared.of(one, {"x": "aa", "w": "ccc"}, "i")
    assert one.calls == [(["aa", "b"], "i"), (["ccc"], "i")]
    shared.of(one, {"x": "aa"}, None)
    other = Counting()
    shared.of(other, {"x": "aa"}, "i")
    assert len(one.calls) == 3 and other.calls == [(["aa"], "i")]


def test_vectors_that_are_not_finite():
    with pytest.raises(RuntimeError, match="1 of 2 texts; the first is 'bad'"):
        ranking.vectors(Counting(), ["a", "bad"], None)
