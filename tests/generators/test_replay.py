from __future__ import annotations

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.generators.base import Generator
from llm2vec_gen.generators.replay import Replay
from llm2vec_gen.types import Completion, Query


def test_answers_are_handed_on():
    replay = Replay()
    assert isinstance(replay, Generator)
    assert replay.complete([Query("b", "q", " yes\n"), Query("a", "r", "no")]) == [
        Completion("b", "q", "yes", "replay", 0, 0),
        Completion("a", "r", "no", "replay", 0, 0),
    ]
    assert replay.complete([]) == []
    assert replay.report["completions"] == 2


def test_a_query_without_answer_is_named():
    with pytest.raises(InputError, match=r"'x7' has no answer to replay.*data.answer_column"):
        Replay().complete([Query("a", "q", "yes"), Query("x7", "r")])
