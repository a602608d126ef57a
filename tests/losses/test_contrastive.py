"""In-batch contrastive term by a plain loop, and on two ranks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.contrastive import ContrastiveLoss
from llm2vec_gen.losses.in_batch import row_keys
from llm2vec_gen.types import Batch, EncoderOutput
from tests.losses.ranks import in_one, on_two_ranks


def rows(count: int = 6, size: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    both = torch.randn(2, count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    both[1, 3] = both[1, 1]  # the same completion twice
    return both[0], both[1]


def loss_of(embedding: Tensor, targets: Tensor, **arguments: object) -> Tensor:
    output = EncoderOutput(torch.zeros(len(embedding), 1, 1), embedding)
    return ContrastiveLoss(**arguments)(None, output, Batch([], [], [], targets))  # type: ignore[arg-type]


def by_loop(embedding: Tensor, targets: Tensor, temperature: float, symmetric: bool = False) -> float:
    def cosine(one: Tensor, other: Tensor) -> float:
        return float(one @ other / (one.norm() * other.norm()))

    total = 0.0
    for i in range(len(embedding)):
        others = [j for j in range(len(targets)) if j == i or not torch.equal(targets[i], targets[j])]
        ways = [[cosine(embedding[i], targets[j]) for j in others]]
        if symmetric:
            ways.append([cosine(targets[i], embedding[j]) for j in others])
        for scores in ways:
            own = scores[others.index(i)]
            total -= own / temperature - math.log(sum(math.exp(score / temperature) for score in scores))
    return total / len(embedding) / (2 if symmetric else 1)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_loss_is_that_of_a_plain_loop(temperature: float, symmetric: bool) -> None:
    embedding, targets = rows()
    found = loss_of(embedding, targets, temperature=temperature, symmetric=symmetric)
    assert found.item() == pytest.approx(by_loop(embedding, targets, temperature, symmetric), rel=1e-12)


def one_way(leaves: list[Tensor]) -> Tensor:
    return loss_of(leaves[0], leaves[1].detach(), temperature=0.2)


def both_ways(leaves: list[Tensor]) -> Tensor:
    return loss_of(leaves[0], leaves[1].detach(), temperature=0.2, symmetric=True)


@pytest.mark.parametrize("compute", [one_way, both_ways])
def test_two_ranks_equal_one_process(compute, tmp_path: Path) -> None:
    leaves = list(rows())
    alone, together = in_one(compute, leaves), on_two_ranks(compute, leaves, tmp_path)
    assert together[0].item() == pytest.approx(alone[0].item(), rel=1e-12)
    assert torch.allclose(together[1][0], alone[1][0], rtol=1e-12, atol=1e-15)
    assert alone[1][0].abs().max() > 1e-3


def test_a_batch_of_one_is_refused() -> None:
    embedding, targets = rows(4)
    with pytest.raises(InputError, match=r"training\.batch_size=2 or more"):
        loss_of(embedding[:1].requires_grad_(), targets[:1])
    with torch.no_grad():  # the last batch of a validation may be one
        assert loss_of(embedding[:1], targets[:1]).item() == 0.0
    with pytest.raises(InputError, match=r"training\.batch_size=1: loss\.contrastive"):
        compose("loss=[alignment,reconstruction,contrastive]", "training.batch_size=1")
    compose("loss=[alignment,reconstruction,contrastive]", "loss.contrastive.weight=0", "training.batch_size=1")


@pytest.mark.parametrize("temperature", [0, -1, "warm", True, math.nan])
def test_a_temperature_is_over_0(temperature: object) -> None:
    with pytest.raises(InputError, match="temperature"):
        ContrastiveLoss(temperature=temperature)  # type: ignore[arg-type]


def test_equal_rows_alone_have_equal_keys() -> None:
    vectors = torch.randn(2000, 64, generator=torch.Generator().manual_seed(1))
    vectors[1000:] = vectors[:1000]
    keys = row_keys(vectors)
    assert torch.equal(keys[:1000], keys[1000:]) and len(keys.unique()) == 1000
    assert len(row_keys(torch.stack([vectors[0], vectors[0].flip(0), -vectors[0]])).unique()) == 3
