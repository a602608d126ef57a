from __future__ import annotations

import pytest

from llm2vec_gen.data.pocket import Pocket
from llm2vec_gen.errors import InputError
from llm2vec_gen.pocket import world


def test_splits_are_the_worlds_pairs():
    heldout = {pair.id: pair for pair in world.heldout_queries()}
    queries = list(Pocket("heldout").queries())
    assert queries
    assert all(heldout[query.id].query == query.text and query.answer is None for query in queries)
    train = Pocket("train", limit=50)
    assert len(list(train.queries())) == 50
    assert not {query.text for query in train.queries()} & {query.text for query in queries}


def test_answers_are_handed_on_only_when_asked_for():
    pairs = {pair.id: pair.completion for pair in world.embedder_queries()}
    queries = list(Pocket("train", limit=20, answers=True).queries())
    assert all(query.answer == pairs[query.id] for query in queries)


def test_kinds():
    kind = world.heldout_queries()[0].kind
    kept = {query.id for query in Pocket("heldout", kinds=[kind]).queries()}
    assert kept <= {pair.id for pair in world.heldout_queries() if pair.kind == kind}
    with pytest.raises(InputError, match="no \\['nonsense'\\]"):
        Pocket("heldout", kinds=["nonsense"])
    with pytest.raises(InputError, match="data.split=none"):
        Pocket("none")
