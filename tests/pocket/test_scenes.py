from __future__ import annotations

import random

import pytest

from llm2vec_gen.pocket.scenes import PARTS, Scene, retell, scene, story


def test_the_plain_sentence_uses_the_first_wording_of_every_part():
    assert Scene(0, 0, 0, 0).plain == "the child buys a lamp at the market."
    assert Scene(3, 3, 6, 5).plain == "the thief hides a bag in the cellar."


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_a_changed_scene_differs_in_so_many_parts(count):
    rng = random.Random(0)
    one = scene(rng)
    other = one.changed(rng, count)
    assert sum(a != b for a, b in zip(one.parts, other.parts, strict=True)) == count


def test_wordings_belong_to_one_entry():
    for part in PARTS:
        words = [word for entry in part for word in entry.split(" | ")]
        assert len(set(words)) == len(words)


@pytest.mark.parametrize("held_out", [False, True])
def test_retellings_and_stories_are_whole_sentences(held_out):
    rng = random.Random(0)
    for _ in range(100):
        one = scene(rng)
        for text in (retell(one, rng, held_out), story(one, rng, held_out)):
            assert "{" not in text and text.endswith(".") and text != one.plain
