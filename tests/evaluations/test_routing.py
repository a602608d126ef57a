"""The choice of a router's threshold by brute force, and the rows that it leaves."""

from __future__ import annotations

import math
import random

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import Evaluation
from llm2vec_gen.evaluations.instructions import InstructionTable
from llm2vec_gen.evaluations.routing import RoutedQuery, Routing, choose, threshold_of
from llm2vec_gen.types import Query

HERE = f"{__name__}.Toy"
INSTRUCTION_OF_TOY = InstructionTable({"retrieval": "find:"})


class Toy(Evaluation):
    """40 queries; the score of a query is the vector that the encoder gives for it."""

    name = "toy"

    def __init__(self, instruction, per_query=True):
        super().__init__(instruction)
        self.per_query = per_query

    def tasks(self):
        return ["easy"]

    def category_of(self, task):
        return "retrieval"

    def queries(self, task):
        return [Query(f"q{number}", "x" * number) for number in range(1, 41)]

    def evaluate(self, encoder, task):
        texts = {query.id: query.text for query in self.queries(task)}
        vectors = encoder.encode(list(texts.values()), instruction=self.instruction.query(task, "retrieval"))
        values = dict(zip(texts, vectors[:, 0].tolist(), strict=True))
        row = self.row(encoder, task, values, category="retrieval", metric="m", main=True)
        return [row] if self.per_query else []


class Lengths:
    """Routes by the length of a text; one pass scores 1 up to 20 letters, HyDE always 0.5, 0.75 beyond 30."""

    embedding_dim, signal_name, threshold = 1, "length of toy", None

    def at(self, threshold):
        other = Lengths()
        other.threshold = threshold
        return other

    def signals(self, texts, instruction=None):
        return torch.tensor([float(len(text)) for text in texts])

    def costs(self, texts, instruction):
        return [len(text) for text in texts], [100 + len(text) for text in texts]

    def encode(self, texts, instruction=None):
        def score(size):
            return (0.75 if size > 30 else 0.5) if size >= self.threshold else float(size <= 20)

        return torch.tensor([[score(len(text))] for text in texts])


def routing(**settings):
    return Routing(INSTRUCTION_OF_TOY, {"toy": {"_target_": HERE, **settings.pop("toy", {})}}, **settings)


def test_rows_by_hand():
    rows = routing().evaluate(Lengths(), "routing")
    (main,) = [row for row in rows if row.main]
    (saved,) = [row for row in rows if row.metric == "chosen_threshold"]
    assert 20 < saved.value <= 24 and saved.subset == "length of toy", "the first validation query over 20 letters"
    sizes = {id_: int(id_.removeprefix("easy/q")) for id_ in main.per_query}
    assert main.per_query == {
        id_: (1.0 if size <= 20 else 0.0) if size < saved.value else (0.75 if size > 30 else 0.5)
        for id_, size in sizes.items()
    }
    assert 0 < len(sizes) < 40 and saved.n == 40 - len(sizes)
    points = {(row.subset, row.metric): row.value for row in rows}
    assert points["0.0", "hyde_fraction"] <= 1 / len(sizes) and points["1.0", "hyde_fraction"] >= 1 - 3 / len(sizes)
    mean = sum(sizes.values()) / len(sizes)
    chosen = points["chosen", "hyde_fraction"]
    assert points["chosen", "forward_tokens"] == pytest.approx(mean + 100 * chosen)
    assert all(math.isfinite(row.value) for row in rows)


def test_the_cheapest_of_the_best_thresholds_by_brute_force():
    draw = random.Random(3)
    for tolerance in (0.0, 0.1):
        rows = [
            RoutedQuery(str(i), draw.choice([1.0, 2.0, 3.5, 5.0]), draw.random(), draw.random(), 5, draw.randint(6, 90))
            for i in range(30)
        ]

        def outcome(threshold, rows=rows):
            hard = [row.signal >= threshold for row in rows]
            ways = list(zip(rows, hard, strict=True))
            return (
                sum(row.hyde if high else row.one_pass for row, high in ways) / len(rows),
                sum(row.hyde_tokens if high else row.one_pass_tokens for row, high in ways),
            )

        found = [outcome(threshold) for threshold in (1.0, 2.0, 3.5, 5.0, 6.0)]
        best = max(quality for quality, _ in found)
        cheapest = min(cost for quality, cost in found if quality >= best - tolerance)
        quality, cost = outcome(choose(rows, tolerance))
        assert cost == cheapest and quality >= best - tolerance


def test_thresholds_of_fractions():
    rows = [RoutedQuery(str(i), float(i), 0, 0, 1, 2) for i in range(10)]
    assert threshold_of(rows, 1.0) == 0.0 and threshold_of(rows, 0.3) == 7.0
    assert 9.0 < threshold_of(rows, 0.0) < math.inf


def test_what_cannot_be_routed():
    class Plain:
        embedding_dim = 1

    assert routing().evaluate(Plain(), "routing") == []
    with pytest.raises(InputError, match=r"toy's easy has no score for each"):
        routing(toy={"per_query": False}).evaluate(Lengths(), "routing")
    with pytest.raises(InputError, match=r"tasks=\['hard'\]: expected some of the tasks easy"):
        routing(tasks=["hard"])
    for wrong in ({"validation": 0}, {"validation": 1.0}, {"validation": True}, {"tolerance": -0.1}, {"tolerance": 1}):
        with pytest.raises(InputError, match=f"evaluation.routing.{next(iter(wrong))}="):
            routing(**wrong)
    with pytest.raises(InputError, match="evaluations names none"):
        Routing(InstructionTable({}), {"toy": None})
    with pytest.raises(InputError, match="evaluations names none"):
        Routing(InstructionTable({}), None)
    with pytest.raises(InputError, match="both need some"):
        routing(validation=1e-9).evaluate(Lengths(), "routing")


class Harmful(Toy):
    """The same with a second task in which lower is better."""

    def tasks(self):
        return ["easy", "harm"]

    def category_of(self, task):
        return "harmful_retrieval" if task == "harm" else "retrieval"


def test_tasks_in_which_lower_is_better_are_left_out_or_refused():
    toy = {"_target_": f"{__name__}.Harmful"}
    rows = Routing(INSTRUCTION_OF_TOY, {"toy": toy}).evaluate(Lengths(), "routing")
    assert {id_.partition("/")[0] for row in rows if row.main for id_ in row.per_query} == {"easy"}
    with pytest.raises(InputError, match="lower is better in toy's harm"):
        Routing(INSTRUCTION_OF_TOY, {"toy": toy}, tasks=["easy", "harm"]).evaluate(Lengths(), "routing")
