"""Off-topic completions by hand."""

from __future__ import annotations

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.generators.base import Generator
from llm2vec_gen.generators.off_topic import OffTopic
from llm2vec_gen.generators.replay import Replay
from llm2vec_gen.types import Query

QUERIES = [Query(f"q{i}", f"query {i}", f"answer {i}") for i in range(400)]


class Source:
    def __init__(self, queries=QUERIES):
        self.report, self._queries = {}, queries

    def queries(self):
        return iter(self._queries)


def completed(fraction, seed=0, queries=QUERIES):
    generator = OffTopic(Replay(), Source(), fraction, seed)
    assert isinstance(generator, Generator)
    return generator.complete(queries), generator.report


def moved(completions):
    assert [(c.id, c.query) for c in completions] == [(q.id, q.text) for q in QUERIES]
    return {c.id for c in completions if c.completion != f"answer {c.id[1:]}"}


def test_a_part_gets_the_completions_of_others():
    found, report = completed(0.3)
    assert 90 <= len(moved(found)) <= 150 and report["off_topic"] == len(moved(found))
    assert report["completions"] == 400
    assert all(c.completion.startswith("answer ") for c in found)
    assert moved(completed(0.1)[0]) < moved(found) < moved(completed(0.5)[0])
    assert moved(completed(0.3, seed=1)[0]) != moved(found)


def test_the_ends():
    assert moved(completed(0)[0]) == set() and completed(0)[1]["off_topic"] == 0
    assert len(moved(completed(1)[0])) == 400


def test_a_completion_does_not_depend_on_the_company():
    found, _ = completed(0.5)
    again = OffTopic(Replay(), Source(), 0.5)
    parts = again.complete(QUERIES[:7]) + again.complete(QUERIES[7:])
    assert parts == found and again.report == completed(0.5)[1]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, True, "0.1", float("nan")])
def test_fractions_that_are_none(fraction):
    with pytest.raises(InputError, match=r"generator\.fraction="):
        OffTopic(Replay(), Source(), fraction)


def test_without_a_generator_or_data():
    with pytest.raises(InputError, match="needs generator.generator .what writes: None"):
        OffTopic(None, Source())
    with pytest.raises(InputError, match="and generator.queries .the data: None"):
        OffTopic(Replay(), None)


def test_a_single_query_has_no_other():
    with pytest.raises(InputError, match="one query alone"):
        OffTopic(Replay(), Source(QUERIES[:1]), 1.0).complete(QUERIES[:1])
