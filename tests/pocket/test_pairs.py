from __future__ import annotations

import re
from collections import Counter

import pytest

from llm2vec_gen.pocket.facts import facts, left_out, two_hops
from llm2vec_gen.pocket.pairs import KINDS, embedder_queries, heldout_queries, lm_pairs

WRITERS = [lm_pairs, embedder_queries, heldout_queries]


@pytest.mark.parametrize("write", WRITERS)
def test_pairs_are_seeded_unique_and_of_every_kind(write):
    pairs = write(seed=0)
    assert pairs == write(seed=0)
    assert pairs != write(seed=1)
    assert len({pair.id for pair in pairs}) == len({pair.query for pair in pairs}) == len(pairs)
    assert min(Counter(pair.kind for pair in pairs)[kind] for kind in KINDS) >= 20


def test_there_are_several_thousand_pairs_with_many_different_answers():
    assert len(lm_pairs()) > 5000 and len(embedder_queries()) > 3000
    assert len({pair.completion for pair in lm_pairs()}) > 1000


def test_the_language_model_sees_every_fact_and_every_chain():
    pairs = lm_pairs()
    assert {fact.answer for fact in facts()} <= {pair.completion for pair in pairs if pair.kind == "fact"}
    assert {t.answer for _, t in two_hops()} == {pair.completion for pair in pairs if pair.kind == "two_hop"}


def test_the_embedder_never_sees_a_left_out_fact():
    hidden = {fact.answer for fact in facts() if fact.key in left_out()}
    assert not hidden & {pair.completion for pair in embedder_queries()}
    held = [pair for pair in heldout_queries() if pair.kind == "fact"]
    assert {pair.completion for pair in held if not pair.seen} == hidden & {pair.completion for pair in held}
    assert 10 <= sum(not pair.seen for pair in held) <= len(held) / 2


def test_held_out_queries_are_new_arrangements_of_known_words():
    trained = {pair.query for seed in range(2) for write in WRITERS[:2] for pair in write(seed)}
    held = {pair.query for seed in range(3) for pair in heldout_queries(seed)}
    assert not trained & held
    assert set(re.findall("[a-z]+", " ".join(held))) <= set(re.findall("[a-z]+", " ".join(trained)))


def test_a_query_has_one_answer():
    answers: dict[str, str] = {}
    for pair in (pair for seed in range(2) for write in WRITERS for pair in write(seed)):
        assert answers.setdefault(pair.query, pair.completion) == pair.completion
