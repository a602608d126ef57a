from __future__ import annotations

import random

from llm2vec_gen.pocket.facts import facts
from llm2vec_gen.pocket.passages import FILLERS, passage


def test_a_passage_carries_its_fact_among_fillers():
    rng = random.Random(0)
    for fact in facts():
        text = passage(fact, rng)
        assert fact.mention in text and fact.value in text and "{" not in text
        assert text.count(".") >= 2 and fact.answer not in text


def test_fillers_never_name_the_passage_s_own_entity_as_another():
    rng = random.Random(1)
    gold = next(fact for fact in facts() if fact.key == ("gold", "use"))
    assert all(passage(gold, rng, held_out=True).count("gold") == 1 for _ in range(50))


def test_held_out_passages_use_held_out_fillers_only():
    rng = random.Random(2)
    plain = [template for template in FILLERS.train if "{o}" not in template]
    texts = [passage(fact, rng, held_out=True) for fact in facts()]
    assert not any(template in text for template in plain for text in texts)
