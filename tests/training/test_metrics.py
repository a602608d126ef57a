from __future__ import annotations

import math

import pytest
import torch

from llm2vec_gen.training.metrics import IntervalMeans
from llm2vec_gen.training.module import observe
from llm2vec_gen.types import EncoderOutput


def test_cosines_and_norms_equal_a_loop_over_pairs() -> None:
    embeddings, targets = torch.randn(5, 7), torch.randn(5, 7)
    cosine = [[float(e @ t / (e.norm() * t.norm())) for t in targets] for e in embeddings]
    others = [cosine[i][j] for i in range(5) for j in range(5) if i != j]
    seen = observe(EncoderOutput(torch.zeros(5, 2, 7), embeddings), targets)
    assert float(seen["cosine_match"]) == pytest.approx(sum(cosine[i][i] for i in range(5)) / 5, abs=1e-6)
    assert float(seen["cosine_other"]) == pytest.approx(sum(others) / 20, abs=1e-6)
    assert float(seen["embedding_norm"]) == pytest.approx(sum(float(e.norm()) for e in embeddings) / 5, rel=1e-6)
    assert float(seen["target_norm"]) == pytest.approx(sum(float(t.norm()) for t in targets) / 5, rel=1e-6)
    assert "cosine_negative" not in seen
    negatives = targets[[1, 2, 3, 4, 0]]
    seen = observe(EncoderOutput(torch.zeros(5, 2, 7), embeddings), targets, negatives)
    assert float(seen["cosine_negative"]) == pytest.approx(sum(cosine[i][(i + 1) % 5] for i in range(5)) / 5, abs=1e-6)


def test_a_single_query_has_no_other_targets() -> None:
    seen = observe(EncoderOutput(torch.zeros(1, 2, 3), torch.ones(1, 3)), torch.ones(1, 3))
    assert float(seen["cosine_match"]) == pytest.approx(1)
    assert math.isnan(seen["cosine_other"])


def test_means_are_those_of_the_interval() -> None:
    means = IntervalMeans(("a", "b"))
    for a in (1.0, 2.0, 6.0):
        means.update({"b": torch.tensor(10 * a), "a": torch.tensor(a), "unused": torch.tensor(0.0)})
    assert means.compute().tolist() == [3, 30]
    means.reset()
    means.update({"a": torch.tensor(4.0), "b": torch.tensor(5.0)})
    assert means.compute().tolist() == [4, 5]


def test_an_interval_continues_from_its_saved_sums() -> None:
    whole, first, second = (IntervalMeans(("a", "b")) for _ in range(3))
    for step in range(7):
        values = {"a": torch.rand(()), "b": torch.rand(())}
        whole.update(values)
        if step == 3:
            second.restore(first.saved(), keep=True)
        (first if step < 3 else second).update(values)
    assert second.compute().tolist() == whole.compute().tolist()
    second.restore(first.saved(), keep=False)
    second.update({"a": torch.tensor(0.5), "b": torch.tensor(2.0)})
    assert second.compute().tolist() == [0.5, 2.0]
