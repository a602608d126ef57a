from __future__ import annotations

import random

import pytest

from llm2vec_gen.pocket import harm, labels, passages, scenes, wordings
from llm2vec_gen.pocket.facts import ANSWERS, BRIDGES, facts, two_hops

SPLITS = [
    wordings.FRAMES,
    *wordings.NOUN_PHRASES.values(),
    *wordings.BRIDGE_PHRASES.values(),
    *passages.CARRIERS.values(),
    passages.FILLERS,
    labels.ADJECTIVE_FRAMES,
    labels.SIGN_FRAMES,
    labels.INTENT_FRAMES,
    *(cues for _, cues in labels.INTENTS.values()),
    scenes.RETELLINGS,
    scenes.STORIES,
    harm.ASKING,
    harm.HARMFUL_TEXTS,
    harm.LOOK_ALIKE_TEXTS,
]


@pytest.mark.parametrize("one", SPLITS, ids=lambda one: one.train[0][:30])
def test_templates_are_held_out_from_training(one):
    assert len(one.train) > len(one.held_out) >= 2 or len(one.train) == 3
    assert not set(one.train) & set(one.held_out)
    assert len(set(one.train)) == len(one.train) and len(set(one.held_out)) == len(one.held_out)


def test_every_attribute_and_bridge_has_wordings():
    assert set(wordings.NOUN_PHRASES) == set(passages.CARRIERS) == set(ANSWERS)
    assert set(wordings.BRIDGE_PHRASES) == set(BRIDGES)


def test_split_reads_lines_and_bars():
    assert wordings.split("a b | c\n d", "e").train == ("a b", "c", "d")


def test_a_question_never_contains_its_answer():
    rng = random.Random(0)
    for fact in facts():
        text = wordings.question(fact, rng, held_out=True)
        assert fact.mention in text and "{" not in text
        assert f" {fact.value} " not in text.replace(fact.mention, "")


def test_a_two_hop_question_names_the_bridge_only():
    rng = random.Random(0)
    for bridge, target in two_hops():
        text = wordings.two_hop_question(bridge, target, rng)
        assert bridge.mention in text and "{" not in text
        assert target.entity not in text.replace(bridge.mention, "").split()
