from __future__ import annotations

import math
import re
from collections import Counter

import pytest

from llm2vec_gen.pocket import world
from llm2vec_gen.pocket.facts import left_out

RETRIEVAL = [world.retrieval_set, world.reranking_set, world.harmful_set, world.benign_set, world.reasoning_set]


def words(text: str) -> Counter:
    return Counter(re.findall("[a-z]+", text))


def shared_words_hits(found: world.RetrievalSet, k: int) -> float:
    """Share of queries with a relevant document in the top k by idf-weighted bags of words, cosine."""
    documents = {key: words(text) for key, text in found.corpus.items()}
    seen_in = Counter(word for bag in documents.values() for word in bag)
    idf = {word: math.log((1 + len(documents)) / (1 + count)) + 1 for word, count in seen_in.items()}

    def norm(bag: Counter) -> float:
        return math.sqrt(sum((count * idf.get(word, 0)) ** 2 for word, count in bag.items())) or 1.0

    hits = 0
    for key, text in found.queries.items():
        query = words(text)
        scores = {
            name: sum(count * bag[word] * idf.get(word, 0) ** 2 for word, count in query.items()) / norm(bag)
            for name, bag in documents.items()
        }
        best = sorted(scores, key=lambda name: -scores[name])[:k]
        hits += any(name in found.relevant[key] for name in best)
    return hits / len(found.queries)


@pytest.mark.parametrize("build", RETRIEVAL)
def test_retrieval_sets_are_seeded_and_refer_to_documents_that_exist(build):
    found = build()
    assert found == build() and found != build(seed=1)
    assert set(found.relevant) == set(found.queries) and set(found.answers) == set(found.corpus)
    assert all(set(names) <= set(found.corpus) and names for names in found.relevant.values())
    assert len(set(found.corpus.values())) == len(found.corpus)


@pytest.mark.parametrize("build", RETRIEVAL)
def test_no_query_or_document_was_seen_in_training(build):
    trained = " \n ".join(pair.query for pair in (*world.lm_pairs(), *world.embedder_queries()))
    found = build()
    assert not any(text in trained for text in (*found.queries.values(), *found.corpus.values()))


def test_retrieval_is_large_and_asks_for_left_out_facts_too():
    found = world.retrieval_set()
    assert len(found.queries) >= 150 and len(found.corpus) >= 250
    assert Counter(found.groups.values()) == {"seen": 120, "left out": 40}
    assert left_out()


def test_two_hop_answers_are_not_findable_by_shared_words():
    assert shared_words_hits(world.reasoning_set(), 1) < 0.05
    assert shared_words_hits(world.reasoning_set(), 10) < 0.25


def test_shared_words_find_harmful_passages():
    assert shared_words_hits(world.harmful_set(), 5) > 0.9


def test_reranking_offers_ten_candidates_with_the_right_one():
    found = world.reranking_set()
    for name, candidates in found.candidates.items():
        assert len(set(candidates)) == 10 and set(found.relevant[name]) < set(candidates) <= set(found.corpus)


def test_harmful_and_benign_queries_share_the_corpus():
    harmful, benign = world.harmful_set(), world.benign_set()
    assert harmful.corpus == benign.corpus
    assert all(name.startswith("harmful/") for names in harmful.relevant.values() for name in names)
    assert not any(name.startswith("harmful/") for names in benign.relevant.values() for name in names)


def test_labelled_sets_are_balanced_and_do_not_overlap():
    clustering = world.clustering_set()
    assert set(Counter(clustering.labels).values()) == {20}
    found = world.classification_set()
    assert not set(found.train.texts) & set(found.test.texts)
    assert len(set(found.train.labels)) == len(set(found.test.labels)) == 8
    assert min(Counter(found.train.labels).values()) >= 8


def test_pair_sets_hold_the_grades_they_promise():
    assert Counter(world.pair_classification_set().values) == {1.0: 50, 0.0: 50}
    assert Counter(world.sts_set().values) == dict.fromkeys((0.0, 1.25, 2.5, 3.75, 5.0), 20)


def test_machine_summaries_come_in_several_grades():
    found = world.summarization_set()
    assert len(found.texts) == 20
    assert all(sorted(grades) == [1.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 5.0] for grades in found.relevance)
    assert all(len(texts) == 8 for texts in found.machine_summaries)


def test_document_pairs_carry_the_document_instruction():
    pairs = world.document_pairs()
    assert all(pair.query.startswith(world.DOCUMENT_INSTRUCTION + " ") for pair in pairs)
    known = {pair.completion for pair in world.lm_pairs()}
    assert {pair.completion for pair in pairs} <= known
