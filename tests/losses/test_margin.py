"""Margin term by hand, by a plain loop, and on two ranks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.margin import MarginLoss
from llm2vec_gen.types import Batch, EncoderOutput
from tests.losses.ranks import in_one, on_two_ranks


def rows(count: int = 4) -> list[Tensor]:
    """Embeddings of queries and of negatives (B, E); with a margin of 3 some pairs are apart, some are not."""
    return list(torch.randn(2, count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def loss_of(leaves: list[Tensor], **arguments: object) -> Tensor:
    nothing = torch.zeros(len(leaves[0]), 1, 1)
    output = EncoderOutput(nothing, leaves[0])
    output.negatives = EncoderOutput(nothing, leaves[1]) if len(leaves) > 1 else None
    batch = Batch([], [], [], torch.zeros(0), Batch([], [], [], torch.zeros(0)))
    return MarginLoss(**arguments)(None, output, batch)  # type: ignore[arg-type]


def by_loop(leaves: list[Tensor], margin: float) -> float:
    candidates, total, terms = torch.cat(leaves), 0.0, 0
    for i, embedding in enumerate(leaves[0]):
        for j, candidate in enumerate(candidates):
            if j != i:
                total += max(0.0, margin**2 - float((embedding - candidate).square().sum()))
                terms += 1
    return total / terms


def test_one_query_and_its_negative_by_hand() -> None:
    # squared distance 1 + 4 = 5, margin 3: 9 - 5; gradient -2 (e - n)
    embedding, negative = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[0.0, 0.0]])
    loss = loss_of([embedding, negative], margin=3.0)
    assert loss.item() == pytest.approx(4.0)
    loss.backward()
    assert embedding.grad is not None and embedding.grad.tolist() == [[-2.0, -4.0]]
    assert loss_of([embedding, negative], margin=2.0).item() == 0.0  # farther apart than the margin


def test_the_loss_is_that_of_a_plain_loop() -> None:
    leaves = rows()
    assert 0 < by_loop(leaves, 2.0) < by_loop(leaves, 10.0)
    for margin in (2.0, 10.0):
        assert loss_of(leaves, margin=margin).item() == pytest.approx(by_loop(leaves, margin), rel=1e-12)
        found = loss_of(leaves[:1], margin=margin, hard_negatives=False).item()
        assert found == pytest.approx(by_loop(leaves[:1], margin), rel=1e-12)


def test_small_distances_between_long_vectors_are_exact() -> None:
    leaves = [torch.full((1, 4), 1000.0), torch.full((1, 4), 1000.5)]
    assert loss_of(leaves, margin=2.0).item() == pytest.approx(3.0)  # 4 - 4 * 0.25


def test_equal_embeddings_have_a_finite_gradient() -> None:
    leaves = [torch.ones(2, 3, requires_grad=True), torch.ones(2, 3)]
    loss_of(leaves).backward()
    assert leaves[0].grad is not None and leaves[0].grad.isfinite().all()


def near(leaves: list[Tensor]) -> Tensor:
    return loss_of(leaves, margin=2.0)


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    alone, together = in_one(near, rows()), on_two_ranks(near, rows(), tmp_path)
    assert together[0].item() == pytest.approx(alone[0].item(), rel=1e-12)
    for one, two in zip(alone[1], together[1], strict=True):
        assert one.abs().max() > 1e-2 and torch.allclose(one, two, rtol=1e-12, atol=1e-15)


def test_wrong_settings_and_a_batch_without_others_are_refused() -> None:
    for margin in (0, -1, math.inf, "far", True):
        with pytest.raises(InputError, match=r"loss\.margin\.margin"):
            MarginLoss(margin=margin)  # type: ignore[arg-type]
    assert MarginLoss().least_batch_size == 1 and MarginLoss(hard_negatives=False).least_batch_size == 2
    one = [torch.ones(1, 3, requires_grad=True)]
    with pytest.raises(InputError, match="batch_size=2"):
        loss_of(one, hard_negatives=False)
    with pytest.raises(InputError, match="needs hard negatives"):
        loss_of(one)
