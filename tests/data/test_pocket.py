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


def test_the_hard_negative_is_the_next_of_its_kind_with_another_completion():
    pairs = world.embedder_queries()
    queries = list(Pocket("train", answers=True, hard_negatives=True).queries())
    assert len(queries) == len(pairs)
    for place, query in list(enumerate(queries))[:300] + list(enumerate(queries))[-300:]:
        after = [*pairs[place + 1 :], *pairs[:place]]
        expected = next(
            other for other in after if other.kind == pairs[place].kind and other.completion != pairs[place].completion
        )
        assert query.negative is not None
        assert (query.negative.text, query.negative.answer) == (expected.query, expected.completion)
    assert next(iter(Pocket("train", hard_negatives=True).queries())).negative.answer is None  # type: ignore[union-attr]
    assert next(iter(Pocket("train").queries())).negative is None
    assert Pocket.gives_negatives({"hard_negatives": True}) and not Pocket.gives_negatives({"negatives": "mined"})
    with pytest.raises(InputError, match="data.hard_negatives=yes"):
        Pocket(hard_negatives="yes")  # type: ignore[arg-type]


def test_artifacts_of_the_pocket_keep_their_names():
    from llm2vec_gen.artifacts.identity import hashed_config

    node = {"_target_": "llm2vec_gen.data.pocket.Pocket", "split": "train"}
    assert hashed_config({**node, "hard_negatives": False}) == hashed_config(node)
    assert hashed_config({**node, "hard_negatives": True}) != hashed_config(node)
