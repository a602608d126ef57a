"""Alignment by hand arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.types import Batch, EncoderOutput, TargetMoments


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


def by_variance(embedding: torch.Tensor, targets: torch.Tensor, variance: float) -> float:
    loss = AlignmentLoss(reduction="variance")
    loss.prepare(TargetMoments(targets.mean(0), torch.tensor([variance], dtype=torch.float64)))
    return loss(None, EncoderOutput(torch.zeros(len(embedding), 1, 1), embedding), Batch([], [], [], targets)).item()


@pytest.mark.parametrize(("scale", "dimensions"), [(1.0, 3), (0.05, 384), (40.0, 7)])
def test_one_by_variance_means_the_mean_whatever_the_teacher(scale: float, dimensions: int) -> None:
    targets = scale * torch.randn(500, dimensions, generator=torch.Generator().manual_seed(0)) + 3
    variance = float(targets.var(dim=0, unbiased=False).sum())
    predicted = targets.mean(dim=0).expand(500, -1)
    assert by_variance(predicted, targets, variance) == pytest.approx(1.0, rel=1e-4)
    assert by_variance(targets, targets, variance) == 0.0
    halfway = (predicted + targets) / 2
    assert by_variance(halfway, targets, variance) == pytest.approx(0.25, rel=1e-4)


def test_by_variance_needs_targets_that_differ() -> None:
    loss = AlignmentLoss(reduction="variance")
    with pytest.raises(InputError, match="all targets are the same vector"):
        loss.prepare(TargetMoments(torch.ones(3), torch.zeros(3)))
    with pytest.raises(InputError, match="call loss.prepare"):
        loss(None, EncoderOutput(torch.zeros(1, 1, 1), torch.ones(1, 3)), Batch([], [], [], torch.ones(1, 3)))


# ---- other distances


def of(embedding: list[list[float]], targets: list[list[float]], **arguments: object) -> float:
    given, wanted = torch.tensor(embedding), torch.tensor(targets)
    loss = AlignmentLoss(**arguments)  # type: ignore[arg-type]
    loss.prepare(TargetMoments(torch.zeros(given.shape[1]), torch.arange(1.0, given.shape[1] + 1)))  # 1, 2, 3, ...
    output = EncoderOutput(torch.zeros(len(given), 1, 1), given)
    return loss(None, output, Batch([], [], [], wanted)).item()


def test_cosine_is_one_minus_the_cosine_whatever_the_norms() -> None:
    found = of([[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, -5.0]], distance="cosine")
    assert found == pytest.approx((0.4 + 2.0) / 2)


def test_smooth_l1_is_quadratic_up_to_one_and_linear_beyond() -> None:
    given = [[0.5, 3.0], [0.0, -2.0]], [[0.0, 0.0], [0.0, 0.0]]  # 0.125, 2.5 and 0, 1.5
    assert of(*given, distance="smooth_l1", reduction="mean") == pytest.approx(4.125 / 4)
    assert of(*given, distance="smooth_l1", reduction="sum") == pytest.approx(4.125 / 2)
    unit = math.sqrt(1.5)  # V = 1 + 2 over two dimensions
    expected = (0.5 * (0.5 / unit) ** 2 + 3 / unit - 0.5 + 2 / unit - 0.5) / 4
    assert of(*given, distance="smooth_l1", reduction="variance") == pytest.approx(expected)


def test_small_differences_cost_half_of_their_squares_in_smooth_l1() -> None:
    given = [[0.1, 0.2, 0.3]], [[0.0, 0.1, 0.5]]
    for reduction in ("mean", "sum", "variance"):
        squared = of(*given, reduction=reduction)
        assert of(*given, reduction=reduction, distance="smooth_l1") == pytest.approx(squared / 2)


# ---- prefixes


def test_matryoshka_is_the_mean_over_the_prefixes_and_the_embedding() -> None:
    given = [[1.0, 2.0, 3.0, 4.0]], [[0.0, 0.0, 0.0, 2.0]]  # squares 1, 4, 9, 4
    assert of(*given, reduction="sum", matryoshka=[1, 3]) == pytest.approx((1 + 14 + 18) / 3)
    assert of(*given, reduction="mean", matryoshka=[1, 3]) == pytest.approx((1 + 14 / 3 + 18 / 4) / 3)
    assert of(*given, reduction="variance", matryoshka=[1, 3]) == pytest.approx((1 / 1 + 14 / 6 + 18 / 10) / 3)
    cosines = [1 - 0.0, 1 - 0.0, 1 - 8 / (math.sqrt(30) * 2)]  # the targets' prefixes are zero vectors
    assert of(*given, distance="cosine", matryoshka=[1, 3]) == pytest.approx(sum(cosines) / 3)


@pytest.mark.parametrize("prefixes", [[0], [-1, 2], [4], [2, 9], [2, 2], [3, 1], [1.5], "64", 64, [True]])
def test_prefixes_outside_the_range_are_refused(prefixes: object) -> None:
    with pytest.raises(InputError, match=r"loss\.alignment\.matryoshka"):
        of([[1.0, 2.0, 3.0, 4.0]], [[0.0, 0.0, 0.0, 2.0]], matryoshka=prefixes)


def test_a_prefix_that_never_varies_is_named() -> None:
    loss = AlignmentLoss(reduction="variance", matryoshka=[1])
    loss.prepare(TargetMoments(torch.zeros(2), torch.tensor([0.0, 1.0])))
    with pytest.raises(InputError, match="first 1 dimensions are the same"):
        loss(None, EncoderOutput(torch.zeros(1, 1, 1), torch.ones(1, 2)), Batch([], [], [], torch.ones(1, 2)))


def test_an_unknown_distance_is_refused() -> None:
    with pytest.raises(InputError, match="squared_error or smooth_l1 or cosine"):
        AlignmentLoss(distance="euclid")


# ---- of negatives and documents


def supervised() -> tuple[EncoderOutput, Batch]:
    def output(*rows: list[float]) -> EncoderOutput:
        embedding, documents = torch.tensor(rows[:2]), torch.tensor(rows[2:])
        return EncoderOutput(torch.zeros(2, 1, 1), embedding, documents=documents)

    both = output([1.0, 1.0], [1.0, 1.0], [2.0, 0.0], [0.0, 4.0])
    both.negatives = output([3.0, 0.0], [0.0, 5.0], [0.0, 0.0], [6.0, 0.0])
    batch = Batch([], [], [], torch.zeros(2, 2), Batch([], [], [], torch.ones(2, 2)))
    return both, batch


def test_negatives_and_documents_are_compared_with_their_own_targets() -> None:
    output, batch = supervised()
    # negatives against ones: 4 + 1 + 1 + 16; documents against zeros: 4 + 16, negatives' against ones: 1 + 1 + 25 + 1
    assert AlignmentLoss(of="queries")(None, output, batch).item() == 1.0
    assert AlignmentLoss(of="negatives")(None, output, batch).item() == pytest.approx(22 / 4)
    assert AlignmentLoss(of="documents")(None, output, batch).item() == pytest.approx((20 + 28) / 8)
    output.negatives = batch.negatives = None
    assert AlignmentLoss(of="documents")(None, output, batch).item() == pytest.approx(20 / 4)


def test_what_a_batch_lacks_is_named() -> None:
    output, batch = supervised()
    output.documents = output.negatives = None
    with pytest.raises(InputError, match="needs hard negatives"):
        AlignmentLoss(of="negatives")(None, output, batch)
    with pytest.raises(InputError, match="needs documents"):
        AlignmentLoss(of="documents")(None, output, batch)
    with pytest.raises(InputError, match=r"AlignmentLoss: of='answers'"):
        AlignmentLoss(of="answers")
    needs = {of: set(AlignmentLoss(of=of).needs) for of in ("queries", "negatives", "documents")}
    assert needs == {"queries": set(), "negatives": {"negatives"}, "documents": {"documents"}}


def test_targets_are_not_rounded_to_an_embedding_in_bfloat16() -> None:
    targets = 100 + torch.tensor([[0.1, 0.2, 0.3]])
    output = EncoderOutput(torch.zeros(1, 1, 1), torch.full((1, 3), 100, dtype=torch.bfloat16))
    loss = AlignmentLoss(reduction="sum")(None, output, Batch([], [], [], targets))
    assert loss.item() == pytest.approx(0.01 + 0.04 + 0.09, rel=1e-4)
