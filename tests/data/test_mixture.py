from __future__ import annotations

import math
from collections import Counter

import pytest

from llm2vec_gen.config import compose
from llm2vec_gen.data.base import QuerySource, Row
from llm2vec_gen.data.mixture import Mixture
from llm2vec_gen.data.quality import QualityFilter
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Query


class Source(QuerySource):
    def __init__(self, name, count, answers=False, **settings):
        super().__init__(has_answers=answers, **settings)
        self.name, self.count = name, count

    def rows(self):
        for number in range(self.count):
            yield Row(f"{self.name} {number}", f"answer {number}")


class Given(QuerySource):
    def __init__(self, *texts, **settings):
        super().__init__(**settings)
        self.texts = texts

    def rows(self):
        yield from map(Row, self.texts)


def names(mixture):
    return [query.id.partition("/")[0] for query in mixture.queries()]


def test_every_beginning_has_the_proportions_of_the_weights():
    weights = {"a": 1, "b": 2.5, "c": 0.5}
    mixture = Mixture({name: Source(name, 500) for name in weights}, weights, limit=400)
    found = names(mixture)
    assert len(found) == 400
    for rows in range(1, 401):
        counts = Counter(found[:rows])
        for name, weight in weights.items():
            assert abs(counts[name] - rows * weight / 4) <= 1, (rows, name)
    assert {name: mixture.report[f"from_{name}"] for name in weights} == dict(Counter(found)) == {
        "a": 100, "b": 250, "c": 50
    }  # fmt: skip


def test_rows_keep_the_order_of_their_source_and_ids_differ():
    mixture = Mixture({"x": Source("x", 2, answers=True), "y": Source("y", 2, answers=True)})
    assert list(mixture.queries()) == [
        Query("x/0", "x 0", "answer 0"), Query("y/0", "y 0", "answer 0"),
        Query("x/1", "x 1", "answer 1"), Query("y/1", "y 1", "answer 1"),
    ]  # fmt: skip
    assert list(mixture.queries()) == list(mixture.queries()), "the same rows in the same order each time"


def test_the_mixture_ends_with_the_first_source_that_runs_out_or_goes_on():
    sources = {"small": Source("small", 3), "large": Source("large", 50)}
    stopped = Counter(names(Mixture(sources, {"small": 1, "large": 2})))
    assert stopped == {"small": 3, "large": 7}  # the fourth of small would be due
    rest = names(Mixture(sources, {"small": 1, "large": 2}, "continue"))
    assert Counter(rest) == {"small": 3, "large": 50}
    assert Counter(rest[:10]) == stopped


def test_a_row_that_is_dropped_takes_no_ones_turn():
    other = Given("a 0", "a 1", *(f"b {number}" for number in range(9)))
    mixture = Mixture({"a": Source("a", 6), "b": other}, {"a": 1, "b": 1}, limit=8)
    assert Counter(names(mixture)) == {"a": 4, "b": 4}
    assert mixture.report["duplicate"] == 2
    half_short = Given(*(f"a {number} {'long enough' * (number % 2)}" for number in range(20)))
    filtered = Mixture({"a": half_short, "b": Source("longer", 50)}, quality=QualityFilter(5), limit=8)
    assert Counter(names(filtered)) == {"a": 4, "b": 4} and filtered.report["too_short"] == 4


def test_what_the_sources_drop_is_counted_by_source():
    sources = {
        "a": Given("hi", "a long query", "", quality=QualityFilter(min_characters=5)),
        "b": Given("x", "x", "y z"),
    }
    mixture = Mixture(sources, quality=QualityFilter(min_characters=3))
    assert names(mixture) == ["a", "b"]
    found = {name: count for name, count in mixture.report.items() if "/" in name}
    assert found == {"a/too_short": 1, "a/empty": 1, "b/duplicate": 1}
    assert mixture.report["too_short"] == 1  # the mixture's own filter
    assert names(mixture) == ["a", "b"] and mixture.report["a/too_short"] == 1  # counted anew


def test_skip_and_limit_count_over_all_sources():
    sources = {"a": Source("a", 20), "b": Source("b", 20)}
    everything = list(Mixture(sources, {"a": 3, "b": 1}, limit=12).queries())
    rest = Mixture(sources, {"a": 3, "b": 1}, skip=5, limit=7)
    assert list(rest.queries()) == everything[5:]
    assert rest.report["from_a"] + rest.report["from_b"] == rest.report["kept"] == 7


def test_answers_are_there_if_every_source_has_them():
    both = {"a": Source("a", 2, answers=True), "b": Source("b", 2)}
    assert all(query.answer is None for query in Mixture(both).queries())
    only = Mixture(both, {"a": 1, "b": 0})
    assert [query.answer for query in only.queries()] == ["answer 0", "answer 1"], "a weight of 0 leaves a source out"
    assert "from_b" not in only.report


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 0, "b": 0}, r"sum to nothing positive \(a 0, b 0\)"),
        ([1, 2], r"data.weights=\[1, 2\]: expected a weight for each source .*'data.weights=\{a: 1, b: 1\}', or null"),
        (1, "data.weights=1: expected a weight for each source"),
        ({"a": 1}, "no weight for the source b"),
        ({"a": 1, "b": 1, "c": 1}, "data.weights.c belongs to no source"),
        ({"a": -1, "b": 2}, "data.weights.a=-1"),
        ({"a": math.nan, "b": 2}, "data.weights.a=nan"),
        ({"a": math.inf, "b": 2}, "data.weights.a=inf"),
        ({"a": True, "b": 2}, "data.weights.a=True"),
        ({"a": "1", "b": 2}, "data.weights.a=1"),
        ({}, "no weight for the source a"),
    ],
)
def test_weights_that_cannot_work(weights, message):
    with pytest.raises(InputError, match=message):
        Mixture({"a": Source("a", 2), "b": Source("b", 2)}, weights)


def test_sources_that_cannot_work():
    with pytest.raises(InputError, match="names no source"):
        Mixture({})
    with pytest.raises(InputError, match="data.sources.a='queries.jsonl'"):
        Mixture({"a": "queries.jsonl"})
    with pytest.raises(InputError, match="a name without /"):
        Mixture({"a/b": Source("a", 1)})
    with pytest.raises(InputError, match="when_exhausted=repeat"):
        Mixture({"a": Source("a", 1)}, when_exhausted="repeat")


def test_the_command_line_names_sources_filters_and_weights(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"query": "what is red, please?"}\n{"query": "hi"}\n', encoding="utf-8")
    overrides = [
        "data=mixture", "+data@data.sources.log=query_log", f"data.sources.log.path={log}",
        "+data@data.sources.world=pocket", "data.weights={log: 1, world: 2}", "+quality@data.quality=default",
        "data.limit=3", f"paths.outputs={tmp_path}",
    ]  # fmt: skip
    plan = compose(*overrides)
    mixture = plan.build("data")
    assert Counter(names(mixture)) == {"log": 1, "world": 2}
    before = plan.artifact("complete").digest
    log.write_text('{"query": "what is blue, please?"}\n', encoding="utf-8")
    assert compose(*overrides).artifact("complete").digest != before, "files of sources count by their content"


class Contrasting(QuerySource):
    def __init__(self, name, answered=True):
        super().__init__(has_answers=True, has_negatives=True, has_negative_answers=answered)
        self.name = name

    def rows(self):
        for number in range(2):
            yield Row(f"{self.name} {number}", "yes", None, f"not {self.name} {number}", "no")


def test_hard_negatives_pass_through_where_all_sources_have_them():
    mixture = Mixture({"x": Contrasting("x"), "y": Contrasting("y")}, limit=2)
    assert list(mixture.queries()) == [
        Query("x/0", "x 0", "yes", Query("x/0/negative", "not x 0", "no")),
        Query("y/0", "y 0", "yes", Query("y/0/negative", "not y 0", "no")),
    ]
    unanswered = Mixture({"x": Contrasting("x"), "y": Contrasting("y", answered=False)}, limit=1)
    assert [query.negative for query in unanswered.queries()] == [Query("x/0/negative", "not x 0")]
    without = Mixture({"x": Contrasting("x"), "y": Source("y", 2, answers=True)}, limit=1)
    assert [query.negative for query in without.queries()] == [None]
