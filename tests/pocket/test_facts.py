from __future__ import annotations

from collections import Counter

from llm2vec_gen.pocket.facts import ANSWERS, BRIDGES, KINDS, facts, left_out, mentions, two_hops


def test_the_world_is_large_enough():
    assert len({(fact.kind, fact.entity) for fact in facts()}) >= 60
    assert len(KINDS) >= 5
    assert all(len(attributes) >= 3 for _, _, attributes in KINDS.values())


def test_a_fact_states_its_entity_and_value():
    capital = next(fact for fact in facts() if fact.key == ("peru", "capital"))
    assert (capital.value, capital.answer) == ("lima", "the capital of peru is lima.")
    assert all(fact.mention in fact.answer and fact.value in fact.answer for fact in facts())


def test_no_two_facts_have_the_same_sentence():
    assert len({fact.answer for fact in facts()}) == len(facts()) >= 300


def test_entities_of_one_kind_are_named_once():
    assert all(len(set(mentions(kind))) == len(mentions(kind)) for kind in KINDS)


def test_two_hops_join_a_bridge_to_facts_about_its_value():
    chains = two_hops()
    assert len(chains) >= 150
    for bridge, target in chains:
        assert bridge.value == target.entity and target.kind == BRIDGES[bridge.attribute]
        assert bridge.mention not in target.answer


def test_left_out_is_a_fifth_of_every_attribute():
    chosen = Counter(attribute for _, attribute in left_out())
    total = Counter(fact.attribute for fact in facts())
    assert set(chosen) == set(ANSWERS)
    assert all(chosen[name] == round(0.2 * total[name]) for name in ANSWERS)
    assert left_out() == left_out.__wrapped__()
