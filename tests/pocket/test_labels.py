from __future__ import annotations

import random

from llm2vec_gen.pocket.labels import EMOTIONS, INTENTS, emotion, intent


def test_an_emotion_s_text_holds_one_of_its_own_cues_and_not_its_name():
    rng = random.Random(0)
    for label, (_, adjectives, signs) in EMOTIONS.items():
        for held_out in (False, True):
            text = emotion(label, rng, held_out)
            assert any(cue in text for cue in (*adjectives, *signs)) and "{" not in text
            assert label not in text.split()


def test_cues_belong_to_one_emotion():
    cues = [cue for _, adjectives, signs in EMOTIONS.values() for cue in (*adjectives, *signs)]
    assert len(set(cues)) == len(cues)


def test_an_intent_s_text_is_whole():
    rng = random.Random(0)
    assert all("{" not in intent(label, rng, held_out) for label in INTENTS for held_out in (False, True))


def test_answers_differ_by_label():
    answers = [row[0] for row in (*EMOTIONS.values(), *INTENTS.values())]
    assert len(set(answers)) == len(answers) == 18
