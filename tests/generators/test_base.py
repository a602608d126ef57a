from __future__ import annotations

import pytest

from llm2vec_gen.generators.base import paired_with_negatives, query_seed, with_negatives
from llm2vec_gen.generators.replay import Replay
from llm2vec_gen.types import Completion, Query


def test_query_seeds_follow_the_id_and_the_generators_seed():
    seeds = [query_seed(seed, Query(f"id{index}", "same text")) for seed in (0, 1) for index in range(500)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert query_seed(0, Query("id0", "other text")) == seeds[0]


def test_hard_negatives_are_completed_in_the_same_call_and_paired_again() -> None:
    rows = [Query("1", "a", "x", Query("1/negative", "b", "y")), Query("2", "c", "z", Query("2/negative", "d", "w"))]
    asked = with_negatives(rows)
    assert [query.id for query in asked] == ["1", "2", "1/negative", "2/negative"]
    assert paired_with_negatives(Replay().complete(asked)) == [
        Completion("1", "a", "x", "replay", negative_query="b", negative_completion="y"),
        Completion("2", "c", "z", "replay", negative_query="d", negative_completion="w"),
    ]
    assert with_negatives([Query("3", "e")]) == [Query("3", "e")]


def test_completions_with_a_thought_are_counted_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    generator = Replay()
    for _ in range(2):
        generator.complete([Query("1", "a", "<think>\nhm\n</think>\n\nx"), Query("2", "b", "<think> is a tag")])
        generator.complete([Query("3", "c", "I <think> so"), Query("4", "d", "hm\n</think>\n\nx")])
    assert generator.report["thoughts"] == 6
    assert len(caplog.records) == 1 and "enable_thinking: false" in caplog.text
    other = Replay()
    other.complete([Query("4", "d", "thinking")])
    assert "thoughts" not in other.report
