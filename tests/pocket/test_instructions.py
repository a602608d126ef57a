from __future__ import annotations

from llm2vec_gen.pocket import instructions
from llm2vec_gen.pocket.world import lm_pairs


def test_join_strips_both_and_puts_one_space_between():
    assert instructions.join(" name it: ", " a text ") == "name it: a text"
    assert instructions.join(None, " a text ") == " a text "


def test_every_evaluation_instruction_is_a_skill_of_the_language_model():
    queries = [pair.query for pair in lm_pairs()]
    for text in {*instructions.QUERY.values(), instructions.DOCUMENT}:
        assert sum(query.startswith(text + " ") for query in queries) > 100
