"""Alignment by hand arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.types import Batch, EncoderOutput, InputError


def loss_of(reduction: str, embedding: list[list[float]], targets: list[list[float]]) -> torch.Tensor:
    output = EncoderOutput(
        torch.zeros(len(embedding), 1, 1), torch.tensor(embedding, dtype=torch.float32, requires_grad=True)
    )
    return AlignmentLoss(reduction=reduction)(
        None, output, Batch([], [], [], torch.tensor(targets, dtype=torch.float32))
    )


def test_mean_divides_by_batch_and_dimensions() -> None:
    # squares 1, 4, 9 and 0, 0, 4: 18 over 2 x 3
    assert loss_of("mean", [[1, 2, 3], [0, 0, 2]], [[0, 0, 0], [0, 0, 0]]).item() == pytest.approx(3.0)


def test_sum_divides_by_the_batch_alone() -> None:
    assert loss_of("sum", [[1, 2, 3], [0, 0, 2]], [[0, 0, 0], [0, 0, 0]]).item() == pytest.approx(9.0)


def test_neither_side_is_normalised() -> None:
    assert loss_of("mean", [[2.0, 0.0]], [[1.0, 0.0]]).item() == pytest.approx(0.5)


def test_the_gradient_is_twice_the_difference_over_the_count() -> None:
    embedding = torch.tensor([[1.0, 2.0]], requires_grad=True)
    batch = Batch([], [], [], torch.tensor([[0.0, 5.0]]))
    AlignmentLoss()(None, EncoderOutput(torch.zeros(1, 1, 1), embedding), batch).backward()
    assert embedding.grad is not None
    assert embedding.grad.tolist() == [[1.0, -3.0]]  # 2 (1 - 0) / 2 and 2 (2 - 5) / 2


def test_targets_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(1, 2\).*\(1, 3\)"):
        loss_of("mean", [[1, 2, 3]], [[1, 2]])


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "much"])
def test_a_weight_is_a_number_of_0_or_more(weight: object) -> None:
    with pytest.raises(InputError, match="weight"):
        AlignmentLoss(weight=weight)  # type: ignore[arg-type]


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(InputError, match="expected mean or sum"):
        AlignmentLoss(reduction="max")
